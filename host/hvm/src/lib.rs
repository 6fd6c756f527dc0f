//! Hybrid virtual machines: boots an Aerokernel, the hybrid runtime (HRT), beside the calling Linux
//! process, the regular OS's side (ROS), on stock KVM.
//!
//! - [`Hvm`]: a running HVM; [`Builder`] describes and boots one.
//! - [`support`]: whether this machine's KVM can be used, and what is missing if not.
//! - [`error`]: what can fail. `image`: HRT images; `memory`: the HRT's memory; `windows`: what it
//!   sees of the process's; `boot_state`: what its CPUs find when they enter; `cpu`: a CPU and the
//!   thread that runs it; `state`: what the HRT is doing, and how it ends.
//! - [`program`]: threads of programs that live in the HRT.
//! - [`lines`]: its console, telemetry and debugger's line on sockets; `files`: what it writes.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use hvm::Hvm;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let image = std::fs::read("target/kernel/hrt/aerokernel-hrt.boot")?;
//! let hrt = Hvm::builder(&image).cpus(2).memory(64 << 20).command_line("run=uptime").boot()?;
//! let console = hrt.console()?;
//! match hrt.wait(Duration::from_secs(10)) {
//!     Some(end) => println!("{end}"),
//!     None => println!("{}", hrt.stop()),
//! }
//! print!("{}", String::from_utf8_lossy(&console.receive()?));
//! # Ok(())
//! # }
//! ```

mod bell;
mod boot_state;
mod core;
mod cpu;
mod descriptors;
pub mod error;
pub mod events;
mod files;
mod hardware;
mod hvm;
mod image;
mod kick;
pub mod lines;
mod memory;
mod partner;
mod partners;
pub mod program;
mod refused;
mod replay;
mod ros_events;
mod runner;
mod serve;
mod signal;
mod state;
pub mod support;
mod synchronous;
mod system_call;
mod vcpu;
mod windows;
mod workers;

pub use core::{Function, SignalHandler};
pub use error::Error;
pub use hvm::{Builder, Hvm};
pub use protocol::ros_event::RosEvent;
pub use signal::signal_ros;
pub use state::{CallError, End, Exception, Transaction};
pub use synchronous::Synchronous;
