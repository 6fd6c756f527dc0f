//! What a console says to whoever reads it instead of a person.

/// The prompt if the last command succeeded, as it is when the kernel has come up.
pub const PROMPT: &str = "aero> ";
/// Stands before the output of the commands of `run=` (ASCII, STX).
pub const START_OF_TEXT: u8 = 0x02;
/// Stands behind it (ASCII, ETX); the exit status follows in decimal, and a line's end.
pub const END_OF_TEXT: u8 = 0x03;
/// Stands before a crash report, which may come in the middle of that output (ASCII, CAN).
pub const CANCEL: u8 = 0x18;
/// Stands before the line that says why the machine cannot run the kernel (ASCII, NAK).
pub const NEGATIVE_ACKNOWLEDGE: u8 = 0x15;
/// What a person types to interrupt a command (ASCII, ETX).
pub const CONTROL_C: u8 = 0x03;
/// First line of a crash report.
pub const REPORT_START: &str = "*** Aerokernel crash report ***";
/// Last line of a crash report.
pub const REPORT_END: &str = "*** end of report ***";
/// Exit status of an emulated machine after a crash.
pub const CRASH_STATUS: u8 = 3;
