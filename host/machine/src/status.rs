//! Exit statuses, the same for every command of `aero`.

/// Everything succeeded.
pub const DONE: u8 = 0;
/// A command or test failed.
pub const FAILED: u8 = 1;
/// The kernel crashed or hung.
pub const CRASHED: u8 = 3;
/// A tool is missing.
pub const MISSING_TOOL: u8 = 4;
/// The reader of our output has gone. A shell reports this status for a program that SIGPIPE ends.
pub const PIPE_CLOSED: u8 = 141;
