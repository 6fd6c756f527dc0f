//! Running unmodified Linux programs split: their code in the HRT, their system calls in Linux.
//!
//! A program is started by Linux itself ([`launch()`]), so that whatever Linux tells about a
//! process is right. Before its first instruction, the runtime of this crate is put into its memory
//! (`inject`): a static program (`runtime/`) that boots the HRT in the process and has the
//! program's thread go on there.

pub mod check;
mod inject;
mod launch;
pub mod overrides;
mod runtime_file;

pub use launch::{Program, launch};
