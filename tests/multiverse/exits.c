// The end of a program whose threads end one by one, by the system call itself.
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile int is_over;

static void *late(void *argument) {
    while (!is_over) usleep(10000);
    (void)!write(1, "late\n", 5);
    syscall(SYS_exit, 3);
    return argument;
}

int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, late, 0);
    (void)!write(1, "early\n", 6);
    is_over = 1;
    syscall(SYS_exit, 3);
}
