/* Mutexes, condition variables, barriers, spin locks and sleeping, as programs use them: the same
   with overrides as without, also where a signal, a cancellation or a child comes in between. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THREADS 8
#define ROUNDS 2000

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static pthread_spinlock_t spin;
static long counted, spun, serial, turn;
static volatile sig_atomic_t handled;

static void check(int is_right, const char *what)
{
    if (!is_right) {
        printf("wrong: %s\n", what);
        exit(1);
    }
}

static void *count(void *argument)
{
    for (int i = 0; i < ROUNDS; i++) {
        pthread_mutex_lock(&lock);
        counted++;
        pthread_mutex_unlock(&lock);
        if (i % 16 == 0) {
            pthread_spin_lock(&spin);
            spun++;
            pthread_spin_unlock(&spin);
        }
        if (i % 64 == 0 && pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
            __atomic_fetch_add(&serial, 1, __ATOMIC_RELAXED);
    }
    return argument;
}

/* Threads take turns, by one condition variable. */
static void *take_turns(void *argument)
{
    long own = (long)argument;
    for (int i = 0; i < 50; i++) {
        pthread_mutex_lock(&lock);
        while (turn % THREADS != own)
            pthread_cond_wait(&changed, &lock);
        turn++;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

static void run(void *(*body)(void *))
{
    pthread_t threads[THREADS];
    for (long i = 0; i < THREADS; i++)
        check(!pthread_create(&threads[i], NULL, body, (void *)i), "a thread");
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static void kinds(void)
{
    pthread_mutexattr_t attributes;
    pthread_mutex_t mutex;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&mutex, &attributes);
    int a = pthread_mutex_lock(&mutex), b = pthread_mutex_lock(&mutex), c = pthread_mutex_trylock(&mutex);
    int d = pthread_mutex_unlock(&mutex), e = pthread_mutex_unlock(&mutex), f = pthread_mutex_unlock(&mutex);
    printf("recursive %d %d %d %d %d %d %d\n", a, b, c, d, e, f, pthread_mutex_unlock(&mutex));
    printf("destroyed %d\n", pthread_mutex_destroy(&mutex));
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(&mutex, &attributes);
    a = pthread_mutex_unlock(&mutex), b = pthread_mutex_lock(&mutex), c = pthread_mutex_lock(&mutex);
    printf("error-checking %d %d %d %d %d\n", a, b, c, pthread_mutex_trylock(&mutex), pthread_mutex_unlock(&mutex));
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&mutex, &attributes);
    a = pthread_mutex_lock(&mutex), b = pthread_mutex_lock(&mutex);
    printf("robust %d %d %d\n", a, b, pthread_mutex_unlock(&mutex));
}

static struct timespec from_now(clockid_t clock, long milliseconds)
{
    struct timespec time;
    clock_gettime(clock, &time);
    time.tv_nsec += milliseconds * 1000000;
    time.tv_sec += time.tv_nsec / 1000000000;
    time.tv_nsec %= 1000000000;
    return time;
}

static void time_outs(void)
{
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&mutex);
    struct timespec time = from_now(CLOCK_REALTIME, 20), bad = {0, -1};
    int a = pthread_mutex_timedlock(&mutex, &time), b = pthread_mutex_timedlock(&mutex, &bad);
    printf("mutex timed out %d, no time %d\n", a == ETIMEDOUT, b == EINVAL);
    time = from_now(CLOCK_REALTIME, 20);
    a = pthread_cond_timedwait(&changed, &mutex, &time);
    time = from_now(CLOCK_MONOTONIC, 20);
    b = pthread_cond_clockwait(&changed, &mutex, CLOCK_MONOTONIC, &time);
    printf("condition timed out %d %d, still locked %d\n", a == ETIMEDOUT, b == ETIMEDOUT,
           pthread_mutex_trylock(&mutex) == EBUSY);
    pthread_mutex_unlock(&mutex);
    struct timespec before = from_now(CLOCK_MONOTONIC, 30), nap = {0, 30000000};
    a = nanosleep(&nap, NULL);
    struct timespec after = from_now(CLOCK_MONOTONIC, 0);
    long late = (after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec;
    errno = 0;
    b = nanosleep(&bad, NULL);
    printf("slept %d, long enough %d, no time %d\n", a, late >= 0, b == -1 && errno == EINVAL);
}

static void handle(int signal) { handled = signal; }

static void *hold(void *argument)
{
    pthread_mutex_lock(&lock);
    __atomic_store_n((int *)argument, 1, __ATOMIC_SEQ_CST);
    while (!handled)
        usleep(1000);
    usleep(10000);
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void *send(void *argument)
{
    pthread_t to = *(pthread_t *)argument;
    while (!handled) {
        usleep(5000);
        pthread_kill(to, SIGUSR1);
    }
    return NULL;
}

/* A handler runs while its thread waits, and the wait goes on, or ends as sleeping does. */
static void signals(void)
{
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    pthread_t self = pthread_self(), holder, sender;
    int holds = 0;
    pthread_create(&holder, NULL, hold, &holds);
    while (!__atomic_load_n(&holds, __ATOMIC_SEQ_CST))
        usleep(1000);
    pthread_create(&sender, NULL, send, &self);
    int error = pthread_mutex_lock(&lock);
    printf("locked %d, handled %d\n", error, handled == SIGUSR1);
    pthread_mutex_unlock(&lock);
    pthread_join(holder, NULL);
    pthread_join(sender, NULL);
    handled = 0;
    pthread_create(&sender, NULL, send, &self);
    struct timespec nap = {1000, 0}, left = {0, 0};
    error = nanosleep(&nap, &left);
    printf("interrupted %d, left %d\n", error == -1 && errno == EINTR, left.tv_sec > 900 && left.tv_sec < 1000);
    pthread_join(sender, NULL);
}

static int cleaned, waits;

static void clean(void *argument)
{
    cleaned += 1 + (pthread_mutex_trylock(argument) == EBUSY);
    pthread_mutex_unlock(argument);
}

static void *wait_for_ever(void *argument)
{
    pthread_mutex_lock(&lock);
    pthread_cleanup_push(clean, &lock);
    waits = 1;
    for (;;)
        pthread_cond_wait(&changed, &lock);
    pthread_cleanup_pop(0);
    return argument;
}

static void cancel(void)
{
    pthread_t thread;
    void *result;
    pthread_create(&thread, NULL, wait_for_ever, NULL);
    for (int is_there = 0; !is_there; usleep(1000)) {
        pthread_mutex_lock(&lock);
        is_there = waits;
        pthread_mutex_unlock(&lock);
    }
    pthread_cancel(thread);
    pthread_join(thread, &result);
    printf("cancelled %d, cleaned %d\n", result == PTHREAD_CANCELED, cleaned);
    turn = 0;
    run(take_turns);
    printf("turns afterwards %ld\n", turn);
}

static void child(void)
{
    fflush(stdout);
    pthread_mutex_lock(&lock);
    pid_t pid = fork();
    if (pid == 0) {
        /* Natively, with a mutex that was locked in the HRT. */
        pthread_mutex_unlock(&lock);
        counted = spun = serial = 0;
        run(count);
        _exit(counted == THREADS * ROUNDS && pthread_mutex_lock(&lock) == 0 ? 7 : 1);
    }
    int status;
    waitpid(pid, &status, 0);
    pthread_mutex_unlock(&lock);
    printf("child %d\n", WEXITSTATUS(status));
}

int main(void)
{
    pthread_spin_init(&spin, PTHREAD_PROCESS_PRIVATE);
    pthread_barrier_init(&barrier, NULL, THREADS);
    run(count);
    printf("counted %ld, spun %ld, serial %ld\n", counted, spun, serial);
    run(take_turns);
    printf("turns %ld\n", turn);
    printf("barrier destroyed %d\n", pthread_barrier_destroy(&barrier));
    pthread_barrier_init(&barrier, NULL, THREADS);
    kinds();
    time_outs();
    signals();
    child();
    cancel();
    return 0;
}
