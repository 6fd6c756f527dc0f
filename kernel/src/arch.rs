//! The architecture the kernel is built for, part by part. `Cargo.toml` alone decides which crate
//! `arch` is.
//!
//! `use crate::arch::*` brings in the parts as types and their functions: `Core::cycles()`.

use arch::Machine;
use arch_contract::Architecture;
pub use arch_contract::{
    AddressSpace as _, Clock as _, ConsoleDevice as _, Contexts as _, Core as _, Debug as _, DebugLine as _, Ipi as _,
    Lines as _, Platform as _, TraceRing as _, Traps as _, Vectors as _,
};

/// The architecture's human-readable name.
pub const ARCHITECTURE: &str = Machine::NAME;
/// Default stack size of a thread, in bytes; a power of two.
pub const DEFAULT_STACK_SIZE: usize = Machine::DEFAULT_STACK_SIZE;

/// See [`arch_contract::Core`].
pub type Core = <Machine as Architecture>::Core;
/// See [`arch_contract::Contexts`].
pub type Contexts = <Machine as Architecture>::Contexts;
/// A suspended flow of control.
pub type Context = <Contexts as arch_contract::Contexts>::Context;
/// See [`arch_contract::Vectors`].
pub type Vectors = <Machine as Architecture>::Vectors;
/// See [`arch_contract::Traps`].
pub type Traps = <Machine as Architecture>::Traps;
/// See [`arch_contract::Ipi`].
pub type Ipi = <Machine as Architecture>::Ipi;
/// See [`arch_contract::Lines`].
pub type Lines = <Machine as Architecture>::Lines;
/// See [`arch_contract::Clock`].
pub type Clock = <Machine as Architecture>::Clock;
/// See [`arch_contract::AddressSpace`].
pub type AddressSpace = <Machine as Architecture>::AddressSpace;
/// See [`arch_contract::TraceRing`].
pub type TraceRing = <Machine as Architecture>::TraceRing;
/// See [`arch_contract::ConsoleDevice`].
pub type ConsoleDevice = <Machine as Architecture>::ConsoleDevice;
/// See [`arch_contract::Platform`].
pub type Platform = <Machine as Architecture>::Platform;
/// See [`arch_contract::Debug`].
pub type Debug = <Machine as Architecture>::Debug;
/// See [`arch_contract::DebugLine`].
pub type DebugLine = <Machine as Architecture>::DebugLine;
