/* Calls every function of the C library for programs, and prints what comes back: the same as on Linux. */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void mathematics(void);
void strings(void);
void numbers(void);
void threads(void);
void rest(void);

__attribute__((destructor)) static void last_of_all(void) { puts("a destructor"); }

static void first(void) { puts("at the end: the last"); }
static void second(void) { puts("at the end: the first"); }

int main(int count, char **values) {
    const char *what = count > 1 ? values[1] : "all";
    if (strcmp(what, "abort") == 0)
        abort();
    if (strcmp(what, "assert") == 0)
        assert(count == 0);
    if (strcmp(what, "_exit") == 0)
        _exit(5);
    if (strcmp(what, "_Exit") == 0)
        _Exit(6);
    mathematics();
    strings();
    numbers();
    rest();
    threads();
    atexit(first);
    atexit(second);
    exit(7);
}
