//! The programs packed into the kernel's image.

use wire::packed;

use crate::boot;

/// A packed program that can be started.
pub type File = packed::Program<'static>;

/// Returns the programs packed into the image.
pub fn files() -> impl Iterator<Item = File> {
    packed::programs(boot::information().programs)
}
