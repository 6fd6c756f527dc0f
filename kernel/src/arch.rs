//! The architecture the kernel is built for. `Cargo.toml` alone decides which crate `arch` is.

pub use arch::Machine;
pub use arch_contract::Architecture;

const fn fulfils_the_contract<A: Architecture>() {}
const _: () = fulfils_the_contract::<Machine>();
