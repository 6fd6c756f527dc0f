/* The Aerokernel's interface for programs in C and C++. Generated from hrt/abi by `cargo test -p aero-build`; docs/HRT.md
 * begins with an empty directory.
 *
 * Functions that can fail return AERO_OK or a negative number. Times are in nanoseconds; deadlines are points of
 * aero_time_ns's clock, AERO_NEVER is none. Objects live in the program's own memory, at a fixed address from their
 * init on. Handles belong to the program and are gone with it. */
#ifndef AEROKERNEL_H
#define AEROKERNEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define AERO_VERSION 1u
#define AERO_MAGIC 0x4f524541u
#define AERO_OK 0
#define AERO_TIMED_OUT (-1)
#define AERO_OUT_OF_MEMORY (-2)
#define AERO_INVALID (-3)
#define AERO_NO_SUCH_CPU (-4)
#define AERO_BUSY (-5)
#define AERO_NEVER UINT64_C(0xffffffffffffffff)
#define AERO_ANY UINT32_C(0xffffffff)
#define AERO_TRIGGER_DEFAULT 0u
#define AERO_TRIGGER_EDGE 1u
#define AERO_TRIGGER_LEVEL 2u
#define AERO_PRIORITY_HIGH 0u
#define AERO_PRIORITY_NORMAL 1u
#define AERO_PRIORITY_LOW 2u

typedef struct aero_event { uint64_t words[8]; } __attribute__((aligned(16))) aero_event;
typedef struct aero_mutex { uint64_t words[8]; } __attribute__((aligned(16))) aero_mutex;
typedef struct aero_condition { uint64_t words[8]; } __attribute__((aligned(16))) aero_condition;
typedef struct aero_semaphore { uint64_t words[8]; } __attribute__((aligned(16))) aero_semaphore;
typedef struct aero_barrier { uint64_t words[8]; } __attribute__((aligned(16))) aero_barrier;
typedef struct aero_reader_writer { uint64_t words[12]; } __attribute__((aligned(16))) aero_reader_writer;
typedef struct aero_thread aero_thread;
typedef struct aero_message_queue aero_message_queue;
typedef struct aero_timer aero_timer;
typedef struct aero_interrupt aero_interrupt;
typedef struct aero_fiber aero_fiber;
typedef struct aero_pool aero_pool;
typedef struct aero_collective aero_collective;
typedef struct aero_line aero_line;

/* How a thread shall be: name (not NUL-terminated, may be null), CPU or AERO_ANY, stack in bytes or 0. */
typedef struct aero_thread_options {
    const char *name;
    size_t name_length;
    uint32_t cpu;
    size_t stack_size;
} aero_thread_options;

/* What a task does, and where: a CPU or AERO_ANY, one of AERO_PRIORITY_*, and not 0 if no other worker may steal it. */
typedef struct aero_task_options {
    uint32_t cpu;
    uint32_t priority;
    uint32_t pinned;
} aero_task_options;

/* What an image says of itself; see AERO_PROGRAM. */
struct aero_program {
    uint32_t magic;
    uint32_t version;
    int32_t (*main)(int32_t count, const char *const *values);
    size_t stack_size;
};

/* Writes text to the console. `text` points to `length` bytes of UTF-8. */
void aero_print(const char *text, size_t length);

/* Ends the program, all its threads included, with an exit status. */
__attribute__((noreturn)) void aero_exit(int32_t status);

/* Ends the program as failed, and reports the text and a backtrace. `text` points to
 * `length` bytes of UTF-8. */
__attribute__((noreturn)) void aero_panic(const char *text, size_t length);

/* Allocates `size` bytes on a NUMA node, or near the caller with AERO_ANY. `align` is
 * a power of two. Returns null if there is not enough memory, or if `size` is 0. */
void *aero_allocate(size_t size, size_t align, uint32_t node);

/* Frees memory. `memory` is null, or points to memory from aero_allocate that is no
 * longer used; any other address ends the program as failed. */
void aero_free(void *memory);

/* Returns the number of bytes that were requested for memory from aero_allocate; 0 if
 * `memory` is any other address. */
size_t aero_allocated_size(void *memory);

/* Spawns a thread that calls `body(argument)`. `options` points to the thread's
 * options, or is null for the defaults. `thread` points to memory for the handle, or
 * is null for a thread that is never joined. */
int32_t aero_thread_spawn(const aero_thread_options *options, void (*body)(void *argument), void *argument, aero_thread **thread);

/* Waits until a thread has ended; its handle is invalid afterwards. AERO_BUSY while
 * another thread joins it. AERO_INVALID for the calling thread. `thread` is a handle
 * from aero_thread_spawn. */
int32_t aero_thread_join(aero_thread *thread, uint64_t deadline_ns);

/* Gives up a thread's handle; the thread continues. `thread` is a handle from
 * aero_thread_spawn. */
int32_t aero_thread_detach(aero_thread *thread);

/* Ends the calling thread. Its stack is then reused, so no pointer to it may remain in
 * use. */
__attribute__((noreturn)) void aero_thread_exit(void);

/* Lets other ready threads of this CPU run first. */
void aero_thread_yield(void);

/* Sleeps until a point in time. */
void aero_thread_sleep(uint64_t deadline_ns);

/* Moves the calling thread to a CPU. AERO_NO_SUCH_CPU if that CPU does not run. */
int32_t aero_thread_migrate(uint32_t cpu);

/* Returns the number of the calling thread. A number is never used twice. */
uint64_t aero_thread_id(void);

/* Returns one more than the highest number of a running CPU. Numbers begin at 0; a CPU
 * that did not start leaves its number unused. */
uint32_t aero_cpu_count(void);

/* Returns the number of the CPU that the caller runs on. */
uint32_t aero_cpu_this(void);

/* Returns the NUMA node of a CPU, or AERO_ANY if there is no such CPU. */
uint32_t aero_cpu_node(uint32_t cpu);

/* Returns the number of NUMA nodes. */
uint32_t aero_node_count(void);

/* Returns the distance between two nodes, where 10 is local; 0 if there is no such
 * node. */
uint32_t aero_node_distance(uint32_t from, uint32_t to);

/* Calls `function(argument)` on a CPU and waits for it. `function` runs in an
 * interrupt and must not block. After AERO_TIMED_OUT it still runs once the CPU
 * answers; the end of the program waits for that. */
int32_t aero_cpu_call(uint32_t cpu, void (*function)(void *argument), void *argument);

/* Returns the nanoseconds since the kernel was entered. */
uint64_t aero_time_ns(void);

/* Returns the CPU's time counter, which is the same on all CPUs. */
uint64_t aero_time_cycles(void);

/* Returns the rate of the time counter in Hz. */
uint64_t aero_time_cycle_hz(void);

/* Initialises an event without a signal. `event` points to memory for an aero_event
 * that is not in use. */
int32_t aero_event_init(aero_event *event);

/* Wakes one waiter, or lets the next thread to wait pass. Callable from interrupt
 * handlers. `event` points to an initialised aero_event. */
int32_t aero_event_signal(const aero_event *event);

/* Wakes all current waiters. Callable from interrupt handlers. `event` points to an
 * initialised aero_event. */
int32_t aero_event_broadcast(const aero_event *event);

/* Waits for a signal. `event` points to an initialised aero_event. */
int32_t aero_event_wait(const aero_event *event, uint64_t deadline_ns);

/* Initialises a mutex that is free. `mutex` points to memory for an aero_mutex that is
 * not in use. */
int32_t aero_mutex_init(aero_mutex *mutex);

/* Locks a mutex. `mutex` points to an initialised aero_mutex. */
int32_t aero_mutex_lock(const aero_mutex *mutex, uint64_t deadline_ns);

/* Locks a mutex if it is free, otherwise AERO_BUSY. `mutex` points to an initialised
 * aero_mutex. */
int32_t aero_mutex_try_lock(const aero_mutex *mutex);

/* Unlocks a mutex that the calling thread holds, otherwise AERO_INVALID. `mutex`
 * points to an initialised aero_mutex. */
int32_t aero_mutex_unlock(const aero_mutex *mutex);

/* Initialises a condition variable. `condition` points to memory for an aero_condition
 * that is not in use. */
int32_t aero_condition_init(aero_condition *condition);

/* Unlocks the mutex, waits for a signal, and locks the mutex again, also when the
 * deadline has passed. AERO_INVALID if the calling thread does not hold the mutex.
 * `condition` and `mutex` point to an initialised aero_condition and aero_mutex. */
int32_t aero_condition_wait(const aero_condition *condition, const aero_mutex *mutex, uint64_t deadline_ns);

/* Wakes one waiter. `condition` points to an initialised aero_condition. */
int32_t aero_condition_signal(const aero_condition *condition);

/* Wakes all waiters. `condition` points to an initialised aero_condition. */
int32_t aero_condition_broadcast(const aero_condition *condition);

/* Initialises a semaphore with `units` units, at most UINT32_MAX. `semaphore` points
 * to memory for an aero_semaphore that is not in use. */
int32_t aero_semaphore_init(aero_semaphore *semaphore, uint64_t units);

/* Takes a unit, waiting for one. `semaphore` points to an initialised aero_semaphore. */
int32_t aero_semaphore_down(const aero_semaphore *semaphore, uint64_t deadline_ns);

/* Adds a unit. Callable from interrupt handlers. `semaphore` points to an initialised
 * aero_semaphore. */
int32_t aero_semaphore_up(const aero_semaphore *semaphore);

/* Initialises a barrier for `threads` threads, at least one. `barrier` points to
 * memory for an aero_barrier that is not in use. */
int32_t aero_barrier_init(aero_barrier *barrier, uint32_t threads);

/* Waits until all threads have arrived. Returns 1 to the last one to arrive, 0 to the
 * others. `barrier` points to an initialised aero_barrier. */
int32_t aero_barrier_wait(const aero_barrier *barrier, uint64_t deadline_ns);

/* Initialises a reader-writer lock that is free. `lock` points to memory for an
 * aero_reader_writer that is not in use. */
int32_t aero_reader_writer_init(aero_reader_writer *lock);

/* Takes a lock for reading. `lock` points to an initialised aero_reader_writer. */
int32_t aero_reader_writer_read(const aero_reader_writer *lock, uint64_t deadline_ns);

/* Releases a lock taken for reading; AERO_INVALID if no thread holds it for reading.
 * `lock` points to an initialised aero_reader_writer. */
int32_t aero_reader_writer_read_unlock(const aero_reader_writer *lock);

/* Takes a lock for writing. `lock` points to an initialised aero_reader_writer. */
int32_t aero_reader_writer_write(const aero_reader_writer *lock, uint64_t deadline_ns);

/* Releases a lock taken for writing; AERO_INVALID if no thread holds it for writing.
 * `lock` points to an initialised aero_reader_writer. */
int32_t aero_reader_writer_write_unlock(const aero_reader_writer *lock);

/* Creates a message queue with room for `capacity` words, at least one. `queue` points
 * to memory for the handle. */
int32_t aero_message_queue_create(size_t capacity, aero_message_queue **queue);

/* Destroys a message queue. AERO_BUSY while other threads wait in it. `queue` is a
 * handle from aero_message_queue_create. */
int32_t aero_message_queue_destroy(aero_message_queue *queue);

/* Puts a word into a message queue, waiting for room. `queue` is a handle from
 * aero_message_queue_create. */
int32_t aero_message_queue_send(const aero_message_queue *queue, uint64_t word, uint64_t deadline_ns);

/* Takes a word out of a message queue, waiting for one. `queue` is a handle from
 * aero_message_queue_create; `word` points to memory for the word. */
int32_t aero_message_queue_receive(const aero_message_queue *queue, uint64_t *word, uint64_t deadline_ns);

/* Creates a timer that calls `function(argument)`. `function` runs in an interrupt and
 * must not block. `timer` points to memory for the handle. */
int32_t aero_timer_create(void (*function)(void *argument), void *argument, aero_timer **timer);

/* Sets a timer on this CPU to fire once, in place of an earlier setting.
 * AERO_TIMED_OUT if its function runs on another CPU and does not return. `timer` is a
 * handle from aero_timer_create. */
int32_t aero_timer_set(aero_timer *timer, uint64_t deadline_ns);

/* Cancels a timer. Returns 1 if its function was not and will not be called, 0 if it
 * was called or the timer was not set. AERO_TIMED_OUT if the function runs on another
 * CPU and does not return. `timer` is a handle from aero_timer_create. */
int32_t aero_timer_cancel(aero_timer *timer);

/* Cancels and destroys a timer. AERO_TIMED_OUT if its function does not return within
 * a second, AERO_BUSY in that function; the timer then still exists. `timer` is a
 * handle from aero_timer_create. */
int32_t aero_timer_destroy(aero_timer *timer);

/* Registers `handler(argument)` for an interrupt vector of its own on all CPUs.
 * `handler` runs in an interrupt and must not block. `interrupt` points to memory for
 * the handle. */
int32_t aero_interrupt_register(void (*handler)(void *argument), void *argument, aero_interrupt **interrupt);

/* Sends the interrupt to a CPU, or with AERO_ANY to all other CPUs. `interrupt` is a
 * handle from aero_interrupt_register. */
int32_t aero_interrupt_send(const aero_interrupt *interrupt, uint32_t cpu);

/* Unregisters a handler, which no longer runs once this succeeds. AERO_TIMED_OUT if a
 * CPU does not leave the handler within a second: the handler is then no longer called
 * but still registered, and this function can be called again. `interrupt` is a handle
 * from aero_interrupt_register. */
int32_t aero_interrupt_unregister(aero_interrupt *interrupt);

/* Registers `handler(argument)` for a device's interrupt line, delivered to a CPU.
 * `handler` runs in an interrupt and must not block. `trigger` is one of
 * AERO_TRIGGER_*. AERO_INVALID if there is no such line, AERO_BUSY if it already has a
 * handler. `line` points to memory for the handle. */
int32_t aero_line_register(uint32_t number, uint32_t trigger, uint32_t cpu, void (*handler)(void *argument), void *argument, aero_line **line);

/* Delivers a line to another CPU from now on. `line` is a handle from
 * aero_line_register. */
int32_t aero_line_steer(const aero_line *line, uint32_t cpu);

/* Masks a line and unregisters its handler, under the same conditions as
 * aero_interrupt_unregister. `line` is a handle from aero_line_register. */
int32_t aero_line_unregister(aero_line *line);

/* Creates a task pool: queues of tasks, with a worker thread on each CPU. `pool`
 * points to memory for the handle. */
int32_t aero_pool_create(aero_pool **pool);

/* Queues a task that calls `body(argument)`. `options` points to the task's options,
 * or is null for the caller's CPU, normal priority, and a task that other CPUs may
 * steal. Callable from interrupt handlers. `pool` is a handle from aero_pool_create. */
int32_t aero_pool_queue(const aero_pool *pool, const aero_task_options *options, void (*body)(void *argument), void *argument);

/* Runs the first task of this CPU's queues on the calling thread. Returns 1 if there
 * was one, otherwise 0. Not callable from interrupt handlers. `pool` is a handle from
 * aero_pool_create. */
int32_t aero_pool_run_one(const aero_pool *pool);

/* Waits until all queued tasks have run and the workers have ended, and destroys the
 * pool. AERO_BUSY on one of the pool's own workers. `pool` is a handle from
 * aero_pool_create. */
int32_t aero_pool_destroy(aero_pool *pool);

/* Creates a collective of `members` members, at least one. Each has a rank, from 0,
 * and all call the same collective operations in the same order. After AERO_TIMED_OUT
 * a collective is unusable. `collective` points to memory for the handle. */
int32_t aero_collective_create(uint32_t members, aero_collective **collective);

/* Waits until all members have arrived. Returns 1 to one elected member, 0 to the
 * others. `collective` is a handle from aero_collective_create. */
int32_t aero_collective_barrier(const aero_collective *collective, uint64_t deadline_ns);

/* Gives a word and gets the words of all members, by rank: the basis of every
 * reduction. `collective` is a handle from aero_collective_create; `words` points to
 * memory for one word per member. */
int32_t aero_collective_share(const aero_collective *collective, uint32_t rank, uint64_t word, uint64_t *words, uint64_t deadline_ns);

/* Gives all members the word of the member of rank `root`. `collective` is a handle
 * from aero_collective_create; `word` points to the word to give in `root`, and to
 * memory for that word in the other members. */
int32_t aero_collective_broadcast(const aero_collective *collective, uint32_t rank, uint32_t root, uint64_t *word, uint64_t deadline_ns);

/* Gives the collective a set of CPUs: member `rank` runs on `cpus[rank % count]` from
 * its next aero_collective_follow on. `collective` is a handle from
 * aero_collective_create; `cpus` points to `count` CPU numbers, at least one. */
int32_t aero_collective_set_cpus(const aero_collective *collective, const uint32_t *cpus, size_t count);

/* Moves the calling member to the CPU that aero_collective_set_cpus gave it, if any.
 * `collective` is a handle from aero_collective_create. */
int32_t aero_collective_follow(const aero_collective *collective, uint32_t rank);

/* Destroys a collective. AERO_BUSY while members are in it. `collective` is a handle
 * from aero_collective_create. */
int32_t aero_collective_destroy(aero_collective *collective);

/* Records a mark of the program, two words, in the trace if tracing is on. */
void aero_trace_mark(uint64_t first, uint64_t second);

/* Creates a fiber of the calling thread: a cooperative context that calls
 * `body(argument)` once another fiber of the thread yields to it. `stack_size` is in
 * bytes, 0 for the default. `fiber` points to memory for the handle. */
int32_t aero_fiber_create(void (*body)(void *argument), void *argument, size_t stack_size, aero_fiber **fiber);

/* Switches to the thread's next fiber. The thread's own control flow is one of them. */
void aero_fiber_yield(void);

/* Switches to a fiber of the calling thread; AERO_INVALID for that of another thread.
 * `fiber` is a handle from aero_fiber_create. */
int32_t aero_fiber_yield_to(const aero_fiber *fiber);

/* Yields until a fiber of the calling thread has ended; its handle is invalid
 * afterwards. AERO_INVALID for a fiber of another thread and for the calling fiber.
 * `fiber` is a handle from aero_fiber_create. */
int32_t aero_fiber_join(aero_fiber *fiber);

#ifdef __cplusplus
}
#define AERO_EXPORT extern "C"
#else
#define AERO_EXPORT
#endif

/* Makes `function` the program's first function, with a stack of `stack` bytes, 0 for the default. Once per program. */
#define AERO_PROGRAM_WITH_STACK(function, stack) \
    AERO_EXPORT __attribute__((visibility("default"), used)) const struct aero_program aero_program = { \
        AERO_MAGIC, AERO_VERSION, function, stack }
#define AERO_PROGRAM(function) AERO_PROGRAM_WITH_STACK(function, 0)

#endif
