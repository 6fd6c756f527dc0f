//! The marks in a console's output and input that programs rely on.

/// The prompt if the last command succeeded, and when the kernel has come up.
pub const PROMPT: &str = "aero> ";
/// Precedes the output of the commands of `run=` (ASCII STX).
pub const START_OF_TEXT: u8 = 0x02;
/// Follows the output of the commands of `run=` (ASCII ETX); the exit status in decimal and a
/// newline come next.
pub const END_OF_TEXT: u8 = 0x03;
/// Precedes a crash report, which may interrupt that output (ASCII CAN).
pub const CANCEL: u8 = 0x18;
/// Precedes the line that states why the machine cannot run the kernel (ASCII NAK).
pub const NEGATIVE_ACKNOWLEDGE: u8 = 0x15;
/// Typed to interrupt a command (ASCII ETX).
pub const CONTROL_C: u8 = 0x03;
/// Logged when a debugger can attach.
pub const GDB_CAN_ATTACH: &str = "gdb can attach on the debugger's line";
/// Logged when the kernel waits for a debugger.
pub const WAITING_FOR_GDB: &str = "waiting for gdb on the debugger's line";
/// First line of a crash report.
pub const REPORT_START: &str = "*** Aerokernel crash report ***";
/// Last line of a crash report.
pub const REPORT_END: &str = "*** end of report ***";
/// Exit status of an emulated machine after a crash.
pub const CRASH_STATUS: u8 = 3;
