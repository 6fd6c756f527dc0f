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
typedef struct aero_channel aero_channel;
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

/* What a task shall do, and where: CPU or AERO_ANY, one of AERO_PRIORITY_*, not 0 if nobody may steal it. */
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

/* Writes text to the console. */
void aero_print(const char *text, size_t length);

/* Ends the program with an exit status, all its threads included. */
__attribute__((noreturn)) void aero_exit(int32_t status);

/* Ends the program as failed; the text and a backtrace are reported. */
__attribute__((noreturn)) void aero_panic(const char *text, size_t length);

/* Allocates memory on a NUMA node, or near the caller with AERO_ANY. `align` is a power of two. Null if there
 * is none, or if the size is 0. */
void *aero_allocate(size_t size, size_t align, uint32_t node);

/* Frees what aero_allocate gave; null is allowed. */
void aero_free(void *memory);

/* Bytes that were asked for of what aero_allocate gave; 0 for any other address. */
size_t aero_allocated_size(void *memory);

/* Spawns a thread that calls `body(argument)`. `options` and `thread` may be null: the defaults, and a thread
 * nobody joins. */
int32_t aero_thread_spawn(const aero_thread_options *options, void (*body)(void *argument), void *argument, aero_thread **thread);

/* Waits until a thread has ended; its handle is gone then. AERO_BUSY while another thread joins it. */
int32_t aero_thread_join(aero_thread *thread, uint64_t deadline_ns);

/* Gives a thread's handle up; the thread goes on. */
int32_t aero_thread_detach(aero_thread *thread);

/* Ends the calling thread, whose stack is used for something else from then on: nobody has a pointer to it. */
__attribute__((noreturn)) void aero_thread_exit(void);

/* Lets other ready threads of this CPU run first. */
void aero_thread_yield(void);

/* Sleeps until a point in time. */
void aero_thread_sleep(uint64_t deadline_ns);

/* Moves the calling thread to a CPU. */
int32_t aero_thread_migrate(uint32_t cpu);

/* Number of the calling thread, never used twice. */
uint64_t aero_thread_id(void);

/* Number of CPUs that run. They are numbered from 0. */
uint32_t aero_cpu_count(void);

/* CPU the caller runs on. */
uint32_t aero_cpu_this(void);

/* NUMA node of a CPU, or AERO_ANY if there is no such CPU. */
uint32_t aero_cpu_node(uint32_t cpu);

/* Number of NUMA nodes. */
uint32_t aero_node_count(void);

/* Distance between two nodes, 10 is local; 0 if there is no such node. */
uint32_t aero_node_distance(uint32_t from, uint32_t to);

/* Calls `function(argument)` on a CPU, in an interrupt, and waits for it: no blocking in it. After AERO_TIMED_OUT it
 * still runs later, once the CPU answers; the program's end waits for that. */
int32_t aero_cpu_call(uint32_t cpu, void (*function)(void *argument), void *argument);

/* Nanoseconds since the kernel was entered. */
uint64_t aero_time_ns(void);

/* The CPU's time counter, the same on all CPUs. */
uint64_t aero_time_cycles(void);

/* Its rate in Hz. */
uint64_t aero_time_cycle_hz(void);

/* Makes an event without a signal. */
int32_t aero_event_init(aero_event *event);

/* Wakes one waiter, or lets the next one pass. Also from interrupt handlers. */
int32_t aero_event_signal(const aero_event *event);

/* Wakes all that wait now. Also from interrupt handlers. */
int32_t aero_event_broadcast(const aero_event *event);

/* Waits for a signal. */
int32_t aero_event_wait(const aero_event *event, uint64_t deadline_ns);

/* Makes a mutex that is free. */
int32_t aero_mutex_init(aero_mutex *mutex);

/* Takes a mutex. */
int32_t aero_mutex_lock(const aero_mutex *mutex, uint64_t deadline_ns);

/* Takes a mutex if it is free, else AERO_BUSY. */
int32_t aero_mutex_try_lock(const aero_mutex *mutex);

/* Gives back a mutex the caller has, AERO_INVALID otherwise. */
int32_t aero_mutex_unlock(const aero_mutex *mutex);

/* Makes a condition variable. */
int32_t aero_condition_init(aero_condition *condition);

/* Gives the mutex back, waits for a signal, and takes it again, also when the deadline has passed. */
int32_t aero_condition_wait(const aero_condition *condition, const aero_mutex *mutex, uint64_t deadline_ns);

/* Wakes one waiter. */
int32_t aero_condition_signal(const aero_condition *condition);

/* Wakes all waiters. */
int32_t aero_condition_broadcast(const aero_condition *condition);

/* Makes a semaphore of so many units. */
int32_t aero_semaphore_init(aero_semaphore *semaphore, uint64_t units);

/* Takes a unit. */
int32_t aero_semaphore_down(const aero_semaphore *semaphore, uint64_t deadline_ns);

/* Gives a unit. Also from interrupt handlers. */
int32_t aero_semaphore_up(const aero_semaphore *semaphore);

/* Makes a barrier for so many threads. */
int32_t aero_barrier_init(aero_barrier *barrier, uint32_t threads);

/* Waits until all are there; 1 for the last one to come, 0 for the others. */
int32_t aero_barrier_wait(const aero_barrier *barrier, uint64_t deadline_ns);

/* Makes a reader-writer lock that is free. */
int32_t aero_reader_writer_init(aero_reader_writer *lock);

/* Takes a lock for reading. */
int32_t aero_reader_writer_read(const aero_reader_writer *lock, uint64_t deadline_ns);

/* Gives back a lock taken for reading. */
int32_t aero_reader_writer_read_unlock(const aero_reader_writer *lock);

/* Takes a lock for writing. */
int32_t aero_reader_writer_write(const aero_reader_writer *lock, uint64_t deadline_ns);

/* Gives back a lock taken for writing. */
int32_t aero_reader_writer_write_unlock(const aero_reader_writer *lock);

/* Makes a channel for so many words. */
int32_t aero_channel_create(size_t capacity, aero_channel **channel);

/* Destroys a channel. AERO_BUSY while others wait in it. */
int32_t aero_channel_destroy(aero_channel *channel);

/* Puts a word in, waiting for room. */
int32_t aero_channel_send(const aero_channel *channel, uint64_t word, uint64_t deadline_ns);

/* Takes a word out, waiting for one. */
int32_t aero_channel_receive(const aero_channel *channel, uint64_t *word, uint64_t deadline_ns);

/* Makes a timer that will call `function(argument)` in an interrupt: no blocking in it. */
int32_t aero_timer_create(void (*function)(void *argument), void *argument, aero_timer **timer);

/* Sets a timer on this CPU, for once. Replaces what was set. AERO_TIMED_OUT if its function runs on another CPU and
 * does not return. */
int32_t aero_timer_set(aero_timer *timer, uint64_t deadline_ns);

/* Withdraws a timer: 1 if its function was not and will not be called, 0 if it was. AERO_TIMED_OUT if it runs on
 * another CPU and does not return. */
int32_t aero_timer_cancel(aero_timer *timer);

/* Cancels and destroys a timer. AERO_TIMED_OUT if its function does not return within a second, AERO_BUSY in that
 * function: then the timer is still there. */
int32_t aero_timer_destroy(aero_timer *timer);

/* Registers `handler(argument)` for an interrupt vector of its own on all CPUs: no blocking in it. */
int32_t aero_interrupt_register(void (*handler)(void *argument), void *argument, aero_interrupt **interrupt);

/* Sends the interrupt to a CPU, or with AERO_ANY to all others. */
int32_t aero_interrupt_send(const aero_interrupt *interrupt, uint32_t cpu);

/* Unregisters a handler; it does not run any more when this succeeds. AERO_TIMED_OUT if a CPU does not leave it within a
 * second: then it is not called any more, but still there, and this can be called again. */
int32_t aero_interrupt_unregister(aero_interrupt *interrupt);

/* Registers `handler(argument)` for a device's interrupt line, delivered to a CPU: no blocking in it. `trigger` is one
 * of AERO_TRIGGER_*. AERO_INVALID if there is no such line, AERO_BUSY if it has a handler. */
int32_t aero_line_register(uint32_t number, uint32_t trigger, uint32_t cpu, void (*handler)(void *argument), void *argument, aero_line **line);

/* Delivers a line to another CPU from now on. */
int32_t aero_line_steer(const aero_line *line, uint32_t cpu);

/* Masks a line and unregisters its handler: as aero_interrupt_unregister. */
int32_t aero_line_unregister(aero_line *line);

/* Makes queues for tasks, with a worker thread on each CPU. */
int32_t aero_pool_create(aero_pool **pool);

/* Queues a task that calls `body(argument)`; null options: here, normal, may be stolen. Also from interrupt handlers. */
int32_t aero_pool_queue(const aero_pool *pool, const aero_task_options *options, void (*body)(void *argument), void *argument);

/* Runs the first task of this CPU's queue on the caller: 1 if there was one, else 0. */
int32_t aero_pool_run_one(const aero_pool *pool);

/* Waits until all that is queued has run and the workers have ended. AERO_BUSY from one of its own tasks. */
int32_t aero_pool_destroy(aero_pool *pool);

/* Makes a collective of so many members. Each has a rank, from 0, and calls the same collective operations in the same
 * order. After AERO_TIMED_OUT a collective is of no more use. */
int32_t aero_collective_create(uint32_t members, aero_collective **collective);

/* Waits until all members are there; 1 for one of them, elected, 0 for the others. */
int32_t aero_collective_barrier(const aero_collective *collective, uint64_t deadline_ns);

/* Gives a word, and gets the words of all members, by rank: the base of every reduction. */
int32_t aero_collective_share(const aero_collective *collective, uint32_t rank, uint64_t word, uint64_t *words, uint64_t deadline_ns);

/* Gets the word that the member of rank `root` has put there. */
int32_t aero_collective_broadcast(const aero_collective *collective, uint32_t rank, uint32_t root, uint64_t *word, uint64_t deadline_ns);

/* Gives the collective a set of CPUs: member `rank` shall run on `cpus[rank % count]`, from its next follow on. */
int32_t aero_collective_set_cpus(const aero_collective *collective, const uint32_t *cpus, size_t count);

/* Moves the calling member to the CPU its collective wants it on. */
int32_t aero_collective_follow(const aero_collective *collective, uint32_t rank);

/* Destroys a collective. AERO_BUSY while members are in it. */
int32_t aero_collective_destroy(aero_collective *collective);

/* Puts a mark of the program's own, two words, into the trace, if tracing is on. */
void aero_trace_mark(uint64_t first, uint64_t second);

/* Makes a cooperative context of the calling thread that will call `body(argument)`; it runs when somebody gives
 * way to it. Stack in bytes, 0 for the default. */
int32_t aero_fiber_create(void (*body)(void *argument), void *argument, size_t stack_size, aero_fiber **fiber);

/* Lets the thread's next fiber run, its own flow among them. */
void aero_fiber_yield(void);

/* Lets this fiber of the calling thread run; AERO_INVALID for another thread's. */
int32_t aero_fiber_yield_to(const aero_fiber *fiber);

/* Gives way until a fiber of the calling thread has ended; its handle is gone then. AERO_INVALID for another thread's, and
 * for the fiber that calls. */
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
