//! The functions of the interface.

/// Calls the macro `$consumer` with all functions of the interface, each with its documentation.
#[macro_export]
macro_rules! functions {
    ($consumer:path) => {
        $consumer! {
            /// Writes text to the console. `text` points to `length` bytes of UTF-8.
            fn aero_print(text: *const u8, length: usize);
            /// Ends the program, all its threads included, with an exit status.
            fn aero_exit(status: i32) -> !;
            /// Ends the program as failed, and reports the text and a backtrace. `text` points to
            /// `length` bytes of UTF-8.
            fn aero_panic(text: *const u8, length: usize) -> !;

            /// Allocates `size` bytes on a NUMA node, or near the caller with AERO_ANY. `align` is
            /// a power of two. Returns null if there is not enough memory, or if `size` is 0.
            fn aero_allocate(size: usize, align: usize, node: u32) -> *mut u8;
            /// Frees memory. `memory` is null, or points to memory from aero_allocate that is no
            /// longer used; any other address ends the program as failed.
            fn aero_free(memory: *mut u8);
            /// Returns the number of bytes that were requested for memory from aero_allocate; 0 if
            /// `memory` is any other address.
            fn aero_allocated_size(memory: *mut u8) -> usize;

            /// Spawns a thread that calls `body(argument)`. `options` points to the thread's
            /// options, or is null for the defaults. `thread` points to memory for the handle, or
            /// is null for a thread that is never joined.
            fn aero_thread_spawn(options: *const ThreadOptions, body: Function, argument: *mut u8, thread: *mut *mut Thread) -> i32;
            /// Waits until a thread has ended; its handle is invalid afterwards. AERO_BUSY while
            /// another thread joins it. AERO_INVALID for the calling thread. `thread` is a handle
            /// from aero_thread_spawn.
            fn aero_thread_join(thread: *mut Thread, deadline_ns: u64) -> i32;
            /// Gives up a thread's handle; the thread continues. `thread` is a handle from
            /// aero_thread_spawn.
            fn aero_thread_detach(thread: *mut Thread) -> i32;
            /// Ends the calling thread. Its stack is then reused, so no pointer to it may remain in
            /// use.
            fn aero_thread_exit() -> !;
            /// Lets other ready threads of this CPU run first.
            fn aero_thread_yield();
            /// Sleeps until a point in time.
            fn aero_thread_sleep(deadline_ns: u64);
            /// Moves the calling thread to a CPU. AERO_NO_SUCH_CPU if that CPU does not run.
            fn aero_thread_migrate(cpu: u32) -> i32;
            /// Returns the number of the calling thread. A number is never used twice.
            fn aero_thread_id() -> u64;

            /// Returns one more than the highest number of a running CPU. Numbers begin at 0; a CPU
            /// that did not start leaves its number unused.
            fn aero_cpu_count() -> u32;
            /// Returns the number of the CPU that the caller runs on.
            fn aero_cpu_this() -> u32;
            /// Returns the NUMA node of a CPU, or AERO_ANY if there is no such CPU.
            fn aero_cpu_node(cpu: u32) -> u32;
            /// Returns the number of NUMA nodes.
            fn aero_node_count() -> u32;
            /// Returns the distance between two nodes, where 10 is local; 0 if there is no such
            /// node.
            fn aero_node_distance(from: u32, to: u32) -> u32;
            /// Calls `function(argument)` on a CPU and waits for it. `function` runs in an
            /// interrupt and must not block. After AERO_TIMED_OUT it still runs once the CPU
            /// answers; the end of the program waits for that.
            fn aero_cpu_call(cpu: u32, function: Function, argument: *mut u8) -> i32;

            /// Returns the nanoseconds since the kernel was entered.
            fn aero_time_ns() -> u64;
            /// Returns the CPU's time counter, which is the same on all CPUs.
            fn aero_time_cycles() -> u64;
            /// Returns the rate of the time counter in Hz.
            fn aero_time_cycle_hz() -> u64;

            /// Initialises an event without a signal. `event` points to memory for an aero_event
            /// that is not in use.
            fn aero_event_init(event: *mut Event) -> i32;
            /// Wakes one waiter, or lets the next thread to wait pass. Callable from interrupt
            /// handlers. `event` points to an initialised aero_event.
            fn aero_event_signal(event: *const Event) -> i32;
            /// Wakes all current waiters. Callable from interrupt handlers. `event` points to an
            /// initialised aero_event.
            fn aero_event_broadcast(event: *const Event) -> i32;
            /// Waits for a signal. `event` points to an initialised aero_event.
            fn aero_event_wait(event: *const Event, deadline_ns: u64) -> i32;

            /// Initialises a mutex that is free. `mutex` points to memory for an aero_mutex that is
            /// not in use.
            fn aero_mutex_init(mutex: *mut Mutex) -> i32;
            /// Locks a mutex. `mutex` points to an initialised aero_mutex.
            fn aero_mutex_lock(mutex: *const Mutex, deadline_ns: u64) -> i32;
            /// Locks a mutex if it is free, otherwise AERO_BUSY. `mutex` points to an initialised
            /// aero_mutex.
            fn aero_mutex_try_lock(mutex: *const Mutex) -> i32;
            /// Unlocks a mutex that the calling thread holds, otherwise AERO_INVALID. `mutex`
            /// points to an initialised aero_mutex.
            fn aero_mutex_unlock(mutex: *const Mutex) -> i32;

            /// Initialises a condition variable. `condition` points to memory for an aero_condition
            /// that is not in use.
            fn aero_condition_init(condition: *mut Condition) -> i32;
            /// Unlocks the mutex, waits for a signal, and locks the mutex again, also when the
            /// deadline has passed. AERO_INVALID if the calling thread does not hold the mutex.
            /// `condition` and `mutex` point to an initialised aero_condition and aero_mutex.
            fn aero_condition_wait(condition: *const Condition, mutex: *const Mutex, deadline_ns: u64) -> i32;
            /// Wakes one waiter. `condition` points to an initialised aero_condition.
            fn aero_condition_signal(condition: *const Condition) -> i32;
            /// Wakes all waiters. `condition` points to an initialised aero_condition.
            fn aero_condition_broadcast(condition: *const Condition) -> i32;

            /// Initialises a semaphore with `units` units, at most UINT32_MAX. `semaphore` points
            /// to memory for an aero_semaphore that is not in use.
            fn aero_semaphore_init(semaphore: *mut Semaphore, units: u64) -> i32;
            /// Takes a unit, waiting for one. `semaphore` points to an initialised aero_semaphore.
            fn aero_semaphore_down(semaphore: *const Semaphore, deadline_ns: u64) -> i32;
            /// Adds a unit. Callable from interrupt handlers. `semaphore` points to an initialised
            /// aero_semaphore.
            fn aero_semaphore_up(semaphore: *const Semaphore) -> i32;

            /// Initialises a barrier for `threads` threads, at least one. `barrier` points to
            /// memory for an aero_barrier that is not in use.
            fn aero_barrier_init(barrier: *mut Barrier, threads: u32) -> i32;
            /// Waits until all threads have arrived. Returns 1 to the last one to arrive, 0 to the
            /// others. `barrier` points to an initialised aero_barrier.
            fn aero_barrier_wait(barrier: *const Barrier, deadline_ns: u64) -> i32;

            /// Initialises a reader-writer lock that is free. `lock` points to memory for an
            /// aero_reader_writer that is not in use.
            fn aero_reader_writer_init(lock: *mut ReaderWriterLock) -> i32;
            /// Takes a lock for reading. `lock` points to an initialised aero_reader_writer.
            fn aero_reader_writer_read(lock: *const ReaderWriterLock, deadline_ns: u64) -> i32;
            /// Releases a lock taken for reading; AERO_INVALID if no thread holds it for reading.
            /// `lock` points to an initialised aero_reader_writer.
            fn aero_reader_writer_read_unlock(lock: *const ReaderWriterLock) -> i32;
            /// Takes a lock for writing. `lock` points to an initialised aero_reader_writer.
            fn aero_reader_writer_write(lock: *const ReaderWriterLock, deadline_ns: u64) -> i32;
            /// Releases a lock taken for writing; AERO_INVALID if no thread holds it for writing.
            /// `lock` points to an initialised aero_reader_writer.
            fn aero_reader_writer_write_unlock(lock: *const ReaderWriterLock) -> i32;

            /// Creates a message queue with room for `capacity` words, at least one. `queue` points
            /// to memory for the handle.
            fn aero_message_queue_create(capacity: usize, queue: *mut *mut MessageQueue) -> i32;
            /// Destroys a message queue. AERO_BUSY while other threads wait in it. `queue` is a
            /// handle from aero_message_queue_create.
            fn aero_message_queue_destroy(queue: *mut MessageQueue) -> i32;
            /// Puts a word into a message queue, waiting for room. `queue` is a handle from
            /// aero_message_queue_create.
            fn aero_message_queue_send(queue: *const MessageQueue, word: u64, deadline_ns: u64) -> i32;
            /// Takes a word out of a message queue, waiting for one. `queue` is a handle from
            /// aero_message_queue_create; `word` points to memory for the word.
            fn aero_message_queue_receive(queue: *const MessageQueue, word: *mut u64, deadline_ns: u64) -> i32;

            /// Creates a timer that calls `function(argument)`. `function` runs in an interrupt and
            /// must not block. `timer` points to memory for the handle.
            fn aero_timer_create(function: Function, argument: *mut u8, timer: *mut *mut Timer) -> i32;
            /// Sets a timer on this CPU to fire once, in place of an earlier setting.
            /// AERO_TIMED_OUT if its function runs on another CPU and does not return. `timer` is a
            /// handle from aero_timer_create.
            fn aero_timer_set(timer: *mut Timer, deadline_ns: u64) -> i32;
            /// Cancels a timer. Returns 1 if its function was not and will not be called, 0 if it
            /// was called or the timer was not set. AERO_TIMED_OUT if the function runs on another
            /// CPU and does not return. `timer` is a handle from aero_timer_create.
            fn aero_timer_cancel(timer: *mut Timer) -> i32;
            /// Cancels and destroys a timer. AERO_TIMED_OUT if its function does not return within
            /// a second, AERO_BUSY in that function; the timer then still exists. `timer` is a
            /// handle from aero_timer_create.
            fn aero_timer_destroy(timer: *mut Timer) -> i32;

            /// Registers `handler(argument)` for an interrupt vector of its own on all CPUs.
            /// `handler` runs in an interrupt and must not block. `interrupt` points to memory for
            /// the handle.
            fn aero_interrupt_register(handler: Function, argument: *mut u8, interrupt: *mut *mut Interrupt) -> i32;
            /// Sends the interrupt to a CPU, or with AERO_ANY to all other CPUs. `interrupt` is a
            /// handle from aero_interrupt_register.
            fn aero_interrupt_send(interrupt: *const Interrupt, cpu: u32) -> i32;
            /// Unregisters a handler, which no longer runs once this succeeds. AERO_TIMED_OUT if a
            /// CPU does not leave the handler within a second: the handler is then no longer called
            /// but still registered, and this function can be called again. `interrupt` is a handle
            /// from aero_interrupt_register.
            fn aero_interrupt_unregister(interrupt: *mut Interrupt) -> i32;

            /// Registers `handler(argument)` for a device's interrupt line, delivered to a CPU.
            /// `handler` runs in an interrupt and must not block. `trigger` is one of
            /// AERO_TRIGGER_*. AERO_INVALID if there is no such line, AERO_BUSY if it already has a
            /// handler. `line` points to memory for the handle.
            fn aero_line_register(number: u32, trigger: u32, cpu: u32, handler: Function, argument: *mut u8, line: *mut *mut Line) -> i32;
            /// Delivers a line to another CPU from now on. `line` is a handle from
            /// aero_line_register.
            fn aero_line_steer(line: *const Line, cpu: u32) -> i32;
            /// Masks a line and unregisters its handler, under the same conditions as
            /// aero_interrupt_unregister. `line` is a handle from aero_line_register.
            fn aero_line_unregister(line: *mut Line) -> i32;

            /// Creates a task pool: queues of tasks, with a worker thread on each CPU. `pool`
            /// points to memory for the handle.
            fn aero_pool_create(pool: *mut *mut Pool) -> i32;
            /// Queues a task that calls `body(argument)`. `options` points to the task's options,
            /// or is null for the caller's CPU, normal priority, and a task that other CPUs may
            /// steal. Callable from interrupt handlers. `pool` is a handle from aero_pool_create.
            fn aero_pool_queue(pool: *const Pool, options: *const TaskOptions, body: Function, argument: *mut u8) -> i32;
            /// Runs the first task of this CPU's queues on the calling thread. Returns 1 if there
            /// was one, otherwise 0. Not callable from interrupt handlers. `pool` is a handle from
            /// aero_pool_create.
            fn aero_pool_run_one(pool: *const Pool) -> i32;
            /// Waits until all queued tasks have run and the workers have ended, and destroys the
            /// pool. AERO_BUSY on one of the pool's own workers. `pool` is a handle from
            /// aero_pool_create.
            fn aero_pool_destroy(pool: *mut Pool) -> i32;

            /// Creates a collective of `members` members, at least one. Each has a rank, from 0,
            /// and all call the same collective operations in the same order. After AERO_TIMED_OUT
            /// a collective is unusable. `collective` points to memory for the handle.
            fn aero_collective_create(members: u32, collective: *mut *mut Collective) -> i32;
            /// Waits until all members have arrived. Returns 1 to one elected member, 0 to the
            /// others. `collective` is a handle from aero_collective_create.
            fn aero_collective_barrier(collective: *const Collective, deadline_ns: u64) -> i32;
            /// Gives a word and gets the words of all members, by rank: the basis of every
            /// reduction. `collective` is a handle from aero_collective_create; `words` points to
            /// memory for one word per member.
            fn aero_collective_share(collective: *const Collective, rank: u32, word: u64, words: *mut u64, deadline_ns: u64) -> i32;
            /// Gives all members the word of the member of rank `root`. `collective` is a handle
            /// from aero_collective_create; `word` points to the word to give in `root`, and to
            /// memory for that word in the other members.
            fn aero_collective_broadcast(collective: *const Collective, rank: u32, root: u32, word: *mut u64, deadline_ns: u64) -> i32;
            /// Gives the collective a set of CPUs: member `rank` runs on `cpus[rank % count]` from
            /// its next aero_collective_follow on. `collective` is a handle from
            /// aero_collective_create; `cpus` points to `count` CPU numbers, at least one.
            fn aero_collective_set_cpus(collective: *const Collective, cpus: *const u32, count: usize) -> i32;
            /// Moves the calling member to the CPU that aero_collective_set_cpus gave it, if any.
            /// `collective` is a handle from aero_collective_create.
            fn aero_collective_follow(collective: *const Collective, rank: u32) -> i32;
            /// Destroys a collective. AERO_BUSY while members are in it. `collective` is a handle
            /// from aero_collective_create.
            fn aero_collective_destroy(collective: *mut Collective) -> i32;

            /// Records a mark of the program, two words, in the trace if tracing is on.
            fn aero_trace_mark(first: u64, second: u64);

            /// Creates a fiber of the calling thread: a cooperative context that calls
            /// `body(argument)` once another fiber of the thread yields to it. `stack_size` is in
            /// bytes, 0 for the default. `fiber` points to memory for the handle.
            fn aero_fiber_create(body: Function, argument: *mut u8, stack_size: usize, fiber: *mut *mut Fiber) -> i32;
            /// Switches to the thread's next fiber. The thread's own control flow is one of them.
            fn aero_fiber_yield();
            /// Switches to a fiber of the calling thread; AERO_INVALID for that of another thread.
            /// `fiber` is a handle from aero_fiber_create.
            fn aero_fiber_yield_to(fiber: *const Fiber) -> i32;
            /// Yields until a fiber of the calling thread has ended; its handle is invalid
            /// afterwards. AERO_INVALID for a fiber of another thread and for the calling fiber.
            /// `fiber` is a handle from aero_fiber_create.
            fn aero_fiber_join(fiber: *mut Fiber) -> i32;
        }
    };
}
