//! The programs packed into the kernel's image.

use wire::packed;

use crate::boot;

/// What can be started.
pub type File = packed::Program<'static>;

/// The image's programs.
pub fn files() -> impl Iterator<Item = File> {
    packed::programs(boot::information().programs)
}
