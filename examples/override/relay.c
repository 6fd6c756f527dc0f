/* Two threads run a relay: what does handing over cost? Each line is a way to do it, in nanoseconds. */
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "baton.h"

static long rounds = 1000;

static struct baton batons[2];

static void by_baton(int runner)
{
    for (long i = 0; i < rounds; i++) {
        baton_take(&batons[runner]);
        baton_offer(&batons[!runner]);
    }
}

/* Each runner always has one of three mutexes, and may only get the next one when the other has moved on. */
static pthread_mutex_t mutexes[3] = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER};

static void by_mutex(int runner)
{
    long at = runner;
    pthread_mutex_lock(&mutexes[at]);
    baton_offer(&batons[!runner]);
    baton_take(&batons[runner]);
    for (long i = 0; i < rounds; i++) {
        long next = (at + 1) % 3;
        pthread_mutex_lock(&mutexes[next]);
        pthread_mutex_unlock(&mutexes[at]);
        at = next;
    }
    pthread_mutex_unlock(&mutexes[at]);
}

static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static long turn;

static void by_condition(int runner)
{
    pthread_mutex_lock(&mutexes[0]);
    for (long i = 0; i < rounds; i++) {
        while (turn % 2 != runner)
            pthread_cond_wait(&turned, &mutexes[0]);
        turn++;
        pthread_cond_signal(&turned);
    }
    pthread_mutex_unlock(&mutexes[0]);
}

static pthread_barrier_t barrier;

static void by_barrier(int runner)
{
    for (long i = 0; i < rounds; i++)
        pthread_barrier_wait(&barrier);
    (void)runner;
}

static void by_yielding(int runner)
{
    for (long i = 0; i < rounds; i++)
        sched_yield();
    (void)runner;
}

static void (*way)(int runner);

static void *run(void *runner)
{
    way((int)(intptr_t)runner);
    return NULL;
}

static void measure(const char *name, void (*what)(int), long each)
{
    pthread_t runners[2];
    struct timespec begun, ended;
    baton_init(&batons[0]);
    baton_init(&batons[1]);
    if (what == by_baton)
        baton_offer(&batons[0]);
    way = what;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    for (intptr_t i = 0; i < 2; i++)
        if (pthread_create(&runners[i], NULL, run, (void *)i))
            exit(1);
    for (int i = 0; i < 2; i++)
        pthread_join(runners[i], NULL);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    int64_t ns = (ended.tv_sec - begun.tv_sec) * INT64_C(1000000000) + ended.tv_nsec - begun.tv_nsec;
    printf("%-20s %8ld\n", name, (long)(ns / (each * rounds)));
}

int main(int count, char **values)
{
    if (count > 1)
        rounds = atol(values[1]);
    if (rounds < 1)
        return 2;
    pthread_barrier_init(&barrier, NULL, 2);
    measure("own function", by_baton, 2);
    measure("mutex", by_mutex, 2);
    measure("condition variable", by_condition, 2);
    measure("barrier", by_barrier, 1);
    measure("sched_yield", by_yielding, 2);
    return 0;
}
