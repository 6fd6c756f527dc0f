// Threads: joined, detached, cancelled, with variables of their own, mutexes, condition variables and barriers.
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { THREADS = 16, ROUNDS = 200 };

static __thread long own = 7;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static sem_t done;
static long sum, turn;

static int ring(void) {
    unsigned short selector;
    __asm__("mov %%cs, %0" : "=r"(selector));
    return selector & 3;
}

static void *add(void *argument) {
    long number = (long)argument;
    double half = number / 2.0;
    for (int round = 0; round < ROUNDS; round++) {
        own += number;
        char *text = malloc(100 + round);
        snprintf(text, 100, "%.1f", half);
        pthread_mutex_lock(&mutex);
        sum += text[0] != 0;
        pthread_mutex_unlock(&mutex);
        free(text);
    }
    pthread_barrier_wait(&barrier);
    return (void *)(own == 7 + number * ROUNDS ? number : -1);
}

static void *take_turns(void *argument) {
    long number = (long)argument;
    for (int round = 0; round < 20; round++) {
        pthread_mutex_lock(&mutex);
        while (turn % 4 != number) pthread_cond_wait(&changed, &mutex);
        turn++;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

static void *post(void *argument) {
    (void)argument;
    sem_post(&done);
    return NULL;
}

static void *wait_for_ever(void *argument) {
    (void)argument;
    for (;;) pause();
}

static int words[2];

static long futex(int *word, int operation, long value, long timeout, int *other, int expected) {
    return syscall(SYS_futex, word, operation | 128, value, timeout, other, expected);
}

static void *wait_for_word(void *argument) {
    (void)argument;
    while (futex(&words[0], 0, 0, 0, NULL, 0)) {}
    return NULL;
}

// Wake-ups reach whoever waits, also where another thread has waiters wait for another word.
static void wakes(void) {
    pthread_t threads[2];
    printf("nothing to wake: %ld\n", futex(&words[0], 1, 1, 0, NULL, 0));
    pthread_create(&threads[0], NULL, wait_for_word, NULL);
    while (futex(&words[0], 1, 1, 0, NULL, 0) != 1) usleep(100);
    pthread_join(threads[0], NULL);
    for (int index = 0; index < 2; index++) pthread_create(&threads[index], NULL, wait_for_word, NULL);
    // Both are moved to the other word.
    int moved = 0;
    while (moved < 2) moved += futex(&words[0], 4, 0, 2, &words[1], 0), usleep(100);
    int woken = 0;
    while (woken < 2) woken += futex(&words[1], 1, 1, 0, NULL, 0);
    for (int index = 0; index < 2; index++) pthread_join(threads[index], NULL);
    printf("moved %d, woken %d\n", moved, woken);
}

int main(void) {
    pthread_t threads[THREADS];
    void *result;
    pthread_barrier_init(&barrier, NULL, THREADS);
    for (long index = 0; index < THREADS; index++) pthread_create(&threads[index], NULL, add, (void *)index);
    int right = 1;
    for (long index = 0; index < THREADS; index++) {
        pthread_join(threads[index], &result);
        right &= result == (void *)index;
    }
    printf("%d threads, sum %ld, variables %s\n", THREADS, sum, right ? "right" : "wrong");
    for (long index = 0; index < 4; index++) pthread_create(&threads[index], NULL, take_turns, (void *)index);
    for (long index = 0; index < 4; index++) pthread_join(threads[index], NULL);
    printf("%ld turns\n", turn);
    sem_init(&done, 0, 0);
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    int made = 0;
    for (int index = 0; index < 300; index++) {
        pthread_t thread;
        made += pthread_create(&thread, &detached, post, NULL) == 0;
        sem_wait(&done);
    }
    printf("%d detached threads\n", made);
    pthread_create(&threads[0], NULL, wait_for_ever, NULL);
    usleep(10000);
    pthread_cancel(threads[0]);
    pthread_join(threads[0], &result);
    printf("cancelled: %d\n", result == PTHREAD_CANCELED);
    wakes();
    char path[40], target[40] = "";
    snprintf(path, sizeof path, "%ld", syscall(SYS_getpid));
    printf("the process's id is its own: %d\n", readlink("/proc/self", target, 39) > 0 && !strcmp(path, target));
    printf("a thread's id is its own: %d\n", syscall(SYS_gettid) == getpid());
    if (getenv("RING")) printf("ring %d\n", ring());
    return 3;
}
