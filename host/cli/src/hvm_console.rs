//! `aero hvm ps` and `aero hvm console`: the lines of running hybrid runtimes, and their consoles.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hvm::lines::{self, Found, Line};
use machine::{End, Machine, status};
use wire::console::PROMPT;

use crate::session::{Session, Stop};
use crate::terminal::RawTerminal;

/// How long the commands of `--run` may take.
const RUN_LIMIT: Duration = Duration::from_secs(30);

/// Lists the processes that have lines of HRTs.
pub fn list() -> Result<u8> {
    println!("{:>9}  {:>3}  {:<24}  program", "process", "HRT", "lines");
    let mut hrts: BTreeMap<(u32, u32), Vec<String>> = BTreeMap::new();
    for Found { process, number, line, .. } in lines::list()? {
        hrts.entry((process, number)).or_default().push(line.to_string());
    }
    for ((process, number), lines) in hrts {
        let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
        println!("{process:>9}  {number:>3}  {:<24}  {}", lines.join(" "), words.join(" ").trim());
    }
    Ok(status::DONE)
}

/// Which HRT.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Which {
    /// The process
    pub process: u32,
    /// Its HRT's number, if it has several
    #[arg(long, value_name = "N")]
    hrt: Option<u32>,
}

/// Returns the socket of a line.
pub fn socket(of: Which, line: Line) -> Result<PathBuf> {
    let is_it = |found: &Found| {
        found.process == of.process && found.line == line && of.hrt.is_none_or(|number| number == found.number)
    };
    match &lines::list()?.into_iter().filter(is_it).collect::<Vec<_>>()[..] {
        [Found { path, .. }] => Ok(path.clone()),
        [] => bail!(
            "process {} has no {line} line of a hybrid runtime here; `aero hvm ps` lists those that there are",
            of.process
        ),
        _ => {
            bail!("process {} has several hybrid runtimes: `--hrt N` says which; `aero hvm ps` lists them", of.process)
        }
    }
}

/// Connects this terminal with the console of a process, or runs commands there.
pub fn attend(of: Which, run: Option<&str>) -> Result<u8> {
    let (process, path) = (of.process, socket(of, Line::Console)?);
    let stream =
        UnixStream::connect(&path).with_context(|| format!("the console at {} cannot be reached", path.display()))?;
    let mut console = Console::new(stream)?;
    if let Some(line) = run {
        return console.run(line);
    }
    console.input.write_all(b"\n")?;
    let terminal = RawTerminal::enter();
    if terminal.is_interactive() {
        eprint!("aero: at the console of process {process}; Ctrl-A x leaves it\r\n");
    }
    let session = Session {
        is_interactive: terminal.is_interactive(),
        ready: "",
        at_end_of_input: Vec::new(),
        limit: None,
        show: &mut |bytes| bytes.to_vec(),
    };
    let (stop, _) = session.attend(&mut console)?;
    if matches!(stop, Stop::Ended) {
        eprint!("\r\naero: the console has ended\r\n");
    }
    Ok(status::DONE)
}

/// A console at a socket.
struct Console {
    input: UnixStream,
    output: Receiver<Vec<u8>>,
}

impl Console {
    fn new(input: UnixStream) -> Result<Self> {
        let mut stream = input.try_clone()?;
        let (send, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                if send.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { input, output })
    }

    /// Types a line and writes what comes until the next prompt.
    fn run(&mut self, line: &str) -> Result<u8> {
        let deadline = Instant::now() + RUN_LIMIT;
        self.input.write_all(format!("{line}\n").as_bytes())?;
        let end = format!("\n\r{PROMPT}");
        let mut said = String::new();
        // The line comes back first, perhaps after what was said before.
        let output = loop {
            if let Some((output, _)) = said.split_once(line).and_then(|(_, rest)| rest.split_once(&end)) {
                break output;
            }
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => said += &String::from_utf8_lossy(&bytes),
                Err(_) => bail!("no prompt came back within {} s, or the console has ended", RUN_LIMIT.as_secs()),
            }
        };
        println!("{}", output.replace('\r', "").trim_matches('\n'));
        Ok(status::DONE)
    }
}

impl Machine for Console {
    fn output(&mut self) -> &mut Receiver<Vec<u8>> {
        &mut self.output
    }

    fn take_input(&mut self) -> Option<Box<dyn Write + Send>> {
        Some(Box::new(self.input.try_clone().ok()?))
    }

    fn end(&mut self) -> Result<End> {
        let _ = self.input.shutdown(Shutdown::Both);
        Ok(End { status: None, is_switched_off: false, how: "the console has ended".into(), refusal: None })
    }
}
