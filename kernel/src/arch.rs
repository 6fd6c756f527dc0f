//! The architecture this kernel is built for: `Cargo.toml` decides which crate `arch` is, nothing else asks.

pub use arch::Machine;
pub use arch_contract::Architecture;

const fn fulfils_the_contract<A: Architecture>() {}
const _: () = fulfils_the_contract::<Machine>();
