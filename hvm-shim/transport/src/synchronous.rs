//! Synchronous mode: calls by a word that both sides poll, without an exit.

use core::hint::spin_loop;
use core::sync::atomic::Ordering;

use kernel::thread;
use platform::ros_code;
use protocol::group::{Group, outcome, state};
use protocol::upcall::{Page, request};

use crate::serve_one;

/// The group of the thread that calls in synchronous mode: the one behind the others.
pub fn group() -> Option<&'static Group> {
    ros_code::groups().last()
}

/// Serves calls until the ROS ends the mode. Other requests are served in between. `started` is
/// called once calls are served.
pub fn serve(page: &Page, group: &'static Group, started: impl FnOnce()) {
    let words = &group.synchronous;
    thread::current().set_thread_pointer(words.thread_pointer.load(Ordering::Acquire) as usize);
    group.thread.store(thread::current().id(), Ordering::Relaxed);
    group.cpu.store(kernel::cpu::this_index() as u64, Ordering::Relaxed);
    ros_code::poll_for_system_calls(Some(words));
    group.state.store(state::READY, Ordering::Release);
    // Before the ROS learns that it can call: it may do so at once.
    let mut seen = words.requests.load(Ordering::Acquire);
    started();
    loop {
        let wanted = words.requests.load(Ordering::Acquire);
        if wanted != seen {
            seen = wanted;
            group.outcome.store(outcome::RETURNED, Ordering::Relaxed);
            group.state.store(state::RUNNING, Ordering::Release);
            // SAFETY: the ROS has this function called and answers for what it does, and has given
            // it a stack.
            let result = unsafe { ros_code::call_for(group) };
            group.result.store(result, Ordering::Relaxed);
            group.state.store(state::READY, Ordering::Relaxed);
            words.responses.store(seen, Ordering::Release);
        } else if page.request.load(Ordering::Relaxed) != request::NULL {
            match page.request.swap(request::NULL, Ordering::AcqRel) {
                request::NULL => {}
                request::SYNC_TEARDOWN => break,
                // One thread calls in this mode at a time, and only the ROS's library asks for it.
                request::SYNC_SETUP => log::warn!("HVM: synchronous mode is on already"),
                what => serve_one(page, what, page.argument.load(Ordering::Acquire)),
            }
        } else {
            spin_loop();
        }
    }
    ros_code::poll_for_system_calls(None);
    group.state.store(state::NONE, Ordering::Release);
    thread::current().set_thread_pointer(0);
}
