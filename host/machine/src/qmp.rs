//! QEMU's machine protocol (QMP), as far as a machine that stands still is asked for its memory.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long QEMU may take for an answer: it may have to write all of a machine's memory first.
const ANSWER_LIMIT: Duration = Duration::from_secs(300);
/// Longest path of a socket, in bytes (unix(7)).
const PATH_LIMIT: usize = 107;

/// The socket of a machine, beside its crash file; `None` if the path is longer than a socket's can be.
pub fn socket_beside(crash: &Path) -> Option<PathBuf> {
    let socket = crash.with_extension("qmp");
    (socket.as_os_str().len() <= PATH_LIMIT).then_some(socket)
}

/// Writes a machine's memory, as its page tables have it, to an ELF core file.
///
/// # Errors
/// A machine that is not there any more, and what QEMU refuses.
pub fn dump_memory(socket: &Path, out: &Path) -> Result<()> {
    let stream = UnixStream::connect(socket)
        .context("the machine is gone, and its memory with it: it must still be at its post-mortem prompt")?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    let mut stream = BufReader::new(stream);
    // It greets.
    receive(&mut stream)?;
    ask(&mut stream, &json!({"execute": "qmp_capabilities"}))?;
    let protocol = format!("file:{}", out.display());
    let arguments = json!({"paging": true, "protocol": protocol});
    ask(&mut stream, &json!({"execute": "dump-guest-memory", "arguments": arguments}))
}

/// Sends a command, and waits for its answer among what is told.
fn ask(stream: &mut BufReader<UnixStream>, command: &Value) -> Result<()> {
    let name = &command["execute"];
    writeln!(stream.get_mut(), "{command}").with_context(|| format!("QEMU does not take {name}"))?;
    loop {
        let said = receive(stream)?;
        if let Some(error) = said.get("error") {
            bail!("QEMU refuses {name}: {}", error["desc"].as_str().unwrap_or("it does not say why"));
        }
        if said.get("return").is_some() {
            return Ok(());
        }
    }
}

fn receive(stream: &mut BufReader<UnixStream>) -> Result<Value> {
    let mut line = String::new();
    match stream.read_line(&mut line) {
        Ok(0) => bail!("QEMU ended meanwhile"),
        Ok(_) => serde_json::from_str(&line).with_context(|| format!("QEMU says `{}`, which is not QMP", line.trim())),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            bail!("QEMU does not answer within {} s", ANSWER_LIMIT.as_secs())
        }
        Err(error) => Err(error).context("QEMU's answer cannot be read"),
    }
}
