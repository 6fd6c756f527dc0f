// Signals, as a program sees them: what a handler is told, may change, and where it runs.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static volatile sig_atomic_t count, depth, deepest, value, on_stack;
static char stack[65536];
static sigjmp_buf away;

static void counts(int number) { count++; (void)number; }

static void told(int number, siginfo_t *info, void *context) {
    ucontext_t *user = context;
    value = info->si_value.sival_int;
    printf("signal %d, code %d, value %d, from ourselves %d, segment %#llx\n", number - (number >= SIGRTMIN ? SIGRTMIN : 0), info->si_code,
           value, info->si_pid == getpid(), user->uc_mcontext.gregs[REG_CSGSFS] & 0xffff);
}

static void nests(int number) {
    depth++;
    if (depth > deepest) deepest = depth;
    if (number == SIGUSR1) raise(SIGUSR2);
    depth--;
}

static void where(int number) {
    char here;
    on_stack = &here >= stack && &here < stack + sizeof stack;
    (void)number;
}

static void jumps(int number) { (void)number; siglongjmp(away, 5); }

static void changes(int number, siginfo_t *info, void *context) {
    ucontext_t *user = context;
    (void)number, (void)info;
    user->uc_mcontext.gregs[REG_RBX] = 0x1234;
    user->uc_mcontext.fpregs->_xmm[7].element[0] = 77;
}

static void set(int number, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    sigaction(number, &action, NULL);
}

static void set_told(int number, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = flags | SA_SIGINFO};
    sigaction(number, &action, NULL);
}

static void *spins(void *argument) {
    while (!*(volatile int *)argument) {}
    return NULL;
}

int main(void) {
    setvbuf(stdout, NULL, _IONBF, 0);
    set(SIGUSR1, counts, 0);
    for (int round = 0; round < 1000; round++) raise(SIGUSR1);
    printf("raised %d times\n", count);

    set_told(SIGRTMIN + 3, told, 0);
    sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = 42});

    set(SIGUSR1, nests, 0), set(SIGUSR2, nests, 0);
    raise(SIGUSR1);
    printf("nested %d deep\n", deepest);

    sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof stack}, NULL);
    set(SIGUSR1, where, SA_ONSTACK);
    raise(SIGUSR1);
    printf("on its stack: %d\n", on_stack);
    set(SIGUSR1, where, 0);
    raise(SIGUSR1);
    printf("on the usual stack: %d\n", !on_stack);

    set(SIGUSR1, jumps, 0);
    volatile int jumped = 0;
    for (int round = 0; round < 100; round++)
        if (sigsetjmp(away, 1)) jumped++; else raise(SIGUSR1);
    printf("jumped out %d times\n", jumped);

    set_told(SIGUSR1, changes, 0);
    long rbx = 1, xmm = 2;
    pid_t own = getpid();
    // getpid, then kill(own, SIGUSR1) by hand, with a register of each kind in between.
    __asm__ volatile("movq %[xmm], %%xmm7\n mov $1, %%ebx\n mov $62, %%eax\n mov %[own], %%edi\n mov %[signal], %%esi\n syscall\n"
                     "mov %%rbx, %[rbx]\n movq %%xmm7, %[xmm]\n"
                     : [rbx] "=r"(rbx), [xmm] "+r"(xmm) : [own] "r"(own), [signal] "i"(SIGUSR1)
                     : "rax", "rbx", "rcx", "rdi", "rsi", "r11", "xmm7", "memory");
    printf("changed rbx %#lx, xmm7 %ld\n", rbx, xmm);

    sigset_t blocked, pending;
    sigemptyset(&blocked), sigaddset(&blocked, SIGUSR1);
    set(SIGUSR1, counts, 0), count = 0;
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    raise(SIGUSR1), raise(SIGUSR1);
    sigpending(&pending);
    printf("blocked: %d came, pending %d", count, sigismember(&pending, SIGUSR1));
    sigprocmask(SIG_UNBLOCK, &blocked, NULL);
    printf(", then %d\n", count);

    // Interrupted calls: with SA_RESTART they go on, without they fail.
    int ends[2];
    char byte;
    struct itimerval often = {.it_value = {.tv_usec = 20000}, .it_interval = {.tv_usec = 20000}}, never = {0};
    set(SIGALRM, counts, 0), count = 0;
    (void)!pipe(ends);
    setitimer(ITIMER_REAL, &often, NULL);
    long got = read(ends[0], &byte, 1);
    printf("read %ld, interrupted %d, handled %d\n", got, errno == EINTR, count > 0);
    struct timespec rest, while_ = {.tv_sec = 1000};
    got = nanosleep(&while_, &rest);
    printf("slept %ld, interrupted %d, rest %d\n", got, errno == EINTR, rest.tv_sec > 900);
    set(SIGALRM, counts, SA_RESTART), count = 0;
    if (!fork()) {
        usleep(100000);
        (void)!write(ends[1], "x", 1);
        _exit(0);
    }
    got = read(ends[0], &byte, 1);
    setitimer(ITIMER_REAL, &never, NULL);
    printf("read %ld again, handled %d\n", got, count > 0);

    // A timer against computing code, with vector registers in use.
    set(SIGALRM, counts, SA_RESTART), count = 0;
    setitimer(ITIMER_REAL, &(struct itimerval){.it_value = {.tv_usec = 2000}, .it_interval = {.tv_usec = 2000}}, NULL);
    double sum = 0;
    long rounds = 0;
    while (count < 50) {
        double part = 0;
        for (int term = 1; term < 10000; term++) part += 1.0 / term;
        if (sum == 0) sum = part;
        if (sum != part) break;
        rounds++;
    }
    setitimer(ITIMER_REAL, &never, NULL);
    printf("50 timers: %d, sums equal: %d\n", count >= 50, sum > 9 && sum < 10);

    // Signals for another thread, which computes.
    volatile int stop = 0;
    pthread_t thread;
    count = 0;
    pthread_create(&thread, NULL, spins, (void *)&stop);
    for (int round = 1; round <= 50; round++) {
        pthread_kill(thread, SIGALRM);
        while (count < round) usleep(100);
    }
    stop = 1;
    pthread_join(thread, NULL);
    printf("another thread: %d\n", count);

    int number;
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    raise(SIGUSR1);
    sigwait(&blocked, &number);
    printf("waited for: %d\n", number == SIGUSR1);
    raise(SIGUSR1);
    sigset_t none;
    sigemptyset(&none), count = 0;
    got = sigsuspend(&none);
    printf("suspended: %ld, handled %d\n", got, count);
    set(SIGTERM, SIG_DFL, 0);
    raise(SIGTERM);
    printf("not reached\n");
    return 0;
}
