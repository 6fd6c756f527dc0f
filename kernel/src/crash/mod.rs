//! A machine stopped by a crash or for a debugger: stopping it, and working with it while it is
//! stopped.

pub mod debug;
pub mod export;
mod fault_text;
pub mod panic;
pub mod sandbox;
pub(crate) mod state;
