//! Runs the kernel as a hybrid runtime (HRT) beside this very process, on this host's KVM.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use build::Image;
use hvm::{Error, Hvm};
use protocol::call::Ending;

use crate::files;
use crate::machine::{End, Machine};
use crate::memory::bytes_of;
use crate::settings::Settings;

/// Interval at which the console's rings are polled.
const RING_INTERVAL: Duration = Duration::from_millis(1);

/// KVM cannot be used here.
#[derive(Debug)]
pub struct NoKvm(String);

impl std::fmt::Display for NoKvm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no usable KVM: {}; `--emulate` runs this in an emulated Linux that has one", self.0)
    }
}

impl std::error::Error for NoKvm {}

impl From<Error> for NoKvm {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

/// An HRT beside this process.
pub struct Hrt {
    hvm: Arc<Hvm>,
    /// The crash file, once it has been told of.
    crash: Option<PathBuf>,
    output: Receiver<Vec<u8>>,
    input: Option<Box<dyn Write + Send>>,
}

impl Hrt {
    /// Boots an image, with the given words on the kernel's command line.
    ///
    /// # Errors
    /// [`NoKvm`] if there is no usable KVM. Fails too if the image cannot be read or booted.
    pub fn start(image: &Image, settings: &Settings, words: &str) -> Result<Self> {
        let bytes = fs::read(&image.boot).with_context(|| format!("{} cannot be read", image.boot.display()))?;
        let memory = bytes_of(&settings.memory)
            .with_context(|| format!("`--mem {}` is no size, such as 256M", settings.memory))?;
        let builder = Hvm::builder(&bytes).cpus(settings.cpus).memory(memory).command_line(words);
        let booted = match settings.keeps_crash_file {
            true => builder.share_without_console().crash_file(files::crash_path()?).boot(),
            false => builder.share_without_console().boot(),
        };
        let hvm = Arc::new(booted.map_err(|error| match error {
            error @ Error::Unusable(_) => NoKvm::from(error).into(),
            error => anyhow::Error::from(error).context(format!("{} does not boot", image.boot.display())),
        })?);
        let output = receive(&hvm)?;
        let input: Box<dyn Write + Send> = Box::new(hvm.console()?);
        Ok(Self { hvm, crash: None, output, input: Some(input) })
    }
}

/// Forwards what the HRT says, until it has ended and everything is taken.
fn receive(hvm: &Arc<Hvm>) -> Result<Receiver<Vec<u8>>> {
    let (rings, hvm) = (hvm.console()?, Arc::downgrade(hvm));
    let (send, output) = mpsc::channel();
    thread::spawn(move || {
        while let Some(hvm) = hvm.upgrade() {
            let has_ended = hvm.ended().is_some();
            let mut bytes = hvm.take_characters();
            drop(hvm);
            bytes.extend(rings.receive().unwrap_or_default());
            let is_quiet = bytes.is_empty();
            if (is_quiet && has_ended) || (!is_quiet && send.send(bytes).is_err()) {
                return;
            }
            if is_quiet {
                thread::sleep(RING_INTERVAL);
            }
        }
    });
    Ok(output)
}

impl Machine for Hrt {
    fn output(&mut self) -> &mut Receiver<Vec<u8>> {
        &mut self.output
    }

    fn take_input(&mut self) -> Option<Box<dyn Write + Send>> {
        self.input.take()
    }

    fn end(&mut self) -> Result<End> {
        let end = self.hvm.stop();
        let (status, is_switched_off) = match end {
            hvm::End::Ended { ending: Ending::PowerOff, status } => (Some(status), true),
            hvm::End::Ended { ending: Ending::Reboot, .. } => (None, true),
            _ => (None, false),
        };
        Ok(End { status, is_switched_off, how: end.to_string(), refusal: None })
    }

    fn crash_note(&mut self) -> Option<String> {
        let Some(hvm::End::Crashed { file: Some(crash), .. }) = self.hvm.crashed().filter(|_| self.crash.is_none())
        else {
            return None;
        };
        let note = format!("`./aero inspect {}` shows what was left", crash.display());
        self.crash = Some(crash);
        Some(note)
    }

    fn crash_file(&self) -> Option<&Path> {
        self.crash.as_deref()
    }
}
