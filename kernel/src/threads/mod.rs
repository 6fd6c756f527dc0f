//! Threads and what runs them: from the run queue of a CPU up to tasks and collective operations.

pub mod collective;
pub mod fiber;
pub mod scheduler;
pub mod task;
pub mod thread;
pub mod wait;
