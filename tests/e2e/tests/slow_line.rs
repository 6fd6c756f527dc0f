//! A serial line that is read slowly: QEMU on a socket, without `aero` in between, which always
//! reads.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use e2e::LIMIT;

/// A running QEMU, which is killed when the test ends.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn image() -> PathBuf {
    let image = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/kernel/x64/aerokernel-x64.boot"));
    assert!(image.exists(), "{} is not there; run `./aero test e2e`", image.display());
    image
}

/// Reads until a text appears, pausing after each piece. Returns all that was read.
fn read_until(line: &mut UnixStream, text: &str, pause: Duration) -> String {
    let deadline = Instant::now() + LIMIT;
    let (mut all, mut buffer) = (Vec::new(), [0; 1024]);
    while !String::from_utf8_lossy(&all).contains(text) {
        assert!(Instant::now() < deadline, "{text:?} did not come:\n{}", String::from_utf8_lossy(&all));
        match line.read(&mut buffer) {
            Ok(0) => panic!("the machine ended before {text:?}:\n{}", String::from_utf8_lossy(&all)),
            Ok(length) => all.extend_from_slice(&buffer[..length]),
            Err(error) => panic!("{error} before {text:?}:\n{}", String::from_utf8_lossy(&all)),
        }
        std::thread::sleep(pause);
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn nothing_is_lost_on_a_line_that_is_read_slowly() {
    /// Enough output to fill the sockets, QEMU and the kernel's queue.
    const TIMES: usize = 150;
    let (mut line, theirs) = UnixStream::pair().expect("a pair of sockets");
    line.set_read_timeout(Some(LIMIT)).expect("a deadline");
    let serial = format!("socket,id=line,fd={}", {
        use std::os::fd::AsRawFd;
        let descriptor = theirs.as_raw_fd();
        // SAFETY: F_SETFD only changes the flags of a descriptor that `theirs` keeps open. Without
        // the close-on-exec flag, QEMU inherits it.
        assert_eq!(unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) }, 0);
        descriptor
    });
    let machine = Command::new("qemu-system-x86_64")
        .args(["-nodefaults", "-no-user-config", "-machine", "q35", "-display", "none", "-m", "256M", "-smp", "2"])
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-chardev", &serial, "-serial", "chardev:line", "-kernel"])
        .arg(image())
        .stdin(Stdio::null())
        .spawn();
    let mut machine = Machine(machine.expect("QEMU can be run"));
    drop(theirs);
    read_until(&mut line, "aero> ", Duration::ZERO);
    for _ in 0..TIMES {
        line.write_all(b"help\r").expect("the line takes keys");
    }
    line.write_all(b"irqs\r").expect("the line takes keys");
    let output = read_until(&mut line, "controllers:", Duration::from_millis(1));
    assert_eq!(output.matches("switches the machine off").count(), TIMES, "{output}");
    line.write_all(b"poweroff\r").expect("the line takes keys");
    assert!(machine.0.wait().expect("QEMU can be waited for").success());
}
