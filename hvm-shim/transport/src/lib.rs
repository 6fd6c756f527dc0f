//! Requests of the regular OS (ROS) to the kernel as a hybrid runtime (HRT), and their answers.
//!
//! An interrupt wakes a thread, which takes the request from the communication page
//! ([`protocol::upcall`]), does it, and answers by a downcall. What the monitor writes is not
//! trusted, but the functions that it has called are: they run in the kernel's mode.
#![no_std]

extern crate alloc;

mod functions;
mod groups;
mod polling;
mod synchronous;
mod words;

use core::mem::transmute;
use core::sync::atomic::Ordering;

use kernel::call;
use kernel::interrupts::register_vector_at;
use kernel::thread::{self, JoinHandle};
use kernel::wait::{Event, InterruptSafe};
use platform::ros_code::is_of_ros;
use platform::upcall::{self, VECTOR};
use platform::{again, downcall};
use protocol::call::{FAILED, extension, number};
use protocol::upcall::{Page, Record, request};

/// Stack of a thread that calls functions of the ROS, in bytes.
const STACK_SIZE: usize = 256 << 10;

/// Something has been requested.
struct Requested(Event);

// SAFETY: the handler only signals events, which takes a spin lock and never allocates.
unsafe impl InterruptSafe for Requested {}

static REQUESTED: Requested = Requested(Event::new());

/// A function of the ROS.
type Function = unsafe extern "C" fn(argument: u64, cpu: u64) -> u64;

/// Starts to serve requests. Without a monitor that sends any, nothing happens.
pub fn start() {
    let Some(page) = upcall::page() else { return };
    groups::install();
    again::offer();
    if let Err(error) = register_vector_at(VECTOR, &REQUESTED, interrupted) {
        log::warn!("HVM: requests cannot be served: vector {VECTOR:#x}: {error}");
        return;
    }
    match thread::Builder::new("upcalls").cpu(0).stack_size(STACK_SIZE).spawn(move || serve(page)) {
        Ok(thread) => thread.detach(),
        Err(error) => log::warn!("HVM: requests cannot be served: {error}"),
    }
}

/// The monitor has a request, or a partner wants its thread.
fn interrupted(requested: &Requested) {
    if !words::look_again_here() {
        requested.0.signal();
    }
}

/// Serves requests for ever.
fn serve(page: &Page) {
    loop {
        match page.request.swap(request::NULL, Ordering::AcqRel) {
            request::NULL => REQUESTED.0.wait(),
            what => serve_one(page, what, page.argument.load(Ordering::Acquire)),
        }
    }
}

/// Answers a request.
fn answer(result: u64) {
    downcall::call(number::INVOKE_DONE, [result, 0]);
}

fn serve_one(page: &Page, what: u64, argument: u64) {
    match what {
        request::INVOKE => {
            let result = called(argument).map_or(FAILED, |(function, argument)| {
                // SAFETY: the ROS has this function called here and answers for what it does.
                unsafe { function(argument, 0) }
            });
            downcall::call(number::INVOKE_DONE, [result, 0]);
        }
        request::INVOKE_ALL => invoke_all(called(argument)),
        request::MERGE | request::UNMERGE => {
            let root = (what == request::MERGE).then_some(argument);
            // SAFETY: the monitor gives the root of tables that it keeps, in the boot state.
            unsafe { upcall::merge(root) };
            let flushed = call::flush_tlbs();
            downcall::call(number::MERGE_DONE, [u64::from(flushed.is_err()), 0]);
        }
        request::SYNC_SETUP => match synchronous::group() {
            Some(group) => {
                synchronous::serve(page, group, || answer(0));
                answer(0);
            }
            None => answer(FAILED),
        },
        request::ADD_GROUP => {
            let is_there = groups::add(argument);
            downcall::call(extension::GROUP_ADDED, [u64::from(!is_there), 0]);
        }
        request::FIND_FUNCTION => {
            downcall::call(extension::FUNCTION, [functions::find(page), 0]);
        }
        other => log::warn!("HVM: request {other:#x} is unknown and ignored"),
    }
}

/// Reads the record of a call; `None` if it names no function of the ROS.
fn called(at: u64) -> Option<(Function, u64)> {
    let page = upcall::page()?;
    // The only records are those in the communication page, so no address is followed.
    let is_there = at == core::ptr::from_ref(&page.record) as u64;
    let Record { function, argument } = &page.record;
    let function = function.load(Ordering::Relaxed);
    let argument = argument.load(Ordering::Relaxed);
    // SAFETY: the value is not 0; the code that calls the function answers for what it is.
    (is_there && function != 0 && is_of_ros(function))
        .then(|| (unsafe { transmute::<u64, Function>(function) }, argument))
}

/// Calls a function on all CPUs at once, each with an answer of its own.
fn invoke_all(called: Option<(Function, u64)>) {
    let on = |cpu: usize| -> Result<JoinHandle<()>, thread::SpawnError> {
        thread::Builder::new("upcall").cpu(cpu).stack_size(STACK_SIZE).spawn(move || {
            let result = called.map_or(FAILED, |(function, argument)| {
                // SAFETY: as for a call on one CPU.
                unsafe { function(argument, cpu as u64) }
            });
            downcall::call(number::INVOKE_DONE, [result, 0]);
        })
    };
    for cpu in 0..kernel::cpu::count() {
        match on(cpu) {
            Ok(thread) => thread.detach(),
            Err(error) => {
                log::warn!("HVM: a call on CPU {cpu} is not made: {error}");
                downcall::call(number::INVOKE_DONE, [FAILED, 0]);
            }
        }
    }
}
