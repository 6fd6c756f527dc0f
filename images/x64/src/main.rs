//! The Aerokernel for PCs.
#![no_std]
#![no_main]

extern crate alloc;

#[path = "../../common/mod.rs"]
mod common;

/// A PC has no services beside those of every image.
fn start_services() {}
