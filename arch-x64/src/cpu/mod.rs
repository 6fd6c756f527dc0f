//! The CPU's parts of the contract, for every machine with this CPU.
//!
//! - [`model`]: this CPU, and where its models differ; [`block`]: its data behind GS;
//!   [`interrupts`]: its interrupt flag and halting; [`thread_pointer`]: FS base; [`identity`].
//! - [`context`]: the context switch. [`vectors`]: floating-point and vector state.
//! - [`trap`]: entry and exit of interrupts and exceptions, on the stacks of [`descriptors`];
//!   [`machine_check`]: hardware errors; [`system_call`]: SYSCALL from ring 0.
//! - [`apic`]: the local APIC; [`apic_clock`]: its timer. [`trace`]: the trace ring. [`debug`]:
//!   debug registers.
//! - [`paging`]: page tables, the direct map, write-xor-execute for the image; [`probe`]: memory
//!   accesses that may fail.

pub mod apic;
pub mod apic_clock;
pub mod block;
pub mod context;
pub mod debug;
pub mod descriptors;
pub mod identity;
pub mod interrupts;
pub mod machine_check;
pub mod model;
pub mod naked;
pub mod paging;
pub mod probe;
pub mod system_call;
pub mod thread_pointer;
pub mod trace;
pub mod trap;
pub mod vectors;

pub use apic::Ipi;
pub use context::Contexts;
pub use debug::Debug;
pub use model::{Core, Model, WithSse2};
pub use paging::AddressSpace;
pub use trace::TraceRing;
pub use trap::Traps;
pub use vectors::Vectors;
