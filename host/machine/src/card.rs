//! Runs the kernel on a Knights Corner card, played by QEMU with a CPU that lacks most of what the
//! card lacks.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use build::Image;
use rings::Rings;

use crate::bootstrap::{Bootstrap, PostCode};
use crate::machine::{End, Machine};
use crate::process::{die_with_parent, end_of, inherit, interrogate, qemu_missing};
use crate::qemu;
use crate::settings::Settings;

/// Interval at which the console's rings are polled.
const RING_INTERVAL: Duration = Duration::from_millis(1);

/// A card in QEMU. It does not end by itself.
pub struct Card {
    child: Child,
    input: Option<Box<dyn Write + Send>>,
    output: Receiver<Vec<u8>>,
    /// Our end of the connection to QEMU's monitor.
    monitor: UnixStream,
    post_code: PostCode,
    /// The card's memory and registers, kept alive as long as the card.
    _bootstrap: Bootstrap,
}

impl Card {
    /// Boots an image, with the given words on the kernel's command line.
    pub fn start(image: &Image, settings: &Settings, words: &str) -> Result<Self> {
        let bootstrap = Bootstrap::new(&image.boot, settings.cpus, words)?;
        let (monitor, qemus_end) = UnixStream::pair().context("there is no connection for QEMU's monitor")?;
        let mut command = bootstrap.command(settings.cpus);
        qemu::monitor(&mut command, qemus_end.as_raw_fd());
        command.args(&settings.arguments);
        die_with_parent(&mut command);
        inherit(&mut command, qemus_end.as_raw_fd());
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(qemu_missing)?;
        let stdout = child.stdout.take().context("QEMU has no output")?;
        let output = receive(stdout, bootstrap.rings()?, bootstrap.post_code()?);
        let input: Box<dyn Write + Send> = Box::new(bootstrap.rings()?);
        let post_code = bootstrap.post_code()?;
        Ok(Self { child, input: Some(input), output, monitor, post_code, _bootstrap: bootstrap })
    }
}

/// Forwards what the card sends through the ring, until QEMU ends, the kernel reports that it
/// cannot boot, or the kernel clears the flag that says it is up.
fn receive(stdout: ChildStdout, rings: Rings, post_code: PostCode) -> Receiver<Vec<u8>> {
    let has_ended = end_of(stdout);
    let (send, output) = mpsc::channel();
    let mut was_up = false;
    thread::spawn(move || {
        loop {
            let is_up = rings.is_up().unwrap_or(false);
            let bytes = rings.receive().unwrap_or_default();
            let is_quiet = bytes.is_empty();
            let has_ended = has_ended.load(Ordering::Relaxed) || post_code.error().is_some() || (was_up && !is_up);
            if (!is_quiet && send.send(bytes).is_err()) || (is_quiet && has_ended) {
                return;
            }
            was_up |= is_up || !is_quiet;
            if is_quiet {
                thread::sleep(RING_INTERVAL);
            }
        }
    });
    output
}

impl Machine for Card {
    fn output(&mut self) -> &mut Receiver<Vec<u8>> {
        &mut self.output
    }

    fn take_input(&mut self) -> Option<Box<dyn Write + Send>> {
        self.input.take()
    }

    fn interrogate(&mut self) -> Option<Vec<u8>> {
        let Self { monitor, output, .. } = self;
        Some(interrogate(monitor, output, || false))
    }

    /// Ends QEMU. Its own exit status says nothing about the kernel, so the status comes from the
    /// POST code.
    fn end(&mut self) -> Result<End> {
        let _ = self.child.kill();
        self.child.wait()?;
        Ok(End { status: self.post_code.status(), is_switched_off: false, how: self.post_code.end(), refusal: None })
    }

    fn shows(&self) -> Option<String> {
        Some(format!("the card's POST code is \"{}\"", self.post_code.text()))
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
