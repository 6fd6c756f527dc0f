//! Downcalls: requests to the monitor.
//!
//! A downcall has [`MARK`] in RAX and [`SECOND_MARK`] in RBX, its number in RCX and arguments in
//! RDX, RSI, RDI and R8 to R11; its result comes back in RAX, [`FAILED`] for an error. It is
//! carried by the instruction VMMCALL or VMCALL, or by `out` of EAX to [`PORT`], which KVM hands to
//! user space.

/// RAX of a downcall.
pub const MARK: u64 = 0xf00d;
/// RBX of a downcall.
pub const SECOND_MARK: u64 = 0x6464_6464_6464_6464;
/// Result of a downcall that failed.
pub const FAILED: u64 = u64::MAX;
/// The I/O port that carries downcalls. It fits the instruction `out imm8, eax`, so no register is
/// needed for it.
pub const PORT: u8 = 0xdc;
/// The I/O port to which an HRT writes characters, one byte at a time (Palacios).
pub const CHARACTER_PORT: u16 = 0xc0c0;
/// The I/O port that tells the monitor of bytes in a ring; the value written means nothing. The CPU
/// stays in the HRT meanwhile.
pub const RINGS_PORT: u8 = 0xdf;

/// Vector and error code of the exception by which the kernel learns that the ROS refuses an access
/// of its own: a general protection fault (SDM Vol. 3A, table 6-1), with a code that is no segment
/// selector's index of ours. (KVM does not tell the address.)
pub const REFUSED_VECTOR: u8 = 13;
/// See [`REFUSED_VECTOR`].
pub const REFUSED_CODE: u32 = 0xf00d;

/// Numbers of Palacios's downcalls.
pub mod number {
    /// Does nothing.
    pub const NULL: u64 = 0x0;
    /// Resets the ROS.
    pub const RESET_ROS: u64 = 0x1;
    /// Resets the HRT.
    pub const RESET_HRT: u64 = 0x2;
    /// Resets both.
    pub const RESET_BOTH: u64 = 0x3;
    /// Replaces the HRT's image: a request of the ROS, which has it otherwise here.
    pub const REPLACE_IMAGE: u64 = 0x8;
    /// Posts an event for the ROS to serve. Argument: the virtual address of its record
    /// ([`crate::ros_event`]). One event at a time.
    pub const POST_EVENT: u64 = 0x10;
    /// Takes the result of the event that was posted, into its record. Fails until there is one.
    pub const ACKNOWLEDGE_EVENT: u64 = 0x1e;
    /// A call is done, on one CPU. Argument: its result (our extension).
    pub const INVOKE_DONE: u64 = 0x2f;
    /// The address spaces are merged, or no longer are. Argument: 0, or 1 if that failed (our
    /// extension).
    pub const MERGE_DONE: u64 = 0x3f;
    /// Has the ROS's function for signals called. Argument: a code that is not 0.
    pub const SIGNAL_ROS: u64 = 0x41;
}

/// Numbers of our extensions.
pub mod extension {
    /// Ends the HRT. Arguments: a [`super::Ending`], and the status for the ROS.
    pub const END: u64 = 0x1000;
    /// Lets the HRT see memory of the ROS, of which it has no window yet. Argument: the address.
    pub const OPEN_WINDOW: u64 = 0x1001;
    /// Answers [`crate::upcall::request::ADD_GROUP`]. Argument: 0, or 1 if that failed.
    pub const GROUP_ADDED: u64 = 0x1002;
    /// Hands over bytes of a file of the kernel. Arguments: a [`super::File`], the bytes' physical
    /// address in the HRT's own memory, and their number.
    pub const EXPORT: u64 = 0x1003;
    /// The image takes CPUs again that had a triple fault; see [`crate::boot::MAGIC_AGAIN`].
    pub const TAKES_CPUS_AGAIN: u64 = 0x1004;
    /// The kernel has crashed, and its crash file is complete. Its CPUs go on, for its prompt.
    pub const CRASHED: u64 = 0x1005;
    /// Answers [`crate::upcall::request::FIND_FUNCTION`]. Argument: the function's address, 0 if
    /// there is none.
    pub const FUNCTION: u64 = 0x1006;
}

/// A file that the kernel writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum File {
    /// The tracer's records.
    Trace = 0,
    /// A crash file.
    Crash = 1,
}

impl File {
    /// The file with a number.
    pub fn from_number(number: u64) -> Option<Self> {
        [Self::Trace, Self::Crash].into_iter().find(|&file| file as u64 == number)
    }
}

/// How an HRT ends itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Ending {
    /// It is switched off.
    PowerOff = 0,
    /// It wants to be booted again.
    Reboot = 1,
    /// It could not boot; it has said why on the console.
    CannotBoot = 2,
}

impl Ending {
    /// The ending with a number.
    pub fn from_number(number: u64) -> Option<Self> {
        [Self::PowerOff, Self::Reboot, Self::CannotBoot].into_iter().find(|&ending| ending as u64 == number)
    }
}
