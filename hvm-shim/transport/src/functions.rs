//! The functions of the kernel that the ROS's code may call ([`protocol::group::function`]).

use core::sync::atomic::Ordering;

use platform::ros_code::{self, is_of_ros};
use protocol::group::function;
use protocol::upcall::Page;

use crate::words;

/// The longest name, in bytes.
const LONGEST: u64 = 64;

/// Those of the programs' interface that work for threads that are no program's of the kernel: they
/// neither end the thread, nor move it, nor refer to anything by a handle.
const OF_INTERFACE: &[&str] = &[
    "aero_barrier_",
    "aero_condition_",
    "aero_cpu_count",
    "aero_cpu_node",
    "aero_cpu_this",
    "aero_event_",
    "aero_mutex_",
    "aero_node_",
    "aero_print",
    "aero_reader_writer_",
    "aero_semaphore_",
    "aero_thread_id",
    "aero_thread_sleep",
    "aero_thread_yield",
    "aero_time_",
    "aero_trace_mark",
];

/// Returns the address of the function with the name that a request's record has; 0 if there is
/// none.
pub fn find(page: &Page) -> u64 {
    let (at, length) = (page.record.function.load(Ordering::Relaxed), page.record.argument.load(Ordering::Relaxed));
    if length > LONGEST || !is_of_ros(at) || !is_of_ros(at + length) {
        return 0;
    }
    // SAFETY: the ROS has the name there until this is answered, and answers for its memory.
    let name = unsafe { core::slice::from_raw_parts(at as *const u8, length as usize) };
    core::str::from_utf8(name).ok().and_then(named).unwrap_or(0)
}

fn named(name: &str) -> Option<u64> {
    let at = match name {
        function::GATE => ros_code::enter_kernel as *const () as usize,
        function::WAIT_BEGIN => words::begin as *const () as usize,
        function::WAIT_END => words::end as *const () as usize,
        function::WAKE => words::wake as *const () as usize,
        function::LOOK_AGAIN => words::look_again as *const () as usize,
        _ if OF_INTERFACE.iter().any(|start| name.starts_with(start)) => hrt_kernel::resolve(name)?,
        _ => return None,
    };
    Some(at as u64)
}
