// Parallel regions, reductions, tasks and barriers of OpenMP.
#include <omp.h>
#include <stdio.h>

static long fibonacci(int n) {
    if (n < 2) return n;
    long a, b;
#pragma omp task shared(a) if (n > 10)
    a = fibonacci(n - 1);
    b = fibonacci(n - 2);
#pragma omp taskwait
    return a + b;
}

int main(void) {
    omp_set_num_threads(4);
    long sum = 0;
    for (int round = 0; round < 100; round++) {
#pragma omp parallel for reduction(+ : sum) schedule(dynamic, 16)
        for (int i = 0; i < 1000; i++) sum += i * round;
    }
    printf("sum %ld\n", sum);
    long result = 0;
#pragma omp parallel
#pragma omp single
    result = fibonacci(18);
    printf("fibonacci %ld\n", result);
    int turns[4] = {0};
#pragma omp parallel
    for (int round = 0; round < 50; round++) {
        turns[omp_get_thread_num()]++;
#pragma omp barrier
    }
    printf("turns %d %d %d %d\n", turns[0], turns[1], turns[2], turns[3]);
    return 0;
}
