//! Reference figures for the kernel's benchmarks, row by row: the shortest possible way, limits,
//! Linux, Nautilus.

/// Known facts about a row that are not measured.
pub struct Reference {
    /// The benchmark's name.
    pub name: &'static str,
    /// The corresponding benchmark of `bench/linux`.
    pub linux: Option<&'static str>,
    /// The median of Nautilus (the C version, commit e6e38c4) under the same emulator.
    pub nautilus: Option<u64>,
    /// Upper limit of the median.
    pub at_most: Option<u64>,
    /// Instruction count of the shortest sequence that does the job; for a share, its lower limit.
    pub floor: u64,
    /// Description of that sequence.
    pub shortest: &'static str,
    /// Where our instructions go if they are more than twice as many, as found by
    /// `aero bench --profile`.
    pub rest: &'static str,
    /// Why the row is not ten times below Linux, or not twice below Nautilus.
    pub close: &'static str,
}

/// Returns the reference for a benchmark's name.
pub fn find(name: &str) -> Option<&'static Reference> {
    REFERENCES.iter().find(|reference| reference.name == name)
}

/// Returns a reference without figures to compare with.
const fn row(name: &'static str, floor: u64, shortest: &'static str) -> Reference {
    let (linux, nautilus, at_most, rest, close) = (None, None, None, "", "");
    Reference { name, linux, nautilus, at_most, floor, shortest, rest, close }
}

impl Reference {
    const fn linux(self, name: &'static str) -> Self {
        Self { linux: Some(name), ..self }
    }

    const fn nautilus(self, median: u64) -> Self {
        Self { nautilus: Some(median), ..self }
    }

    const fn at_most(self, median: u64) -> Self {
        Self { at_most: Some(median), ..self }
    }

    const fn rest(self, rest: &'static str) -> Self {
        Self { rest, ..self }
    }

    const fn close(self, close: &'static str) -> Self {
        Self { close, ..self }
    }
}

/// All rows, in the order of `bench`.
pub const REFERENCES: &[Reference] = &[
    row("empty", 0, "nothing").linux("empty"),
    row("mutex_uncontended", 7, "load the thread, compare-and-swap, branch; compare-and-swap, branch")
        .linux("pthread_mutex")
        .at_most(16)
        .close("glibc's does not enter Linux either; a tenth of its instructions is less than two compare-and-swaps take"),
    row("spinlock_uncontended", 11, "flags kept, off, exchange, branch; store, flags back")
        .linux("pthread_spin")
        .nautilus(44)
        .close("glibc's is the same exchange in user space, and leaves interrupts on"),
    row("semaphore_uncontended", 4, "add and branch, twice")
        .linux("sem")
        .nautilus(131)
        .at_most(20)
        .close("ours is at its floor, two additions and two branches"),
    row("interrupt_null", 23, "INT, nine registers saved and restored, call, return, IRET")
        .linux("signal_self")
        .nautilus(218)
        .at_most(90)
        .rest("a frame of ten registers, noted for backtraces and preemption (30, both ways), the way up into the kernel (14), the handler looked up, counted and called (12), tracer (4), acknowledgement (7)"),
    row("syscall_null", 5, "SYSCALL, flags restored, jump").linux("getppid"),
    row("timer_set", 22, "flags, deadline to ticks, compared with the first, linked, one register written")
        .linux("timerfd_set")
        .nautilus(145)
        .at_most(120)
        .rest("an earlier setting looked for (24), interrupts off and on (11), the lock (7), tracer (2)"),
    row("timer_cancel", 14, "flags, unlinked, marked")
        .linux("timerfd_cancel")
        .nautilus(81)
        .at_most(60)
        .rest("the timer's CPU looked up, and again under the lock (11), the lock (7), interrupts (5)"),
    row("timer_lateness", 28, "interrupt entry, first deadline compared, unlinked, call")
        .linux("nanosleep_lateness")
        .at_most(300)
        .rest("the interrupt's way to its handler (40); the queue: its lock, is the first due, out of it, noted as running (50)"),
    row("alloc_free_64", 22, "flags, one object off a list; the same, onto it")
        .linux("malloc_free_64")
        .nautilus(692)
        .at_most(60)
        .rest("interrupts off and on (11), size to class (8), is it this node's memory, is the list full? (10), tracer (4)")
        .close("glibc's cache of a thread's own blocks does not enter Linux, and need not keep interrupts out"),
    row("alloc_free_4096", 22, "flags, one object off a list; the same, onto it")
        .linux("malloc_free_4096")
        .nautilus(589)
        .at_most(80)
        .rest("as alloc_free_64"),
    row("alloc_free_2m", 40, "lock, a block off its list, its record; the same, onto it")
        .linux("malloc_free_2m")
        .rest("blocks split and merged, with their records (105), from the layout to a zone and back (80), locks and interrupts (30)")
        .close("glibc has learnt by then to keep blocks of this size in its heap, without a system call"),
    row("alloc_free_64_remote", 22, "as alloc_free_64")
        .linux("malloc_free_64_remote")
        .rest("as alloc_free_64; every eighth time 8 objects go through the node's zone, here and there")
        .close("as alloc_free_64"),
    row("alloc_free_4096_remote", 22, "as alloc_free_4096")
        .linux("malloc_free_4096_remote")
        .rest("as above, with blocks split and merged"),
    row("alloc_free_2m_remote", 40, "as alloc_free_2m")
        .linux("malloc_free_2m_remote")
        .rest("as alloc_free_2m")
        .close("as alloc_free_2m"),
    row("program_alloc_free_64", 22, "flags, one object off a list; the same, onto it")
        .linux("malloc_free_64")
        .rest("the span of the block found (100), interrupts off and on, twice (40), the lock, twice (18), size to class (30), is it a block in use, was it overrun? (40)")
        .close("glibc finds a block's size before it, where a program can overwrite it, and takes no lock for a thread's own"),
    row("program_alloc_free_4096", 22, "flags, one object off a list; the same, onto it")
        .linux("malloc_free_4096")
        .rest("as above")
        .close("as above"),
    row("memory_usable_64", 950, "what is wanted at least").linux("malloc_usable_64"),
    row("memory_usable_100", 850, "what is wanted at least").linux("malloc_usable_100"),
    row("memory_usable_1024", 950, "what is wanted at least").linux("malloc_usable_1024"),
    row("memory_usable_4096", 950, "what is wanted at least").linux("malloc_usable_4096"),
    row("memory_usable_5000", 850, "what is wanted at least").linux("malloc_usable_5000"),
    row("memory_usable_64k", 950, "what is wanted at least").linux("malloc_usable_64k"),
    row("memory_usable_1m", 950, "what is wanted at least").linux("malloc_usable_1m"),
    row("memory_usable_3m", 950, "what is wanted at least").linux("malloc_usable_3m"),
    row("page_map", 45, "a frame off a list, a slot of the window, four levels walked, an entry written")
        .linux("mmap_touch")
        .rest("the frame split off a larger block (120), the slot: class, lists and lock (70), four levels walked with their checks (60)"),
    row("page_unmap", 90, "four levels walked, an entry cleared, IPI, two flushes, an answer, the frame freed")
        .linux("munmap")
        .rest("the frame merged with its neighbours, order by order (280), the other CPUs asked as a set: request, mailbox, command, wait (350), lists of slots (140), the interrupt there (110)"),
    row("memory_copy_64k", 8_192, "REP MOVSQ, an iteration for 8 bytes").linux("memcpy_64k")
        .close("the kernel uses no vector registers; an iteration of REP counts as an instruction whatever it moves, and real CPUs move cache lines by it. Programs copy with the registers they like"),
    row("memory_fill_64k", 8_192, "REP STOSQ, an iteration for 8 bytes").linux("memset_64k")
        .close("as memory_copy_64k"),
    row("thread_spawn", 40, "a dead thread taken, context, closure and name written, queue push")
        .linux("pthread_create")
        .nautilus(2_651)
        .at_most(400)
        .rest("the list of all threads and its lock (22), interrupts off and on (13), the thread's fields (20), tracer (4), program (3)"),
    row("thread_spawn_cold", 280, "a block for the thread, 16 KiB of stack, four pages mapped, a switch")
        .linux("pthread_first_cold")
        .nautilus(128_709)
        .at_most(3_000)
        .rest("eight objects fetched from the zone for the thread's cache (600), page_map's walk four times (320), slot and block of the stack (230), a thread's fields (130)"),
    row("thread_spawn_first", 75, "thread_spawn, the joiner queued, a switch, a call")
        .linux("pthread_first")
        .rest("as thread_spawn; wait, switch and accounts as in event_wake_local (100)"),
    row("thread_create_join", 115, "thread_spawn, wait, switch, exit, wake, switch")
        .linux("pthread_create_join")
        .nautilus(4_218)
        .at_most(900)
        .rest("as thread_spawn and thread_exit, and event_wake_local's wait and switch"),
    row("thread_create_join_remote", 180, "the same with two IPIs")
        .linux("pthread_create_join_remote")
        .nautilus(6_499)
        .at_most(1_400)
        .rest("as thread_create_join, and twice event_wake_remote_idle's"),
    row("thread_exit", 45, "result stored, wake, switch, result fetched")
        .linux("pthread_exit")
        .rest("off its stack, onto the CPU's own (30), out of the list of all threads (15), joiners woken (60), accounts and next thread (45), the join's other half (35)"),
    row("context_switch", 20, "queue push and pop, six registers saved and restored, stacks exchanged")
        .linux("sched_yield_switch")
        .nautilus(581)
        .at_most(90)
        .rest("run time and number of switches (9), interrupts off and on (10), mailbox (6), may the next one stay? (6), tracer (3), states (5), calls and frames (14)"),
    row("context_switch_vectors", 28, "the same, XSAVE, XRSTOR")
        .at_most(340)
        .rest("as context_switch; an area on the stack, aligned, its header cleared, masks loaded (39)"),
    row("yield_alone", 10, "flags, two looks")
        .linux("sched_yield_alone")
        .nautilus(518)
        .rest("interrupts off and on (11), call and frame (11)"),
    row("migration_round_trip", 160, "out through a stack of the CPU's, mailbox, IPI, switch; twice")
        .linux("sched_setaffinity_round_trip")
        .at_most(1_200)
        .rest("twice: interrupt entered and left (72), mailbox and command (100), out of one list of all threads and into another, with their locks (75), out through the CPU's own stack (60), idle loop, accounts, switch (90), looked up who and where (60)"),
    row("event_wake_local", 35, "a queue push and a switch")
        .linux("futex_wake_local")
        .nautilus(830)
        .at_most(180)
        .rest("locks, interrupts off and on (28), out of the list, claimed against a time-out (21), as context_switch (55), tracer (4), the waiter's way out (15)"),
    row("event_wake_remote_idle", 70, "a mailbox push, IPI, entry, exit, a switch")
        .linux("futex_wake_remote_idle")
        .at_most(450)
        .rest("the list, its lock and the claim (57), mailbox, and does the CPU sleep? (35), the command (27), interrupt entered and left (72), mailbox and queue there (65), idle loop, accounts, switch (60), the waiter's way out (20)"),
    row("event_wake_remote_busy", 70, "a mailbox push, IPI, entry, a switch")
        .linux("futex_wake_remote_busy")
        .rest("as event_wake_remote_idle; the frame of who is preempted moved to its own stack (45)")
        .close("an interrupt's entry, a switch and the account of who was interrupted take more than a tenth of Linux's path, which is short here"),
    row("condvar_wake_local", 40, "a queue push, a switch, the mutex taken")
        .linux("condvar_wake_local")
        .nautilus(884)
        .at_most(200)
        .rest("as event_wake_local"),
    row("condvar_wake_remote_idle", 75, "a mailbox push, IPI, entry, exit, a switch, the mutex")
        .linux("condvar_wake_remote_idle")
        .rest("as event_wake_remote_idle"),
    row("broadcast_all", 100, "on 2 CPUs: a wake-up here and one there")
        .linux("futex_wake_all")
        .rest("as event_wake_local and event_wake_remote_idle"),
    row("semaphore_ping_pong", 64, "twice: count, queue push, switch")
        .linux("sem_ping_pong")
        .rest("as event_wake_local, twice"),
    row("message_ping_pong_local", 80, "twice: a word stored and fetched, queue push, switch")
        .linux("eventfd_ping_pong_local")
        .rest("as event_wake_local, twice; ring, lock and who waits, at each of four accesses (205)"),
    row("message_ping_pong_remote", 150, "twice: a word stored and fetched, mailbox push, IPI, switch")
        .linux("eventfd_ping_pong_remote")
        .rest("as message_ping_pong_local and event_wake_remote_idle, twice"),
    row("message_stream", 24, "lock, store, unlock; lock, fetch, unlock")
        .linux("pipe_message")
        .rest("67 here and 88 there, of which the ring and its bounds 41 and 42, calls 9 and 14, lock and interrupts 9 and 12; the wake-up is shared by all"),
    row("ipi_one_way", 17, "one register written, entry, call")
        .nautilus(56)
        .rest("the sender's half (37): is the CPU there, is the command register free, two halves, interrupts off and on; the target's (45): a frame of ten registers, the way up, the handler looked up, tracer")
        .close("ours includes how the sender comes back to its loop, because both CPUs share the count; Nautilus's was taken from the sending instruction"),
    row("ipi_round_trip", 31, "one register written, entry, call, exit, a word seen")
        .linux("membarrier")
        .nautilus(490)
        .at_most(250)
        .rest("as ipi_one_way; the way out of the interrupt (40)"),
    row("ipi_broadcast", 31, "on 2 CPUs as ipi_round_trip")
        .linux("membarrier")
        .nautilus(266)
        .rest("as ipi_round_trip"),
    row("remote_call", 46, "as ipi_round_trip; queue push, pop, call, a word")
        .linux("membarrier")
        .nautilus(509)
        .at_most(260)
        .rest("as ipi_round_trip; a request that outlives a caller who gives up, made, counted and given up (45), mailbox (25)")
        .close("Linux offers no such call to programs: membarrier interrupts as well, but calls nothing"),
    row("barrier_all", 14, "on 2 CPUs, each: count down, branch, see the round change")
        .rest("polls for the others with pauses, before each poll a look whether another thread wants the CPU; the result passed on").linux("pthread_barrier").at_most(250),
    row("mutex_contended_2", 110, "wait: queue, switch; woken: mailbox, IPI, switch")
        .linux("pthread_mutex_contended_2")
        .rest("two waits and two wake-ups, each as event_wake_remote_idle: both CPUs' instructions count"),
    row("mutex_contended_all", 110, "on 2 CPUs the same")
        .linux("pthread_mutex_contended_all")
        .rest("as above"),
    row("spinlock_contended_2", 26, "the lock, and the look that finds it taken, here and there").linux("pthread_spin_contended_2").rest("looks while it is taken")
        .close("both look until the lock is free; how often that is, their turns on the emulator decide"),
    row("spinlock_contended_all", 26, "on 2 CPUs the same").linux("pthread_spin_contended_all").rest("as above")
        .close("as above"),
    row("fiber_switch", 18, "six registers saved and restored, stacks exchanged, a queue's next")
        .linux("swapcontext")
        .nautilus(206)
        .at_most(30),
    row("fiber_create_run", 55, "a stack taken, a context, two switches, the stack given back")
        .linux("makecontext_run")
        .nautilus(1_761)
        .at_most(250)
        .rest("the context made (13), the ring of the thread's fibers (20)"),
    row("task_queue_run", 25, "flags, put, taken, call")
        .nautilus(1_135)
        .at_most(80)
        .rest("rings: full, empty, which priority (35), the closure into the task and out (20)"),
    row("trace_event", 12, "a flag, the counter, four words stored, one pointer moved").at_most(30).rest("bounds of the ring, tag and time in one routine that keeps all registers (19)"),
    row("noise", 0, "nothing").linux("noise"),
];

#[cfg(test)]
mod tests {
    use super::REFERENCES;

    #[test]
    fn limits_are_above_floors() {
        for reference in REFERENCES {
            assert!(reference.at_most.is_none_or(|most| most > reference.floor), "{}", reference.name);
            assert!(REFERENCES.iter().filter(|other| other.name == reference.name).count() == 1, "{}", reference.name);
        }
    }
}
