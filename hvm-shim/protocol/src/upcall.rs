//! Upcalls: requests to the HRT.
//!
//! The monitor writes a request and its argument to the communication page and interrupts the HRT's
//! first CPU at its vector. The HRT answers by a downcall. There is one request at a time.

use core::sync::atomic::AtomicU64;

/// The communication page.
#[repr(C)]
pub struct Page {
    /// The request; the HRT takes it by writing [`request::NULL`].
    pub request: AtomicU64,
    /// The request's argument.
    pub argument: AtomicU64,
    /// Room for the record of a call.
    pub record: Record,
}

/// The call of a function of the ROS in the HRT: what the argument of [`request::INVOKE`] and
/// [`request::INVOKE_ALL`] points to.
#[repr(C)]
pub struct Record {
    /// Address of the function, `extern "C" fn(argument: u64, cpu: u64) -> u64`.
    pub function: AtomicU64,
    /// Its first argument.
    pub argument: AtomicU64,
}

/// Requests.
pub mod request {
    /// None.
    pub const NULL: u64 = 0x0;
    /// Calls a function on the first CPU. Argument: address of a [`super::Record`]. The answer is
    /// [`crate::call::number::INVOKE_DONE`].
    pub const INVOKE: u64 = 0x20;
    /// Calls a function on all CPUs at once; each of them answers as above.
    pub const INVOKE_ALL: u64 = 0x21;
    /// Sets up synchronous mode: the first CPU polls the words of the last group's page from now
    /// on ([`crate::group::Synchronous`]). The answer is [`crate::call::number::INVOKE_DONE`].
    pub const SYNC_SETUP: u64 = 0x28;
    /// Ends synchronous mode; answered likewise.
    pub const SYNC_TEARDOWN: u64 = 0x29;
    /// Makes the lower half of the HRT's address space that of page tables of the ROS. Argument:
    /// physical address of their root. The answer is [`crate::call::number::MERGE_DONE`].
    pub const MERGE: u64 = 0x30;
    /// Makes the lower half empty again; answered likewise.
    pub const UNMERGE: u64 = 0x31;
    /// Starts the CPU of an execution group (our extension). Argument: the group's number; the
    /// CPU's id follows those of the HRT's own CPUs. The answer is
    /// [`crate::call::extension::GROUP_ADDED`].
    pub const ADD_GROUP: u64 = 0x1000;
    /// Looks up a function that the ROS's code may call by [`crate::group::function::GATE`] (our
    /// extension). Argument: address of a [`super::Record`] with the address of its name in the
    /// ROS's memory and the name's length. The answer is [`crate::call::extension::FUNCTION`].
    pub const FIND_FUNCTION: u64 = 0x1001;
}
