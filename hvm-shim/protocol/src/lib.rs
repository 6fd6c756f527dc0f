//! The protocol between a hybrid runtime (HRT) and the virtual machine monitor that runs it beside
//! a regular OS (ROS): that of Palacios (vmm_hvm, vmm_multiboot), and our extensions.
//!
//! - [`boot`]: what an HRT image asks for, and what its CPUs find when they enter it.
//! - [`call`]: downcalls, from the HRT to the monitor; [`upcall`]: requests to the HRT.
//! - [`group`]: execution groups and their event channels.
//! - [`system_call`]: names of system calls.
//!
//! Both sides use these definitions, and neither trusts the other's data.
#![no_std]
#![forbid(unsafe_code)]

pub mod boot;
mod bytes;
pub mod call;
pub mod group;
pub mod ros_event;
pub mod system_call;
pub mod upcall;
