//! The instruction sets that programs may use.

use clap::ValueEnum;

/// The instruction set that a program may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Isa {
    /// SSE2, on every 64-bit CPU
    #[default]
    #[value(name = "x86-64")]
    V1,
    /// Up to SSE4.2
    #[value(name = "x86-64-v2")]
    V2,
    /// Up to AVX2 and FMA
    #[value(name = "x86-64-v3")]
    V3,
    /// Up to AVX-512
    #[value(name = "x86-64-v4")]
    V4,
}

impl Isa {
    /// Returns the name that compilers use for the instruction set.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "x86-64",
            Self::V2 => "x86-64-v2",
            Self::V3 => "x86-64-v3",
            Self::V4 => "x86-64-v4",
        }
    }
}
