//! The Aerokernel for PCs.
#![no_std]
#![no_main]

extern crate alloc;

#[path = "../../common/mod.rs"]
mod common;
