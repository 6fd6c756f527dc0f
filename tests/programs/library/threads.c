#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { THREADS = 16, ROUNDS = 200 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t reader_writer = PTHREAD_RWLOCK_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_barrier_t barrier;
static pthread_spinlock_t spin;
static pthread_key_t key;
static sem_t semaphore;
static int turn, counted, written, spun, calls, destroyed, serial;
static _Thread_local int own = 7;
static _Thread_local char zeros[100];

static void call(void) { calls++; }

static void destroy(void *value) {
    (void)value;
    __atomic_fetch_add(&destroyed, 1, __ATOMIC_SEQ_CST);
}

static void *work(void *argument) {
    int number = (int)(long)argument;
    pthread_once(&once, call);
    pthread_setspecific(key, &turn);
    for (int round = 0; round < ROUNDS; round++) {
        pthread_mutex_lock(&mutex);
        counted++;
        pthread_mutex_unlock(&mutex);
        pthread_rwlock_wrlock(&reader_writer);
        written++;
        pthread_rwlock_unlock(&reader_writer);
        pthread_rwlock_rdlock(&reader_writer);
        zeros[number] += written > 0;
        pthread_rwlock_unlock(&reader_writer);
        pthread_spin_lock(&spin);
        spun++;
        pthread_spin_unlock(&spin);
        own += number;
    }
    for (int round = 0; round < 20; round++)
        if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
            __atomic_fetch_add(&serial, 1, __ATOMIC_SEQ_CST);
    /* One after the other, by number. */
    pthread_mutex_lock(&mutex);
    while (turn != number)
        pthread_cond_wait(&condition, &mutex);
    turn++;
    pthread_cond_broadcast(&condition);
    pthread_mutex_unlock(&mutex);
    sem_post(&semaphore);
    if (number % 2)
        pthread_exit((void *)(long)own);
    return (void *)(long)own;
}

static void *detached(void *argument) {
    sem_post(argument);
    return NULL;
}

static void attributes(void) {
    pthread_attr_t attributes;
    size_t size;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(0, &set);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 1 << 20);
    pthread_attr_getstacksize(&attributes, &size);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setaffinity_np(&attributes, sizeof set, &set);
    pthread_t thread;
    int error = pthread_create(&thread, &attributes, detached, &semaphore);
    sem_wait(&semaphore);
    printf("%d %zu %d\n", error, size, pthread_attr_destroy(&attributes));
    error = pthread_create(&thread, NULL, detached, &semaphore);
    printf("%d %d\n", error, pthread_detach(thread));
    sem_wait(&semaphore);
    cpu_set_t found;
    error = pthread_setaffinity_np(pthread_self(), sizeof set, &set);
    printf("%d %d", error, sched_setaffinity(0, sizeof set, &set));
    error = pthread_getaffinity_np(pthread_self(), sizeof found, &found);
    printf(" %d %d %d\n", error, CPU_EQUAL(&set, &found), sched_getcpu());
}

static void kinds_of_mutexes(void) {
    pthread_mutexattr_t attributes;
    pthread_mutex_t recursive, checked;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&recursive, &attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(&checked, &attributes);
    int first = pthread_mutex_lock(&recursive), second = pthread_mutex_trylock(&recursive);
    printf("%d %d %d %d", first, second, pthread_mutex_unlock(&recursive), pthread_mutex_unlock(&recursive));
    first = pthread_mutex_lock(&checked);
    printf(" %d %d %d %d\n", first, pthread_mutex_lock(&checked) == EDEADLK, pthread_mutex_unlock(&checked), pthread_mutex_unlock(&checked) == EPERM);
    struct timespec soon;
    clock_gettime(CLOCK_REALTIME, &soon);
    pthread_mutex_lock(&mutex);
    struct timespec before = {-5, 0};
    printf("%d %d %d %d\n", pthread_mutex_trylock(&mutex) == EBUSY, pthread_mutex_timedlock(&mutex, &soon) == ETIMEDOUT,
           pthread_mutex_clocklock(&mutex, CLOCK_REALTIME, &soon) == ETIMEDOUT, pthread_mutex_timedlock(&mutex, &before) == ETIMEDOUT);
    pthread_condattr_t clocks;
    pthread_cond_t timed;
    pthread_condattr_init(&clocks), pthread_condattr_setclock(&clocks, CLOCK_MONOTONIC);
    pthread_cond_init(&timed, &clocks), pthread_condattr_destroy(&clocks);
    clock_gettime(CLOCK_MONOTONIC, &soon);
    int late = pthread_cond_timedwait(&timed, &mutex, &soon) == ETIMEDOUT;
    int also = pthread_cond_clockwait(&timed, &mutex, CLOCK_MONOTONIC, &soon) == ETIMEDOUT;
    printf("%d %d %d %d\n", late, also, pthread_cond_signal(&timed), pthread_cond_destroy(&timed));
    pthread_mutex_unlock(&mutex);
    pthread_mutexattr_destroy(&attributes);
    printf("%d %d %d\n", pthread_mutex_destroy(&recursive), pthread_mutex_destroy(&checked), pthread_spin_trylock(&spin));
    pthread_rwlock_init(&reader_writer, NULL);
    int late_read = pthread_rwlock_timedrdlock(&reader_writer, &soon), other_read = pthread_rwlock_clockrdlock(&reader_writer, CLOCK_REALTIME, &soon);
    printf("%d %d %d %d", late_read, other_read, pthread_rwlock_timedwrlock(&reader_writer, &before) == ETIMEDOUT,
           pthread_rwlock_clockwrlock(&reader_writer, CLOCK_REALTIME, &soon) == ETIMEDOUT);
    printf(" %d %d\n", pthread_rwlock_unlock(&reader_writer), pthread_rwlock_unlock(&reader_writer));
    int read = pthread_rwlock_tryrdlock(&reader_writer), write = pthread_rwlock_trywrlock(&reader_writer) == EBUSY;
    printf("%d %d %d %d\n", read, write, pthread_rwlock_unlock(&reader_writer), pthread_rwlock_destroy(&reader_writer));
}

void threads(void) {
    pthread_t threads[THREADS];
    pthread_key_create(&key, destroy);
    pthread_barrier_init(&barrier, NULL, THREADS);
    pthread_spin_init(&spin, PTHREAD_PROCESS_PRIVATE);
    sem_init(&semaphore, 0, 0);
    for (long number = 0; number < THREADS; number++)
        pthread_create(&threads[number], NULL, work, (void *)number);
    long sum = 0;
    for (int number = 0; number < THREADS; number++) {
        void *result;
        pthread_join(threads[number], &result);
        sum += (long)result;
    }
    int units;
    sem_getvalue(&semaphore, &units);
    printf("%d %d %d %d %ld %d %d %d %d %d\n", counted, written, spun, calls, sum, destroyed, serial, turn, units, own);
    while (sem_trywait(&semaphore) == 0)
        units--;
    struct timespec soon;
    clock_gettime(CLOCK_REALTIME, &soon);
    int late = sem_timedwait(&semaphore, &soon);
    printf("%d %d %d\n", units, late, errno == ETIMEDOUT);
    pthread_key_t again;
    pthread_setspecific(key, &units);
    int deleted = pthread_key_delete(key), made = pthread_key_create(&again, NULL);
    printf("%d %d %d %d", deleted, made, again == key, pthread_getspecific(again) == NULL);
    printf(" %d %d %d\n", pthread_equal(pthread_self(), pthread_self()) != 0, pthread_getspecific(key) == NULL, pthread_key_delete(key));
    attributes();
    kinds_of_mutexes();
    pthread_setname_np(pthread_self(), "main");
    printf("%d %d %d\n", pthread_barrier_destroy(&barrier), sem_destroy(&semaphore), pthread_spin_destroy(&spin));
    perror("perror"), perror(NULL);
}
