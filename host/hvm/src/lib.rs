//! Hybrid virtual machines: boots an Aerokernel, the hybrid runtime (HRT), beside the calling Linux
//! process, the regular OS's side (ROS), on stock KVM.
//!
//! - [`Hvm`]: a running HVM; [`Builder`] describes and boots one.
//! - [`support`]: whether this machine's KVM can be used, and what is missing if not.
//! - [`error`]: what can fail. `image`: HRT images; `memory`: the HRT's memory; `boot_state`: what
//!   its CPUs find when they enter; `cpu`: a CPU and the thread that runs it; `state`: how the HRT
//!   ends.
mod boot_state;
mod cpu;
pub mod error;
mod hvm;
mod image;
mod memory;
mod state;
pub mod support;

pub use error::Error;
pub use hvm::{Builder, Hvm};
pub use state::End;
