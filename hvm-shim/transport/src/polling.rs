//! For how long the CPUs of groups poll before they halt: a CPU that polls is woken without an
//! interrupt, and so without a monitor.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kernel::hybrid;
use platform::ros_code::groups;
use protocol::group::{Group, state};

/// Groups that can be told apart.
pub const MOST: usize = 1024;

/// Whether a group's thread has polled itself before it blocked.
pub static HAVE_POLLED: [AtomicBool; MOST] = [const { AtomicBool::new(false) }; MOST];

/// A group's number, by its CPU.
fn number(cpu: usize) -> usize {
    cpu.wrapping_sub(kernel::boot::information().cpus.len())
}

/// For how many cycles a group's CPU polls where it waits: not at all if other groups' CPUs, beside
/// this one, keep those of Linux busy.
pub fn cycles(cpu: usize) -> u64 {
    let Some(group) = groups().nth(number(cpu)) else { return 0 };
    let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
    let is_busy = |other: &&Group| {
        let its_cpu = word(&other.cpu) as usize;
        word(&other.state) == state::RUNNING && its_cpu != cpu && !hybrid::is_idle(its_cpu)
    };
    let busy = groups().take_while(|group| word(&group.state) != state::NONE).filter(is_busy).count();
    if (busy as u64) < word(&group.ros_cpus) { word(&group.polls_for) } else { 0 }
}

/// As [`cycles`], where the CPU's thread has blocked.
pub fn idle_cycles(cpu: usize) -> u64 {
    let has_polled = HAVE_POLLED.get(number(cpu)).is_some_and(|polled| polled.load(Ordering::Relaxed));
    if has_polled { 0 } else { cycles(cpu) }
}
