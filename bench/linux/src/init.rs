//! The first process of the Linux that `aero` runs: starts the other CPUs, runs a file's commands,
//! and ends the machine. Linked statically, it runs from an initial RAM file system.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// The file of commands to run, one per line.
const COMMANDS: &str = "/commands";
/// Marks the beginning of what `aero` reads.
const BEGIN: &str = "linux: begin";
/// Marks the end; the number of failed commands follows.
const END: &str = "linux: end";

fn main() {
    if let Err(error) = prepare() {
        println!("linux: the machine is not as it should be: {error}");
    }
    println!("{BEGIN}");
    let commands = fs::read_to_string(COMMANDS).unwrap_or_default();
    let failed = commands.lines().filter(|line| !succeeds(line)).count();
    println!("{END} {failed}");
    // SAFETY: both calls take no pointers, and the machine's only state is this RAM.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_AUTOBOOT);
    }
}

fn prepare() -> io::Result<()> {
    mount(c"devtmpfs", c"/dev")?;
    mount(c"proc", c"/proc")?;
    mount(c"sysfs", c"/sys")?;
    let console = fs::OpenOptions::new().read(true).write(true).open("/dev/ttyS0")?;
    for descriptor in 0..3 {
        // SAFETY: the console's descriptor is open, and nothing else owns the standard streams'
        // numbers.
        if unsafe { libc::dup2(console.as_raw_fd(), descriptor) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    start_cpus()
}

fn mount(kind: &CStr, at: &CStr) -> io::Result<()> {
    fs::create_dir_all(at.to_string_lossy().as_ref())?;
    // SAFETY: both names are C strings that outlive the call, and the options may be null.
    match unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Starts the CPUs that `maxcpus=1` left out. Where instructions are counted, QEMU runs the other
/// CPUs only while this one waits or pauses, and Linux does neither while it starts a CPU, so a
/// second thread pauses meanwhile.
fn start_cpus() -> io::Result<()> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        let mut started = Ok(());
        for index in 1.. {
            let file = format!("/sys/devices/system/cpu/cpu{index}/online");
            if !fs::exists(&file)? {
                break;
            }
            let is_on = fs::read_to_string(&file).is_ok_and(|state| state.trim() == "1");
            if !is_on {
                started = started.and(fs::write(&file, "1"));
            }
        }
        done.store(true, Ordering::Relaxed);
        started
    })
}

fn succeeds(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let Some(program) = words.next() else { return true };
    match Command::new(program).args(words).status() {
        Ok(status) if status.success() => true,
        Ok(status) => {
            println!("linux: `{line}` ended with {status}");
            false
        }
        Err(error) => {
            println!("linux: `{line}` cannot be run: {error}");
            false
        }
    }
}
