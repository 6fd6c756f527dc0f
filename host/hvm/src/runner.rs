//! Threads that run the HRT's own CPUs.

use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use protocol::call;
use protocol::group::state;

use crate::Error;
use crate::core::Core;
use crate::kick::{self, Kicks, kick_signal};
use crate::memory::END_OF_ROS;
use crate::refused::leave_call;
use crate::state::End;
use crate::vcpu::{Exit, Vcpu};

/// A thread that runs a CPU until the HRT ends.
pub struct Runner {
    thread: JoinHandle<()>,
    has_left: Arc<AtomicBool>,
    kicks: Kicks,
}

impl Runner {
    /// Starts the thread, which runs the CPU and returns how the HRT ended.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn start(index: u32, core: &Arc<Core>, run: impl FnOnce(&Core) -> End + Send + 'static) -> Result<Self, Error> {
        core.kicks.ignore();
        let kicks = core.kicks;
        let (core, has_left) = (Arc::clone(core), Arc::new(AtomicBool::new(false)));
        let left = Arc::clone(&has_left);
        let thread = thread::Builder::new()
            .name(format!("hrt-cpu-{index}"))
            .spawn(move || {
                core.kicks.take_no_others();
                let end = run(&core);
                left.store(true, Ordering::Release);
                core.state.end(end);
            })
            .map_err(|why| Error::Refused { what: "starting a thread for the HRT's CPU", why })?;
        Ok(Self { thread, has_left, kicks })
    }

    /// Waits for the thread's end, once the HRT has ended.
    pub fn join(self) {
        if self.kicks == Kicks::Nudges {
            // It takes no signal, and ends with the process.
            return;
        }
        while !self.has_left.load(Ordering::Acquire) {
            // SAFETY: the thread has not been joined, so its handle is valid; the signal only ends
            // a system call of the thread (`Kicks::ignore`).
            unsafe { libc::pthread_kill(self.thread.as_pthread_t(), kick_signal()) };
            thread::sleep(kick::INTERVAL);
        }
        let _ = self.thread.join();
    }
}

/// Runs a CPU until the HRT ends; returns how.
pub fn run(index: u32, cpu: &mut Vcpu, core: &Core) -> End {
    loop {
        if let Some(end) = core.state.ended() {
            return end;
        }
        match cpu.run() {
            Exit::Out { port: call::CHARACTER_PORT, byte } => core.state.say(byte),
            Exit::Out { port, .. } if port == u16::from(call::PORT) => match core.downcall(index, cpu) {
                None | Some(End::Crashed { .. }) => {}
                Some(end) => return end,
            },
            Exit::Refused if leave_synchronous_call(index, cpu, core) => {}
            Exit::Refused if cpu.registers().rip >= END_OF_ROS && cpu.refuse_access() => {}
            Exit::Shutdown if core.revive(cpu) => {}
            Exit::Shutdown => return End::TripleFault { cpu: index },
            Exit::Interrupted => {}
            exit => return End::Failed { cpu: index, why: exit.describe(cpu.registers().rip) },
        }
    }
}

/// Makes the CPU leave a function that is called in synchronous mode, because Linux refuses an
/// access of it. Returns false if it runs none.
fn leave_synchronous_call(index: u32, cpu: &mut Vcpu, core: &Core) -> bool {
    let group = core.group(core.most_groups());
    let is_its = group.state.load(Ordering::Acquire) == state::RUNNING
        && group.cpu.load(Ordering::Relaxed) == u64::from(index)
        && cpu.registers().rip < END_OF_ROS;
    if is_its {
        leave_call(core, cpu, group);
    }
    is_its
}
