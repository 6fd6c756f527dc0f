//! QEMU's machine protocol (QMP), as far as needed to dump the memory of a stopped machine.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Time limit for an answer. QEMU may have to write all of a machine's memory first.
const ANSWER_LIMIT: Duration = Duration::from_secs(300);
/// Longest path of a socket, in bytes (unix(7)).
const PATH_LIMIT: usize = 107;

/// Returns the path of a machine's QMP socket, beside its crash file. Returns `None` if the path is
/// too long for a socket.
pub fn socket_beside(crash: &Path) -> Option<PathBuf> {
    let socket = crash.with_extension("qmp");
    (socket.as_os_str().len() <= PATH_LIMIT).then_some(socket)
}

/// Writes a machine's memory, as its page tables map it, to an ELF core file.
///
/// # Errors
/// Fails if the machine is gone or QEMU refuses the dump.
pub fn dump_memory(socket: &Path, out: &Path) -> Result<()> {
    let stream = UnixStream::connect(socket)
        .context("the machine is gone, and its memory with it: it must still be at its post-mortem prompt")?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    let mut stream = BufReader::new(stream);
    // QEMU sends a greeting first.
    receive(&mut stream)?;
    ask(&mut stream, &json!({"execute": "qmp_capabilities"}))?;
    let protocol = format!("file:{}", out.display());
    let arguments = json!({"paging": true, "protocol": protocol});
    ask(&mut stream, &json!({"execute": "dump-guest-memory", "arguments": arguments}))
}

/// Sends a command and waits for its answer, skipping events.
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
