//! Builds kernel images, the programs packed with them, and the media that boot them.
//!
//! - [`project`]: the project's directory, cargo and tools; [`scratch`]: temporary directories.
//! - [`image`]: the kernel's images; [`pack`]: packs a boot image; [`knc`], [`bzimage`]: the image
//!   for Knights Corner.
//! - [`program`]: programs, packed behind an image; [`c_program`], [`c_library`]: programs in C and
//!   C++; [`rust_crate`]: a crate compiled as code for programs; [`isa`]: the instruction sets that
//!   programs may use; [`header`]: the interface's C header.
//! - [`iso`]: a CD that boots an image; [`archive`]: an initial file system for Linux.
#![forbid(unsafe_code)]

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
pub mod runtime;
mod rust_crate;
pub mod scratch;

pub use image::{Image, Which};
pub use isa::Isa;
