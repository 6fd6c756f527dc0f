//! Building: kernel images, programs for them, and what carries both to a machine.
//!
//! - [`project`]: the project's directory, cargo, tools; [`scratch`]: files that are not kept.
//! - [`image`]: the kernel's images; [`pack`]: a boot image of one; [`knc`], [`bzimage`]: the one for Knights Corner.
//! - [`program`]: programs, packed behind an image; [`c_program`], [`c_library`]: those in C and C++; [`rust_crate`]: code for
//!   programs from a crate; [`isa`]: the instructions they may use; [`header`]: the interface in C.
//! - [`iso`]: a CD that boots an image; [`archive`]: an initial file system for Linux.

pub mod archive;
pub mod bzimage;
mod c_library;
mod c_program;
pub mod header;
pub mod image;
pub mod isa;
pub mod iso;
pub mod knc;
pub mod pack;
pub mod program;
pub mod project;
mod rust_crate;
pub mod scratch;

pub use image::{Image, Which};
pub use isa::Isa;
