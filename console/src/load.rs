//! Test load: threads that keep the machine busy until they are killed.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;

use kernel::lock::InterruptGuard;
use kernel::thread::{self, Builder, JoinHandle, SpawnError};
use kernel::time::Deadline;
use kernel::wait::Mutex;

/// The kind of work that a load thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Computes and never yields.
    Spin,
    /// Yields all the time.
    Yield,
    /// Sleeps for a millisecond at a time.
    Sleep,
    /// Allocates and frees memory of varying size.
    Allocate,
    /// Computes with interrupts off, for at most 20 s.
    Deaf,
}

impl Kind {
    /// All kinds with their names.
    pub const ALL: [(&'static str, Self); 5] = [
        ("spin", Self::Spin),
        ("yield", Self::Yield),
        ("sleep", Self::Sleep),
        ("allocate", Self::Allocate),
        ("deaf", Self::Deaf),
    ];
}

struct Load {
    id: u64,
    stop: Arc<AtomicBool>,
    handle: JoinHandle<u64>,
}

static LOADS: Mutex<Vec<Load>> = Mutex::new(Vec::new());

/// Maximum time that a deaf thread computes. On the console's CPU, no command could run to kill it.
const DEAF_LIMIT: Duration = Duration::from_secs(20);

/// Time that a killed thread has to notice.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Spawns a load thread on a CPU and returns its number.
///
/// # Errors
/// See [`SpawnError`].
pub fn spawn(kind: Kind, cpu: usize) -> Result<u64, SpawnError> {
    let stop = Arc::new(AtomicBool::new(false));
    let theirs = stop.clone();
    let name = format!("load-{}", Kind::ALL.iter().find(|entry| entry.1 == kind).map_or("", |entry| entry.0));
    let mut loads = LOADS.lock();
    loads.try_reserve(1).map_err(|_| SpawnError::OutOfMemory)?;
    let handle = Builder::new(&name).cpu(cpu).spawn(move || work(kind, &theirs))?;
    let id = handle.thread().id();
    loads.push(Load { id, stop, handle });
    Ok(id)
}

/// Returns the numbers of the load threads.
pub fn list() -> Vec<u64> {
    LOADS.lock().iter().map(|load| load.id).collect()
}

/// The reason why a thread was not killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillError {
    /// The thread is not a load thread.
    NotLoad,
    /// The thread did not notice in time; it remains a load thread.
    NotStopping,
}

/// Ends a load thread and waits for it. Returns the number of rounds of its work.
///
/// # Errors
/// See [`KillError`].
pub fn kill(id: u64) -> Result<u64, KillError> {
    let mut loads = LOADS.lock();
    let position = loads.iter().position(|load| load.id == id).ok_or(KillError::NotLoad)?;
    let Load { stop, handle, .. } = loads.swap_remove(position);
    stop.store(true, Ordering::Relaxed);
    match handle.join_until(Deadline::after(KILL_LIMIT)) {
        Ok(rounds) => Ok(rounds.unwrap_or(0)),
        Err(handle) => {
            loads.push(Load { id, stop, handle });
            Err(KillError::NotStopping)
        }
    }
}

/// Does a load thread's work. Not inlined, so that backtraces name it.
#[inline(never)]
fn work(kind: Kind, stop: &AtomicBool) -> u64 {
    let rounds = AtomicU64::new(0);
    let mut seed = 1u64;
    let _deaf = (kind == Kind::Deaf).then(InterruptGuard::new);
    let hearing_again = Deadline::after(DEAF_LIMIT);
    let is_over = || stop.load(Ordering::Relaxed) || kind == Kind::Deaf && hearing_again.has_passed();
    while !is_over() {
        rounds.fetch_add(1, Ordering::Relaxed);
        match kind {
            Kind::Spin | Kind::Deaf => {
                for _ in 0..1000 {
                    seed = black_box(seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
                }
            }
            Kind::Yield => thread::yield_now(),
            Kind::Sleep => thread::sleep(Duration::from_millis(1)),
            Kind::Allocate => {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let mut memory: Vec<u8> = Vec::new();
                // Without memory, this round does nothing.
                if memory.try_reserve_exact((seed >> 40) as usize % 65_536).is_ok() {
                    black_box(&mut memory).push(1);
                }
            }
        }
    }
    rounds.into_inner()
}
