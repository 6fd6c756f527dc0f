//! Events, mutexes and the other synchronisation objects in the program's own memory.

use abi::{BUSY, INVALID, OK, Status, TIMED_OUT};
use kernel::cpu;
use kernel::wait::{self, Arrival};

use crate::pointers;
use crate::{IntoStatus, attempt, blocking, deadline, refuse_in_handler};

type Mutex = wait::Mutex<()>;
type ReaderWriterLock = wait::ReaderWriterLock<()>;

/// A kernel object in a program's memory, followed by the mark of its kind. Memory that was never
/// initialised, or holds an object of another kind, has a different mark.
#[repr(C)]
struct Marked<T> {
    object: T,
    mark: u32,
}

/// Declares the kinds of objects, and checks that each fits the memory that the interface sets
/// aside for it.
macro_rules! kinds {
    ($($kernel:ty => $interface:ty, $mark:literal;)*) => {
        $(const _: () = assert!(
            size_of::<Marked<$kernel>>() <= size_of::<$interface>()
                && align_of::<Marked<$kernel>>() <= align_of::<$interface>()
        );
        impl Kind for $kernel {
            const MARK: u32 = u32::from_le_bytes(*$mark);
        })*
    };
}

/// An object that programs refer to by address.
trait Kind {
    const MARK: u32;
}
kinds! {
    wait::Event => abi::Event, b"EvNt";
    Mutex => abi::Mutex, b"MuTx";
    wait::Condition => abi::Condition, b"CoNd";
    wait::Semaphore => abi::Semaphore, b"SeMa";
    wait::Barrier => abi::Barrier, b"BaRr";
    ReaderWriterLock => abi::ReaderWriterLock, b"RwLk";
}

/// Puts a new object into a program's memory.
///
/// # Safety
/// `at` must be null, misaligned, or memory for an `O` that is not in use.
unsafe fn place<T: Kind, O>(at: *mut O, object: T) -> Status {
    // SAFETY: the caller guarantees that the memory is an unused `O`, and `kinds` asserts that a
    // `Marked<T>` fits it.
    attempt!(unsafe { pointers::place(at.cast::<Marked<T>>()) }).write(Marked { object, mark: T::MARK });
    OK
}

/// Borrows the object in a program's memory. `INVALID` for null and misaligned pointers, and for
/// memory without the mark of this kind.
///
/// # Safety
/// If the memory has the mark, it must hold a `T` for the lifetime that the caller chooses.
#[inline(always)]
unsafe fn borrow<'a, T: Kind, O>(at: *const O) -> Result<&'a T, Status> {
    // SAFETY: any bits are a valid mark, and the caller guarantees a `T` where the mark is that of
    // `T`.
    let marked = unsafe { pointers::borrow::<Marked<T>, _>(at) }?;
    if marked.mark == T::MARK { Ok(&marked.object) } else { Err(INVALID) }
}

pub unsafe extern "C" fn aero_event_init(event: *mut abi::Event) -> Status {
    // SAFETY: by the interface's contract, the pointer is null or memory for the object that is not
    // in use.
    unsafe { place(event, wait::Event::new()) }
}

pub unsafe extern "C" fn aero_event_signal(event: *const abi::Event) -> Status {
    // SAFETY: by the interface's contract, an initialised object stays in place during the call;
    // the mark tells other memory apart.
    attempt!(unsafe { borrow::<wait::Event, _>(event) }).signal();
    OK
}

pub unsafe extern "C" fn aero_event_broadcast(event: *const abi::Event) -> Status {
    // SAFETY: by the interface's contract, an initialised object stays in place during the call;
    // the mark tells other memory apart.
    attempt!(unsafe { borrow::<wait::Event, _>(event) }).broadcast();
    OK
}

pub unsafe extern "C" fn aero_event_wait(event: *const abi::Event, deadline_ns: u64) -> Status {
    // SAFETY: by the interface's contract, an initialised object stays in place during the call;
    // the mark tells other memory apart.
    let event = attempt!(unsafe { borrow::<wait::Event, _>(event) });
    blocking(|| event.wait_until(deadline(deadline_ns))).into_status()
}

pub unsafe extern "C" fn aero_mutex_init(mutex: *mut abi::Mutex) -> Status {
    // SAFETY: by the interface's contract, the pointer is null or memory for the object that is not
    // in use.
    unsafe { place(mutex, Mutex::new(())) }
}

pub unsafe extern "C" fn aero_mutex_lock(mutex: *const abi::Mutex, deadline_ns: u64) -> Status {
    // SAFETY: by the interface's contract, an initialised object stays in place during the call;
    // the mark tells other memory apart.
    let mutex = attempt!(unsafe { borrow::<Mutex, _>(mutex) });
    // An uncontended lock does not switch threads, so the vector control words need no saving.
    if let Some(guard) = mutex.try_lock() {
        core::mem::forget(guard);
        return OK;
    }
    blocking(|| mutex.lock_until(deadline(deadline_ns)).map(core::mem::forget)).into_status()
}

pub unsafe extern "C" fn aero_mutex_try_lock(mutex: *const abi::Mutex) -> Status {
    // SAFETY: by the interface's contract, an initialised object stays in place during the call;
    // the mark tells other memory apart.
    match attempt!(unsafe { borrow::<Mutex, _>(mutex) }).try_lock() {
        Some(guard) => {
            core::mem::forget(guard);
            OK
        }
        None => BUSY,
    }
}

pub unsafe extern "C" fn aero_mutex_unlock(mutex: *const abi::Mutex) -> Status {
    // SAFETY: by the interface's contract, an initialised mutex stays in place during the call.
    // `aero_mutex_lock` forgets its guard, so no guard unlocks the mutex a second time.
    if unsafe { attempt!(borrow::<Mutex, _>(mutex)).unlock() } { OK } else { INVALID }
}

pub unsafe extern "C" fn aero_condition_init(condition: *mut abi::Condition) -> Status {
    // SAFETY: by the interface's contract, the pointer is null or memory for the object that is not
    // in use.
    unsafe { place(condition, wait::Condition::new()) }
}

pub unsafe extern "C" fn aero_condition_wait(
    condition: *const abi::Condition,
    mutex: *const abi::Mutex,
    deadline_ns: u64,
) -> Status {
    if cpu::in_interrupt() {
        return refuse_in_handler();
    }
    // SAFETY: by the interface's contract, initialised objects stay in place during the call.
    // `aero_mutex_lock` forgets its guard, so the adopted guard is the only one.
    let (condition, guard) = unsafe {
        let condition = attempt!(borrow::<wait::Condition, _>(condition));
        (condition, attempt!(borrow::<Mutex, _>(mutex)).adopt())
    };
    let Some(guard) = guard else { return INVALID };
    blocking(|| {
        let (guard, result) = condition.wait_or_end(guard, deadline(deadline_ns));
        core::mem::forget(guard);
        result
    })
    .into_status()
}

pub unsafe extern "C" fn aero_condition_signal(condition: *const abi::Condition) -> Status {
    // SAFETY: by the interface's contract, an initialised object stays in place during the call;
    // the mark tells other memory apart.
    attempt!(unsafe { borrow::<wait::Condition, _>(condition) }).signal();
    OK
}

pub unsafe extern "C" fn aero_condition_broadcast(condition: *const abi::Condition) -> Status {
    // SAFETY: by the interface's contract, an initialised object stays in place during the call;
    // the mark tells other memory apart.
    attempt!(unsafe { borrow::<wait::Condition, _>(condition) }).broadcast();
    OK
}

pub unsafe extern "C" fn aero_semaphore_init(semaphore: *mut abi::Semaphore, units: u64) -> Status {
    let Ok(units) = u32::try_from(units) else { return INVALID };
    // SAFETY: by the interface's contract, the pointer is null or memory for the object that is not
    // in use.
    unsafe { place(semaphore, wait::Semaphore::new(units)) }
}

pub unsafe extern "C" fn aero_semaphore_down(semaphore: *const abi::Semaphore, deadline_ns: u64) -> Status {
    // SAFETY: by the interface's contract, an initialised object stays in place during the call;
    // the mark tells other memory apart.
    let semaphore = attempt!(unsafe { borrow::<wait::Semaphore, _>(semaphore) });
    if semaphore.try_down() {
        return OK;
    }
    blocking(|| semaphore.down_until(deadline(deadline_ns))).into_status()
}

pub unsafe extern "C" fn aero_semaphore_up(semaphore: *const abi::Semaphore) -> Status {
    // SAFETY: by the interface's contract, an initialised object stays in place during the call;
    // the mark tells other memory apart.
    attempt!(unsafe { borrow::<wait::Semaphore, _>(semaphore) }).up();
    OK
}

pub unsafe extern "C" fn aero_barrier_init(barrier: *mut abi::Barrier, threads: u32) -> Status {
    if threads == 0 {
        return INVALID;
    }
    // SAFETY: by the interface's contract, the pointer is null or memory for the object that is not
    // in use.
    unsafe { place(barrier, wait::Barrier::new(threads as usize)) }
}

pub unsafe extern "C" fn aero_barrier_wait(barrier: *const abi::Barrier, deadline_ns: u64) -> Status {
    // SAFETY: by the interface's contract, an initialised object stays in place during the call;
    // the mark tells other memory apart.
    let barrier = attempt!(unsafe { borrow::<wait::Barrier, _>(barrier) });
    match attempt!(blocking(|| barrier.wait_until(deadline(deadline_ns)))) {
        Ok(Arrival::Last) => 1,
        Ok(_) => OK,
        Err(_) => TIMED_OUT,
    }
}

pub unsafe extern "C" fn aero_reader_writer_init(lock: *mut abi::ReaderWriterLock) -> Status {
    // SAFETY: by the interface's contract, the pointer is null or memory for the object that is not
    // in use.
    unsafe { place(lock, ReaderWriterLock::new(())) }
}

pub unsafe extern "C" fn aero_reader_writer_read(lock: *const abi::ReaderWriterLock, deadline_ns: u64) -> Status {
    // SAFETY: by the interface's contract, an initialised object stays in place during the call;
    // the mark tells other memory apart.
    let lock = attempt!(unsafe { borrow::<ReaderWriterLock, _>(lock) });
    blocking(|| lock.read_until(deadline(deadline_ns)).map(core::mem::forget)).into_status()
}

pub unsafe extern "C" fn aero_reader_writer_read_unlock(lock: *const abi::ReaderWriterLock) -> Status {
    // SAFETY: by the interface's contract, an initialised lock stays in place during the call.
    // `aero_reader_writer_read` forgets its guard, so no guard unlocks it a second time.
    if unsafe { attempt!(borrow::<ReaderWriterLock, _>(lock)).unlock_read() } { OK } else { INVALID }
}

pub unsafe extern "C" fn aero_reader_writer_write(lock: *const abi::ReaderWriterLock, deadline_ns: u64) -> Status {
    // SAFETY: by the interface's contract, an initialised object stays in place during the call;
    // the mark tells other memory apart.
    let lock = attempt!(unsafe { borrow::<ReaderWriterLock, _>(lock) });
    blocking(|| lock.write_until(deadline(deadline_ns)).map(core::mem::forget)).into_status()
}

pub unsafe extern "C" fn aero_reader_writer_write_unlock(lock: *const abi::ReaderWriterLock) -> Status {
    // SAFETY: by the interface's contract, an initialised lock stays in place during the call.
    // `aero_reader_writer_write` forgets its guard, so no guard unlocks it a second time.
    if unsafe { attempt!(borrow::<ReaderWriterLock, _>(lock)).unlock_write() } { OK } else { INVALID }
}
