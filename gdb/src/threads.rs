//! gdb's threads: the kernel's threads, running and waiting, or only the CPUs.

use core::fmt::{self, Write};

use arch_contract::fault::Registers;
use gdbstub::common::Tid;
use kernel::debug::Stop;
use kernel::hybrid::{self, Served};
use kernel::sandbox;
use kernel::stopped;
use kernel::thread::{State, Thread};

use crate::packet::Xml;

/// The view that decides what gdb lists as threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Kernel threads, by number.
    Threads,
    /// CPUs, numbered from 1.
    Cpus,
}

/// Added to the number of a CPU without a thread, to keep it apart from thread numbers.
const WITHOUT_THREAD: usize = 1 << 30;

/// Where one of gdb's threads is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On a stopped CPU, as its running thread.
    Cpu(usize),
    /// Not running; the kernel thread's number.
    Waiting(u64),
}

/// Returns the stopped CPUs, including one that does not count as started yet.
pub fn stopped_cpus(stop: &Stop) -> impl Iterator<Item = usize> {
    (0..arch_contract::MAX_CPUS).filter(|&cpu| stop.is_stopped(cpu))
}

impl View {
    /// Returns gdb's id of what runs on a CPU.
    pub fn tid_of(self, stop: &Stop, cpu: usize) -> Tid {
        let number = match self {
            Self::Cpus => cpu + 1,
            Self::Threads => match stop.running(cpu).0 {
                0 => WITHOUT_THREAD + cpu,
                thread => thread as usize,
            },
        };
        Tid::new(number).unwrap_or(Tid::MIN)
    }

    /// Returns where the thread with gdb's id `tid` is; `None` if there is no such thread.
    pub fn place_of(self, stop: &Stop, tid: Tid) -> Option<Place> {
        let on_cpu = stopped_cpus(stop).find(|&cpu| self.tid_of(stop, cpu) == tid);
        on_cpu.map(Place::Cpu).or_else(|| {
            let thread = tid.get() as u64;
            (self == Self::Threads && is_waiting(thread)).then_some(Place::Waiting(thread))
        })
    }

    /// Calls `each` with every thread and its description, running threads first.
    pub fn for_each(self, stop: &Stop, each: &mut dyn FnMut(Tid, &About<'_>)) {
        for cpu in stopped_cpus(stop) {
            let (thread, name) = stop.running(cpu);
            let about = match self {
                Self::Cpus => About { name, state: State::Running, cpu, thread: Some(thread), served: None },
                Self::Threads if thread == 0 => {
                    About { name: "no thread yet", state: State::Running, cpu, thread: None, served: None }
                }
                Self::Threads => About { name, state: State::Running, cpu, thread: None, served: None },
            };
            each(self.tid_of(stop, cpu), &about);
        }
        if self == Self::Threads {
            attempt(|| {
                stopped::for_each_thread(|thread, cpu| {
                    let runs = || stopped_cpus(stop).any(|cpu| stop.running(cpu).0 == thread.id());
                    if let (true, Some(tid)) = (is_suspended(thread) && !runs(), Tid::new(thread.id() as usize)) {
                        let (name, served) = (thread.name(), hybrid::served(thread.id()));
                        each(tid, &About { name, state: thread.state(), cpu, thread: None, served });
                    }
                });
            });
        }
    }

    /// Writes the thread list as gdb's document (gdb manual, "Thread List Format").
    pub fn write_list(self, stop: &Stop, out: &mut dyn Write) -> fmt::Result {
        out.write_str("<?xml version=\"1.0\"?>\n<threads>\n")?;
        self.for_each(stop, &mut |tid, about| {
            let _ = write!(out, "<thread id=\"p1.{tid:x}\" core=\"{}\" name=\"", about.cpu);
            let _ = Xml(out).write_str(about.name);
            let _ = writeln!(out, "\">{}</thread>", about.state_text());
        });
        out.write_str("</threads>\n")
    }
}

/// The description of one of gdb's threads.
pub struct About<'a> {
    name: &'a str,
    state: State,
    cpu: usize,
    /// The kernel thread's number, where gdb's id is another.
    thread: Option<u64>,
    /// What its partner does for it.
    served: Option<Served>,
}

impl About<'_> {
    fn state_text(&self) -> impl fmt::Display {
        fmt::from_fn(move |out| {
            if let Some(thread) = self.thread {
                return write!(out, "CPU {}, thread {thread}", self.cpu);
            }
            match self.served {
                Some(Served { name: Some(name), .. }) => {
                    return write!(out, "its partner is in {name}, CPU {}", self.cpu);
                }
                Some(Served { number, .. }) => {
                    return write!(out, "its partner is in system call {number}, CPU {}", self.cpu);
                }
                None => {}
            }
            let state = match self.state {
                State::Running => "runs",
                State::Ready => "ready",
                State::Blocked => "blocked",
                State::Exited => "over",
            };
            write!(out, "{state}, CPU {}", self.cpu)
        })
    }
}

/// Walks the kernel's lists in the sandbox, which survives a fault on a damaged list.
fn attempt(mut work: impl FnMut()) {
    // SAFETY: the stub runs on the host of a stop: all other CPUs are stopped and interrupts are
    // off; `work` allocates nothing.
    let _ = unsafe { sandbox::attempt(&mut work) };
}

/// Returns true if the thread's registers are saved: on its stack, or by its partner.
fn is_suspended(thread: &Thread) -> bool {
    matches!(thread.state(), State::Ready | State::Blocked) || hybrid::served(thread.id()).is_some()
}

fn is_waiting(thread: u64) -> bool {
    let mut found = false;
    attempt(|| found = stopped::with_thread(thread, |thread, _| is_suspended(thread)).unwrap_or(false));
    found
}

/// Returns the registers with which a thread that is not running resumes, and its thread pointer.
pub fn registers_of(thread: u64) -> Option<(Registers, u64)> {
    let mut found = None;
    attempt(|| {
        found = stopped::with_thread(thread, |thread, _| {
            let suspended = || is_suspended(thread).then(|| stopped::suspended_registers(thread));
            let registers = hybrid::served(thread.id()).map(|served| served.registers).or_else(suspended);
            registers.map(|registers| (registers, thread.thread_pointer() as u64))
        });
    });
    found.flatten()
}
