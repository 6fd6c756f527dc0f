// What a program's own instructions cause: accesses that Linux refuses, exceptions, a growing stack.
#define _GNU_SOURCE
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { PAGES = 64, PAGE = 4096 };

extern char invalid[], breakpoint[], privileged[];
static char *area;
static volatile int barriers, last_code;
static void *volatile last_address;
static char *volatile last_instruction;
static sigjmp_buf away;

static void barrier(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    barriers++;
    last_code = info->si_code;
    char *page = (char *)((unsigned long)info->si_addr & -PAGE);
    if (page < area || page >= area + PAGES * PAGE) _exit(99);
    mprotect(page, PAGE, PROT_READ | PROT_WRITE);
}

static void leaves(int number, siginfo_t *info, void *context) {
    last_instruction = (char *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    last_code = info->si_code;
    last_address = info->si_addr;
    siglongjmp(away, number);
}

static void skips(int number, siginfo_t *info, void *context) {
    (void)number;
    ucontext_t *user = context;
    last_code = info->si_code;
    user->uc_mcontext.gregs[REG_RIP] += 2;
}

static void set(int number, void (*handler)(int, siginfo_t *, void *)) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaction(number, &action, NULL);
}

static long deep(int depth) {
    volatile char room[2000];
    memset((char *)room, depth, sizeof room);
    return depth ? deep(depth - 1) + room[17] - (char)depth + 1 : 0;
}

static int status_of(void (*function)(void)) {
    int status;
    fflush(stdout);
    if (!fork()) {
        function();
        _exit(0);
    }
    wait(&status);
    return WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status);
}

static void divide(void) {
    volatile int zero = 0, one = 1;
    one = one / zero;
}

static long call(long number, long first, long second, long third, long fourth) {
    long result = syscall(number, first, second, third, fourth);
    return result < 0 ? -errno : result;
}

// System calls that the runtime makes for a program read and write what it gave, as Linux does.
static void bad_pointers(void) {
    struct sigaction before, after;
    sigaction(SIGUSR1, NULL, &before);
    printf("rt_sigaction %ld %ld\n", call(SYS_rt_sigaction, SIGUSR1, 1, 0, 8), call(SYS_rt_sigaction, SIGUSR1, 0, 1, 8));
    sigaction(SIGUSR1, NULL, &after);
    printf("unchanged %d\n", before.sa_handler == after.sa_handler);
    printf("sigaltstack %ld %ld\n", call(SYS_sigaltstack, 1, 0, 0, 0), call(SYS_sigaltstack, 0, 1, 0, 0));
    printf("clone3 %ld, arch_prctl %ld\n", call(SYS_clone3, 1, 88, 0, 0), call(SYS_arch_prctl, 0x1003, 1, 0, 0));
}

int main(void) {
    static char stack[65536];
    setvbuf(stdout, NULL, _IONBF, 0);
    sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof stack}, NULL);
    printf("%ld deep\n", deep(2000));
    area = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    set(SIGSEGV, barrier);
    for (int round = 0; round < 3; round++) {
        mprotect(area, PAGES * PAGE, PROT_READ);
        for (int at = 0; at < PAGES * PAGE; at += 512) area[at] = at / 512 + round;
    }
    int right = 1;
    for (int at = 0; at < PAGES * PAGE; at += 512) right &= area[at] == (char)(at / 512 + 2);
    printf("%d barriers, code %d, memory %s\n", barriers, last_code, right ? "right" : "wrong");
    set(SIGSEGV, leaves), set(SIGBUS, leaves), set(SIGFPE, leaves), set(SIGILL, leaves), set(SIGTRAP, leaves);
    int number = sigsetjmp(away, 1);
    if (!number) *(volatile char *)0x1234 = 1;
    printf("signal %d, code %d, address %p\n", number, last_code, last_address);
    number = sigsetjmp(away, 1);
    if (!number) ((void (*)(void))0x5678)();
    printf("signal %d, code %d, address %p\n", number, last_code, last_address);
    number = sigsetjmp(away, 1);
    if (!number) *(volatile char *)0x8000000000001234 = 1;
    printf("signal %d, code %d, address %p\n", number, last_code, last_address);
    number = sigsetjmp(away, 1);
    if (!number) divide();
    printf("signal %d, code %d\n", number, last_code);
    number = sigsetjmp(away, 1);
    if (!number) __asm__ volatile("invalid: .globl invalid\n ud2");
    printf("signal %d, code %d, %ld bytes behind\n", number, last_code, (long)(last_instruction - invalid));
    number = sigsetjmp(away, 1);
    if (!number) __asm__ volatile("breakpoint: .globl breakpoint\n int3");
    printf("signal %d, code %d, %ld bytes behind\n", number, last_code, (long)(last_instruction - breakpoint));
    FILE *file = tmpfile();
    char *cut = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fileno(file), 0);
    number = sigsetjmp(away, 1);
    if (!number) last_code = *(volatile char *)cut;
    printf("signal %d, code %d, address %d\n", number, last_code, last_address == cut);
    // What only a kernel may do.
    number = sigsetjmp(away, 1);
    if (!number) __asm__ volatile("privileged: .globl privileged\n hlt");
    printf("signal %d, code %d, %ld bytes behind\n", number, last_code, (long)(last_instruction - privileged));
    number = sigsetjmp(away, 1);
    if (!number) __asm__ volatile("out %%al, %%dx" : : "a"(0), "d"(0x3f8));
    printf("signal %d, code %d\n", number, last_code);
    number = sigsetjmp(away, 1);
    if (!number) __asm__ volatile("in %%dx, %%al" : : "a"(0), "d"(0xd9));
    printf("signal %d, code %d\n", number, last_code);
    bad_pointers();
    set(SIGILL, skips);
    for (int round = 0; round < 100; round++) __asm__ volatile("ud2");
    printf("skipped, code %d\n", last_code);
    signal(SIGFPE, SIG_DFL);
    printf("a child ends by %d\n", status_of(divide));
    divide();
    printf("not reached\n");
    return 0;
}
