// Children of a program: by fork, vfork and posix_spawn.
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static volatile sig_atomic_t children, handled;
static void ended(int number) { children++; (void)number; }
static void handles(int number) { handled++; (void)number; }
static __thread int own = 5;

static void *idle(void *argument) { (void)argument; for (;;) pause(); }

int main(int count, char **arguments) {
    if (count > 1) {
        printf("executed: %s\n", arguments[1]);
        return 9;
    }
    setvbuf(stdout, NULL, _IONBF, 0);
    int status;
    double half = 0.5;
    own = 6;
    signal(SIGUSR1, handles);
    pid_t child = fork();
    if (!child) {
        raise(SIGUSR1);
        char *text = malloc(100);
        snprintf(text, 100, "child: %.2f, variable %d, handled %d", half + 1, own, handled);
        puts(text);
        exit(4);
    }
    printf("forked: %d", waitpid(child, &status, 0) == child);
    printf(", status %d\n", WEXITSTATUS(status));
    child = fork();
    if (!child) abort();
    waitpid(child, &status, 0);
    printf("aborted: signal %d\n", WTERMSIG(status));
    volatile int seen = 0;
    for (int round = 0; round < 50; round++) {
        child = vfork();
        if (!child) {
            seen++;
            _exit(round);
        }
        waitpid(child, &status, 0);
        if (WEXITSTATUS(status) != round) printf("wrong status\n");
    }
    printf("vforked, memory shared: %d\n", seen);
    char *words[] = {arguments[0], "spawned", NULL};
    posix_spawn(&child, "/proc/self/exe", NULL, NULL, words, environ);
    waitpid(child, &status, 0);
    printf("spawned, status %d\n", WEXITSTATUS(status));
    signal(SIGCHLD, ended);
    for (int round = 0; round < 20; round++) {
        if (!fork()) _exit(0);
        wait(NULL);
    }
    printf("children told of: %d\n", children > 0);
    signal(SIGCHLD, SIG_DFL);
    FILE *pipe = popen("echo from a shell; exit 3", "r");
    char line[100] = "";
    if (!fgets(line, sizeof line, pipe)) puts("nothing read");
    printf("%s", line);
    printf("closed: %d\n", WEXITSTATUS(pclose(pipe)));
    pthread_t thread;
    pthread_create(&thread, NULL, idle, NULL);
    int *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int round = 0; round < 20; round++)
        if (!fork()) {
            __sync_fetch_and_add(shared, round);
            _exit(0);
        }
    while (wait(NULL) > 0) {}
    printf("shared: %d\n", *shared);
    words[1] = "itself";
    execv("/proc/self/exe", words);
    return 1;
}
