/* Copy, scale, add and triad over three arrays that no cache holds, on all CPUs; prints what must come out. With an argument, what it
 * took instead, in MB/s. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 1 << 20, ROUNDS = 4, MOST = 64 };

static double *a, *b, *c;
static int threads;
static pthread_barrier_t barrier;
static double best[4];

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static void pass(int kind, long from, long to) {
    const double scalar = 3.0;
    switch (kind) {
    case 0:
        for (long i = from; i < to; i++) c[i] = a[i];
        break;
    case 1:
        for (long i = from; i < to; i++) b[i] = scalar * c[i];
        break;
    case 2:
        for (long i = from; i < to; i++) c[i] = a[i] + b[i];
        break;
    default:
        for (long i = from; i < to; i++) a[i] = b[i] + scalar * c[i];
    }
}

static void *work(void *argument) {
    long number = (long)argument, from = number * SIZE / threads, to = (number + 1) * SIZE / threads;
    for (long i = from; i < to; i++)
        a[i] = 1.0, b[i] = 2.0, c[i] = 0.0;
    for (int round = 0; round < ROUNDS; round++)
        for (int kind = 0; kind < 4; kind++) {
            pthread_barrier_wait(&barrier);
            double start = now();
            pass(kind, from, to);
            pthread_barrier_wait(&barrier);
            double took = now() - start;
            if (number == 0 && (best[kind] == 0 || took < best[kind]))
                best[kind] = took;
        }
    return NULL;
}

int main(int count, char **values) {
    (void)values;
    const char *names[] = {"copy", "scale", "add", "triad"};
    const int arrays[] = {2, 2, 3, 3};
    pthread_t handles[MOST];
    threads = sysconf(_SC_NPROCESSORS_ONLN) < MOST ? sysconf(_SC_NPROCESSORS_ONLN) : MOST;
    a = malloc(SIZE * sizeof *a), b = malloc(SIZE * sizeof *b), c = malloc(SIZE * sizeof *c);
    if (!a || !b || !c)
        return 1;
    pthread_barrier_init(&barrier, NULL, threads);
    for (long number = 0; number < threads; number++)
        if (pthread_create(&handles[number], NULL, work, (void *)number))
            return 2;
    for (int number = 0; number < threads; number++)
        pthread_join(handles[number], NULL);
    for (int kind = 0; kind < 4 && count > 1; kind++)
        printf("%-6s %10.1f MB/s\n", names[kind], arrays[kind] * 8.0 * SIZE / best[kind] / 1e6);
    double sum = 0;
    for (long i = 0; i < SIZE; i++)
        sum += a[i] + b[i] + c[i];
    printf("%.10e %.10e %.10e, in all %.10e\n", a[SIZE - 1], b[SIZE / 2], c[0], sum);
    free(a), free(b), free(c);
    return 0;
}
