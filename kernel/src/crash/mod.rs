//! A machine that is stopped, by a crash or for a debugger: how it stops, and what can be done with it then.

pub mod debug;
pub mod export;
mod fault_text;
pub mod panic;
pub mod sandbox;
pub(crate) mod state;
