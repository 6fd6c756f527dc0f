//! [`Error`]: what can fail, with what to do about it.

use std::fmt;
use std::io;

use protocol::boot::NoRequest;

use crate::support::Missing;

/// Why an HVM does not boot.
#[derive(Debug)]
pub enum Error {
    /// This machine's KVM cannot be used.
    Unusable(Missing),
    /// The image is not an HRT's.
    NoHrt(NoRequest),
    /// The image is no program that can be loaded; why.
    BadImage(&'static str),
    /// The memory asked for, in bytes, is less than the image needs or more than an HRT can have.
    BadSize {
        /// The size asked for, in bytes.
        asked: u64,
        /// The smallest possible size, in bytes.
        least: u64,
        /// The largest possible size, in bytes.
        most: u64,
    },
    /// The number of CPUs asked for is 0 or more than KVM has.
    BadCpus {
        /// The number asked for.
        asked: u32,
        /// The largest possible number.
        most: u32,
    },
    /// The kernel's command line is longer than an HRT takes, in bytes.
    LongCommandLine(usize),
    /// The process uses more memory than the CPU's physical addresses have room for windows; how
    /// many are open.
    TooManyWindows(u64),
    /// No process can have memory at this address.
    NoAddress(u64),
    /// This process is a fork of the one that has the HRT.
    NotHere,
    /// A request to Linux or KVM failed.
    Refused {
        /// The request.
        what: &'static str,
        /// Linux's reason.
        why: io::Error,
    },
}

impl Error {
    pub(crate) fn refused(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Refused { what, why: io::Error::from_raw_os_error(error.errno()) }
    }

    pub(crate) fn last(what: &'static str) -> Self {
        Self::Refused { what, why: io::Error::last_os_error() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(missing) => missing.fmt(f),
            Self::NoHrt(why) => write!(f, "the image cannot be an HRT: {why}"),
            Self::BadImage(why) => write!(f, "the image cannot be loaded: {why}"),
            Self::BadSize { asked, least, most } => {
                let mib = |bytes: u64| bytes.div_ceil(1 << 20);
                let (asked, least, most) = (mib(*asked), mib(*least), most >> 20);
                write!(f, "an HRT cannot have {asked} MiB of memory: this image takes from {least} to {most} MiB")
            }
            Self::BadCpus { asked, most } => write!(f, "an HRT cannot have {asked} CPUs: this KVM gives 1 to {most}"),
            Self::LongCommandLine(length) => {
                write!(f, "the kernel's command line has {length} bytes; it can have {}", crate::boot_state::LINE_LIMIT)
            }
            Self::TooManyWindows(open) => {
                write!(
                    f,
                    "the process's memory is too far apart: {open} windows of 1 GiB are open, and there is no room for more"
                )
            }
            Self::NoAddress(address) => write!(f, "no process can have memory at {address:#x}"),
            Self::NotHere => {
                f.write_str("the HRT belongs to the process that this one was forked from: boot another one here")
            }
            Self::Refused { what, why } => write!(f, "{what} failed: {why}"),
        }
    }
}

impl std::error::Error for Error {}
