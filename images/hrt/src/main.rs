//! The Aerokernel as a hybrid runtime (HRT), beside Linux in a hybrid virtual machine.
#![no_std]
#![no_main]

extern crate alloc;

#[path = "../../common/mod.rs"]
mod common;

/// Serves the regular OS.
fn start_services() {
    transport::start();
}
