#include <errno.h>
#include <malloc.h>
#include <sched.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int is_aligned(void *block, size_t align) { return block != NULL && (uintptr_t)block % align == 0; }

static jmp_buf place;
static sigjmp_buf other_place;

static void allocation(void) {
    char *block = malloc(10);
    strcpy(block, "kept");
    block = realloc(block, 100000);
    printf("%s %d", block, is_aligned(block, 16));
    block = realloc(block, 6);
    printf(" %s %d\n", block, malloc_usable_size(block) >= 6);
    free(block);
    int *zeros = calloc(1000, sizeof *zeros), sum = 0;
    for (int i = 0; i < 1000; i++)
        sum += zeros[i];
    zeros = reallocarray(zeros, 2000, sizeof *zeros);
    volatile size_t too_many = SIZE_MAX / 2;
    errno = 0;
    printf("%d %d %d %d\n", sum, zeros != NULL, calloc(too_many, 16) == NULL, errno);
    free(zeros);
    void *aligned = aligned_alloc(256, 512), *also = memalign(4096, 10), *third;
    int error = posix_memalign(&third, 1 << 20, 100);
    printf("%d %d %d %d %d\n", is_aligned(aligned, 256), is_aligned(also, 4096), error, is_aligned(third, 1 << 20), posix_memalign(&third, 3, 8) != 0);
    free(aligned), free(also), free(third), free(NULL);
}

static void jumps(void) {
    volatile int rounds = 0;
    int value = (setjmp)(place);
    if (rounds++ < 2)
        longjmp(place, rounds == 2 ? 0 : 5);
    printf("%d %d\n", rounds, value);
    if ((value = _setjmp(place)) == 0)
        _longjmp(place, 8);
    printf("%d", value);
    if ((value = sigsetjmp(other_place, 1)) == 0)
        siglongjmp(other_place, 9);
    printf(" %d\n", value);
}

static void sixteen_bytes(void) {
    static unsigned __int128 word = 5;
    unsigned __int128 expected = 4, other = 100;
    int exchanged = __atomic_compare_exchange_n(&word, &expected, other, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    printf("%d %d", exchanged, (int)expected);
    exchanged = __atomic_compare_exchange_n(&word, &expected, other, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    printf(" %d %d", exchanged, (int)__atomic_load_n(&word, __ATOMIC_SEQ_CST));
    __atomic_store_n(&word, (unsigned __int128)1 << 80, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&word, 7, __ATOMIC_SEQ_CST), __atomic_fetch_sub(&word, 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_or(&word, 16, __ATOMIC_SEQ_CST), __atomic_fetch_xor(&word, 2, __ATOMIC_SEQ_CST);
    __atomic_fetch_and(&word, ~(unsigned __int128)4, __ATOMIC_SEQ_CST);
    unsigned __int128 last = __atomic_exchange_n(&word, 0, __ATOMIC_SEQ_CST);
    printf(" %llu %llu\n", (unsigned long long)(last >> 64), (unsigned long long)last);
}

void rest(void) {
    allocation();
    jumps();
    sixteen_bytes();
    struct timespec before, after, little = {0, 1000000}, bad = {0, -1}, left;
    struct timeval day;
    clock_gettime(CLOCK_MONOTONIC, &before);
    nanosleep(&little, &left), usleep(1000), sleep(0);
    clock_gettime(CLOCK_MONOTONIC, &after);
    long long passed = (after.tv_sec - before.tv_sec) * 1000000000LL + after.tv_nsec - before.tv_nsec;
    time_t seconds;
    printf("%d %d %d %d %d\n", passed >= 2000000, nanosleep(&bad, NULL), gettimeofday(&day, NULL), time(&seconds) == seconds, clock() >= 0);
    struct timespec utc;
    printf("%d %g\n", timespec_get(&utc, TIME_UTC), difftime(7, 5));
    printf("%d %d %d\n", sched_yield(), sched_getcpu() >= 0, sysconf(_SC_NPROCESSORS_ONLN) == get_nprocs());
    printf("%d %d %ld\n", getenv("SURELY_NOT_SET") == NULL, secure_getenv("SURELY_NOT_SET") == NULL, sysconf(_SC_PAGESIZE));
    extern char **environ;
    printf("%d\n", environ != NULL);
    errno = 0;
    printf("%d\n", errno);
}
