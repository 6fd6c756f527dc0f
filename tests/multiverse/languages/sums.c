/* Sums by threads, for C libraries other than glibc. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local long own;

static void *sum(void *thread)
{
    for (long i = 0; i < 100000; i++)
        own += i ^ (long)thread;
    return (void *)own;
}

int main(void)
{
    pthread_t threads[4];
    long all = 0;
    for (long i = 0; i < 4; i++)
        if (pthread_create(&threads[i], NULL, sum, (void *)i))
            return 1;
    for (int i = 0; i < 4; i++) {
        void *one;
        pthread_join(threads[i], &one);
        all += (long)one;
    }
    char *memory = malloc(1000000);
    memset(memory, 1, 1000000);
    printf("sum %ld, %d\n", all, memory[999999]);
    return 0;
}
