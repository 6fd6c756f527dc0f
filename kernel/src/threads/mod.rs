//! Threads and what builds on them: from a CPU's run queue up to tasks and collective operations.

pub mod collective;
pub mod fiber;
pub mod scheduler;
pub mod task;
pub mod thread;
pub mod wait;
