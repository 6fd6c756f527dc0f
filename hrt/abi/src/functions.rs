//! The functions.

/// Calls the macro `$consumer` with all functions of the interface, each with its documentation.
#[macro_export]
macro_rules! functions {
    ($consumer:path) => {
        $consumer! {
            /// Writes text to the console.
            fn aero_print(text: *const u8, length: usize);
            /// Ends the program with an exit status, all its threads included.
            fn aero_exit(status: i32) -> !;
            /// Ends the program as failed; the text and a backtrace are reported.
            fn aero_panic(text: *const u8, length: usize) -> !;

            /// Allocates memory on a NUMA node, or near the caller with AERO_ANY. `align` is a power of two. Null if there
            /// is none, or if the size is 0.
            fn aero_allocate(size: usize, align: usize, node: u32) -> *mut u8;
            /// Frees what aero_allocate gave; null is allowed.
            fn aero_free(memory: *mut u8);
            /// Bytes that were asked for of what aero_allocate gave; 0 for any other address.
            fn aero_allocated_size(memory: *mut u8) -> usize;

            /// Spawns a thread that calls `body(argument)`. `options` and `thread` may be null: the defaults, and a thread
            /// nobody joins.
            fn aero_thread_spawn(options: *const ThreadOptions, body: Function, argument: *mut u8, thread: *mut *mut Thread) -> i32;
            /// Waits until a thread has ended; its handle is gone then. AERO_BUSY while another thread joins it.
            fn aero_thread_join(thread: *mut Thread, deadline_ns: u64) -> i32;
            /// Gives a thread's handle up; the thread goes on.
            fn aero_thread_detach(thread: *mut Thread) -> i32;
            /// Ends the calling thread, whose stack is used for something else from then on: nobody has a pointer to it.
            fn aero_thread_exit() -> !;
            /// Lets other ready threads of this CPU run first.
            fn aero_thread_yield();
            /// Sleeps until a point in time.
            fn aero_thread_sleep(deadline_ns: u64);
            /// Moves the calling thread to a CPU.
            fn aero_thread_migrate(cpu: u32) -> i32;
            /// Number of the calling thread, never used twice.
            fn aero_thread_id() -> u64;

            /// Number of CPUs that run. They are numbered from 0.
            fn aero_cpu_count() -> u32;
            /// CPU the caller runs on.
            fn aero_cpu_this() -> u32;
            /// NUMA node of a CPU, or AERO_ANY if there is no such CPU.
            fn aero_cpu_node(cpu: u32) -> u32;
            /// Number of NUMA nodes.
            fn aero_node_count() -> u32;
            /// Distance between two nodes, 10 is local; 0 if there is no such node.
            fn aero_node_distance(from: u32, to: u32) -> u32;
            /// Calls `function(argument)` on a CPU, in an interrupt, and waits for it: no blocking in it. After AERO_TIMED_OUT it
            /// still runs later, once the CPU answers; the program's end waits for that.
            fn aero_cpu_call(cpu: u32, function: Function, argument: *mut u8) -> i32;

            /// Nanoseconds since the kernel was entered.
            fn aero_time_ns() -> u64;
            /// The CPU's time counter, the same on all CPUs.
            fn aero_time_cycles() -> u64;
            /// Its rate in Hz.
            fn aero_time_cycle_hz() -> u64;

            /// Makes an event without a signal.
            fn aero_event_init(event: *mut Event) -> i32;
            /// Wakes one waiter, or lets the next one pass. Also from interrupt handlers.
            fn aero_event_signal(event: *const Event) -> i32;
            /// Wakes all that wait now. Also from interrupt handlers.
            fn aero_event_broadcast(event: *const Event) -> i32;
            /// Waits for a signal.
            fn aero_event_wait(event: *const Event, deadline_ns: u64) -> i32;

            /// Makes a mutex that is free.
            fn aero_mutex_init(mutex: *mut Mutex) -> i32;
            /// Takes a mutex.
            fn aero_mutex_lock(mutex: *const Mutex, deadline_ns: u64) -> i32;
            /// Takes a mutex if it is free, else AERO_BUSY.
            fn aero_mutex_try_lock(mutex: *const Mutex) -> i32;
            /// Gives back a mutex the caller has, AERO_INVALID otherwise.
            fn aero_mutex_unlock(mutex: *const Mutex) -> i32;

            /// Makes a condition variable.
            fn aero_condition_init(condition: *mut Condition) -> i32;
            /// Gives the mutex back, waits for a signal, and takes it again, also when the deadline has passed.
            fn aero_condition_wait(condition: *const Condition, mutex: *const Mutex, deadline_ns: u64) -> i32;
            /// Wakes one waiter.
            fn aero_condition_signal(condition: *const Condition) -> i32;
            /// Wakes all waiters.
            fn aero_condition_broadcast(condition: *const Condition) -> i32;

            /// Makes a semaphore of so many units.
            fn aero_semaphore_init(semaphore: *mut Semaphore, units: u64) -> i32;
            /// Takes a unit.
            fn aero_semaphore_down(semaphore: *const Semaphore, deadline_ns: u64) -> i32;
            /// Gives a unit. Also from interrupt handlers.
            fn aero_semaphore_up(semaphore: *const Semaphore) -> i32;

            /// Makes a barrier for so many threads.
            fn aero_barrier_init(barrier: *mut Barrier, threads: u32) -> i32;
            /// Waits until all are there; 1 for the last one to come, 0 for the others.
            fn aero_barrier_wait(barrier: *const Barrier, deadline_ns: u64) -> i32;

            /// Makes a reader-writer lock that is free.
            fn aero_reader_writer_init(lock: *mut ReaderWriterLock) -> i32;
            /// Takes a lock for reading.
            fn aero_reader_writer_read(lock: *const ReaderWriterLock, deadline_ns: u64) -> i32;
            /// Gives back a lock taken for reading.
            fn aero_reader_writer_read_unlock(lock: *const ReaderWriterLock) -> i32;
            /// Takes a lock for writing.
            fn aero_reader_writer_write(lock: *const ReaderWriterLock, deadline_ns: u64) -> i32;
            /// Gives back a lock taken for writing.
            fn aero_reader_writer_write_unlock(lock: *const ReaderWriterLock) -> i32;

            /// Makes a channel for so many words.
            fn aero_channel_create(capacity: usize, channel: *mut *mut Channel) -> i32;
            /// Destroys a channel. AERO_BUSY while others wait in it.
            fn aero_channel_destroy(channel: *mut Channel) -> i32;
            /// Puts a word in, waiting for room.
            fn aero_channel_send(channel: *const Channel, word: u64, deadline_ns: u64) -> i32;
            /// Takes a word out, waiting for one.
            fn aero_channel_receive(channel: *const Channel, word: *mut u64, deadline_ns: u64) -> i32;

            /// Makes a timer that will call `function(argument)` in an interrupt: no blocking in it.
            fn aero_timer_create(function: Function, argument: *mut u8, timer: *mut *mut Timer) -> i32;
            /// Sets a timer on this CPU, for once. Replaces what was set. AERO_TIMED_OUT if its function runs on another CPU and
            /// does not return.
            fn aero_timer_set(timer: *mut Timer, deadline_ns: u64) -> i32;
            /// Withdraws a timer: 1 if its function was not and will not be called, 0 if it was. AERO_TIMED_OUT if it runs on
            /// another CPU and does not return.
            fn aero_timer_cancel(timer: *mut Timer) -> i32;
            /// Cancels and destroys a timer. AERO_TIMED_OUT if its function does not return within a second, AERO_BUSY in that
            /// function: then the timer is still there.
            fn aero_timer_destroy(timer: *mut Timer) -> i32;

            /// Registers `handler(argument)` for an interrupt vector of its own on all CPUs: no blocking in it.
            fn aero_interrupt_register(handler: Function, argument: *mut u8, interrupt: *mut *mut Interrupt) -> i32;
            /// Sends the interrupt to a CPU, or with AERO_ANY to all others.
            fn aero_interrupt_send(interrupt: *const Interrupt, cpu: u32) -> i32;
            /// Unregisters a handler; it does not run any more when this succeeds. AERO_TIMED_OUT if a CPU does not leave it within a
            /// second: then it is not called any more, but still there, and this can be called again.
            fn aero_interrupt_unregister(interrupt: *mut Interrupt) -> i32;

            /// Registers `handler(argument)` for a device's interrupt line, delivered to a CPU: no blocking in it. `trigger` is one
            /// of AERO_TRIGGER_*. AERO_INVALID if there is no such line, AERO_BUSY if it has a handler.
            fn aero_line_register(number: u32, trigger: u32, cpu: u32, handler: Function, argument: *mut u8, line: *mut *mut Line) -> i32;
            /// Delivers a line to another CPU from now on.
            fn aero_line_steer(line: *const Line, cpu: u32) -> i32;
            /// Masks a line and unregisters its handler: as aero_interrupt_unregister.
            fn aero_line_unregister(line: *mut Line) -> i32;

            /// Makes queues for tasks, with a worker thread on each CPU.
            fn aero_pool_create(pool: *mut *mut Pool) -> i32;
            /// Queues a task that calls `body(argument)`; null options: here, normal, may be stolen. Also from interrupt handlers.
            fn aero_pool_queue(pool: *const Pool, options: *const TaskOptions, body: Function, argument: *mut u8) -> i32;
            /// Runs the first task of this CPU's queue on the caller: 1 if there was one, else 0.
            fn aero_pool_run_one(pool: *const Pool) -> i32;
            /// Waits until all that is queued has run and the workers have ended. AERO_BUSY from one of its own tasks.
            fn aero_pool_destroy(pool: *mut Pool) -> i32;

            /// Makes a collective of so many members. Each has a rank, from 0, and calls the same collective operations in the same
            /// order. After AERO_TIMED_OUT a collective is of no more use.
            fn aero_collective_create(members: u32, collective: *mut *mut Collective) -> i32;
            /// Waits until all members are there; 1 for one of them, elected, 0 for the others.
            fn aero_collective_barrier(collective: *const Collective, deadline_ns: u64) -> i32;
            /// Gives a word, and gets the words of all members, by rank: the base of every reduction.
            fn aero_collective_share(collective: *const Collective, rank: u32, word: u64, words: *mut u64, deadline_ns: u64) -> i32;
            /// Gets the word that the member of rank `root` has put there.
            fn aero_collective_broadcast(collective: *const Collective, rank: u32, root: u32, word: *mut u64, deadline_ns: u64) -> i32;
            /// Gives the collective a set of CPUs: member `rank` shall run on `cpus[rank % count]`, from its next follow on.
            fn aero_collective_set_cpus(collective: *const Collective, cpus: *const u32, count: usize) -> i32;
            /// Moves the calling member to the CPU its collective wants it on.
            fn aero_collective_follow(collective: *const Collective, rank: u32) -> i32;
            /// Destroys a collective. AERO_BUSY while members are in it.
            fn aero_collective_destroy(collective: *mut Collective) -> i32;

            /// Puts a mark of the program's own, two words, into the trace, if tracing is on.
            fn aero_trace_mark(first: u64, second: u64);

            /// Makes a cooperative context of the calling thread that will call `body(argument)`; it runs when somebody gives
            /// way to it. Stack in bytes, 0 for the default.
            fn aero_fiber_create(body: Function, argument: *mut u8, stack_size: usize, fiber: *mut *mut Fiber) -> i32;
            /// Lets the thread's next fiber run, its own flow among them.
            fn aero_fiber_yield();
            /// Lets this fiber of the calling thread run; AERO_INVALID for another thread's.
            fn aero_fiber_yield_to(fiber: *const Fiber) -> i32;
            /// Gives way until a fiber of the calling thread has ended; its handle is gone then. AERO_INVALID for another thread's, and
            /// for the fiber that calls.
            fn aero_fiber_join(fiber: *mut Fiber) -> i32;
        }
    };
}
