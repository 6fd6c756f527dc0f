//! A real gdb, driven through its prompt, on a machine whose second serial line is a socket; and a
//! client that speaks gdb's protocol itself.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::transcript::Transcript;
use crate::{BUILD_LIMIT, LIMIT, Session};

const PROMPT: &str = "(gdb) ";
/// Options that suppress gdb's questions, paging and styles.
const QUIET: [&str; 11] = [
    "-nx",
    "-iex",
    "set pagination off",
    "-iex",
    "set confirm off",
    "-iex",
    "set style enabled off",
    "-iex",
    "set width 0",
    "-iex",
    "set remotetimeout 20",
];

/// The longest wait for gdb's answer. The first command that names a function makes gdb read the
/// debug information of all code inlined there, which takes seconds on an idle host and a minute
/// beside a build.
const READING_LIMIT: Duration = Duration::from_secs(240);

/// Returns the arguments of `aero boot` that connect the machine's debug line to a socket.
pub fn line(socket: &Path) -> [String; 3] {
    ["--".into(), "-serial".into(), format!("unix:{},server=on,wait=off", socket.display())]
}

/// Returns the path of a socket that only this test process uses.
pub fn socket(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("aero-{name}-{}", std::process::id()))
}

/// Returns the path of the kernel's debug information.
fn symbols() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.join("target/kernel/x64/x86_64-unknown-none/kernel/aerokernel-x64")
}

/// A running gdb.
pub struct Gdb {
    child: Child,
    output: Transcript,
}

impl Gdb {
    /// Starts gdb and attaches it to the machine.
    pub fn attach(socket: &Path) -> Self {
        let mut command = Command::new("sh");
        // Tests read gdb's error messages in the same stream as its answers.
        command.args(["-c", "exec gdb \"$@\" 2>&1", "gdb"]).arg("-q").args(QUIET).arg(symbols());
        let mut gdb = Self::spawn(command);
        gdb.wait_for_prompt();
        let answer = gdb.command(&format!("target remote {}", socket.display()));
        assert!(answer.contains("Remote debugging using"), "gdb does not attach: {answer}");
        gdb
    }

    /// Starts an attached gdb through `aero` with these arguments.
    pub fn start(arguments: &[String]) -> Self {
        let mut command = Command::new("sh");
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
        command.current_dir(root).args(["-c", "exec \"$@\" 2>&1", "aero"]).arg(crate::aero().get_program());
        command.args(arguments).arg("--").args(QUIET);
        let mut gdb = Self::spawn(command);
        gdb.output.wait_at_most(BUILD_LIMIT, "aero: the kernel's console goes to");
        gdb.wait_for_prompt();
        gdb
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command
            // A process group of its own, so that [`Gdb::interrupt`] can signal gdb together with
            // `aero`, which leaves the signal to gdb.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("gdb is installed: `./aero doctor`");
        let from = child.stdout.take().expect("a pipe");
        Self { child, output: Transcript::new("gdb", from) }
    }

    /// Types a command without waiting for its output.
    pub fn type_in(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("a pipe");
        writeln!(input, "{line}").and_then(|()| input.flush()).expect("gdb takes commands");
        self.output.note(line);
    }

    /// Types a command and returns its output up to the next prompt.
    pub fn command(&mut self, line: &str) -> String {
        self.type_in(line);
        self.wait_for(PROMPT)
    }

    /// Waits for the prompt and returns the output before it.
    pub fn wait_for_prompt(&mut self) -> String {
        self.wait_for(PROMPT)
    }

    /// Waits for a text and returns the output before it.
    pub fn wait_for(&mut self, text: &str) -> String {
        self.output.wait_at_most(READING_LIMIT, text)
    }

    /// Selects a kernel thread by its name.
    pub fn select(&mut self, name: &str) {
        let threads = self.command("info threads");
        let line = threads.lines().find(|line| line.contains(&format!("\"{name}\" (")));
        let number = line.and_then(|line| line.trim_start_matches('*').split_whitespace().next());
        let number = number.unwrap_or_else(|| panic!("no thread {name}: {threads}"));
        self.command(&format!("thread {number}"));
    }

    /// Returns all output so far.
    pub fn all(&self) -> &str {
        self.output.all()
    }

    /// Interrupts gdb as Ctrl-C at its terminal does.
    pub fn interrupt(&mut self) {
        // SAFETY: `kill` accesses no memory of ours; the group is that of our child, which is not
        // reaped before `self` is gone.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGINT) };
    }

    /// Kills gdb without letting it detach from the kernel.
    pub fn die(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Gdb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a machine with a debug line and waits for its prompt. Returns the session and the line's
/// socket.
pub fn machine(name: &str, options: &[&str]) -> (Session, PathBuf) {
    let socket = socket(name);
    let mut arguments: Vec<String> = options.iter().map(|option| (*option).into()).collect();
    arguments.extend(line(&socket));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    (Session::start(&arguments), socket)
}

/// Number of times a packet is sent. Like gdb, the client repeats packets, because the protocol
/// allows for lines that lose bytes.
const TRIES: usize = 3;

/// A client of gdb's protocol, faster than gdb.
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects without sending anything.
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("QEMU listens");
        stream.set_read_timeout(Some(LIMIT / 10)).expect("a time");
        stream.set_write_timeout(Some(LIMIT)).expect("a time");
        Self { stream }
    }

    /// Returns the connection, for sending bytes outside the protocol.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the line takes bytes");
    }

    /// Sends a packet and returns the text of the answer.
    pub fn ask(&mut self, text: &str) -> String {
        for attempt in 0..TRIES {
            self.send(packet(text).as_bytes());
            if let Some(answer) = self.receive() {
                // After a repetition, late answers to the earlier copies may follow; discard them.
                while attempt != 0 && self.receive().is_some() {}
                return answer;
            }
        }
        panic!("no answer to {text}")
    }

    /// Sends the initial packet again and discards answers to earlier packets.
    pub fn begin_anew(&mut self) {
        let mut answer = self.ask("qSupported:swbreak+");
        while !answer.contains("PacketSize") {
            answer = self.receive().expect("the hello is answered");
        }
    }

    /// Sends a packet that the next stop answers, and returns that stop.
    pub fn resume(&mut self, text: &str) -> String {
        self.send(packet(text).as_bytes());
        self.stop(text)
    }

    /// Sends a packet that the next stop answers, then a Ctrl-C; returns the stop.
    pub fn resume_and_interrupt(&mut self, text: &str) -> String {
        self.go_on(text);
        self.interrupt();
        self.stop("Ctrl-C")
    }

    /// Sends a packet that the next stop answers, and waits until the kernel has acknowledged it.
    pub fn go_on(&mut self, text: &str) {
        self.send(packet(text).as_bytes());
        let mut acknowledged = [0];
        self.stream.read_exact(&mut acknowledged).expect("the packet is acknowledged");
        assert_eq!(acknowledged, [b'+']);
    }

    /// Sends a Ctrl-C.
    pub fn interrupt(&mut self) {
        self.send(&[0x03]);
    }

    /// Waits for a stop and returns it.
    pub fn stop(&mut self, after: &str) -> String {
        (0..TRIES).find_map(|_| self.receive()).unwrap_or_else(|| panic!("the stop after {after} is lost"))
    }

    /// Returns the text of the next packet, skipping acknowledgements; `None` if none begins in
    /// time.
    fn receive(&mut self) -> Option<String> {
        let mut answer = Vec::new();
        while !(answer.len() > 3 && answer[answer.len() - 3] == b'#') {
            let mut byte = [0];
            match self.stream.read_exact(&mut byte) {
                Ok(()) if answer.is_empty() && byte == [b'+'] => {}
                Ok(()) => answer.push(byte[0]),
                Err(error) if answer.is_empty() && error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&answer)),
            }
        }
        self.send(b"+");
        Some(String::from_utf8_lossy(&answer).into_owned())
    }
}

/// Returns a packet with its start mark and checksum.
fn packet(text: &str) -> String {
    let sum = text.bytes().fold(0u8, u8::wrapping_add);
    format!("${text}#{sum:02x}")
}
