/* Executes itself in all ways, and says under which name, in which ring, and how that ended. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int ended(pid_t pid)
{
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

int main(int count, char **words)
{
    unsigned long segment;
    __asm__("mov %%cs, %0" : "=r"(segment));
    printf("%s %s: ring %lu, %s\n", words[0], count > 1 ? words[1] : "first", segment & 3, getenv("WORD") ? getenv("WORD") : "no word");
    fflush(stdout);
    if (count > 1) {
        if (!strcmp(words[1], "killed"))
            raise(SIGKILL);
        if (!strcmp(words[1], "replaced"))
            execl("/proc/self/exe", "own name", "last", NULL);
        return strlen(words[1]);
    }
    char *forked[] = {"by fork", "forked", NULL}, *spawned[] = {"by spawn", "spawned", NULL};
    char *killed[] = {"by vfork", "killed", NULL}, *word[] = {"WORD=given", NULL};
    pid_t pid = fork();
    if (pid == 0) {
        execve("/proc/self/exe", forked, word);
        _exit(1);
    }
    printf("forked %d\n", ended(pid));
    posix_spawn(&pid, "/proc/self/exe", NULL, NULL, spawned, environ);
    printf("spawned %d\n", ended(pid));
    pid = vfork();
    if (pid == 0) {
        execv("/proc/self/exe", killed);
        _exit(1);
    }
    printf("killed %d\n", ended(pid));
    printf("shell %d\n", WEXITSTATUS(system("exit 9")));
    int none = execl("/nowhere", "none", NULL) == -1 && errno == ENOENT;
    int directory = execl("/tmp", "none", NULL) == -1 && errno == EACCES;
    printf("errors %d %d, no program %d\n", none, directory,
           posix_spawn(&pid, "/nowhere", NULL, NULL, spawned, environ) == ENOENT);
    fflush(stdout);
    setenv("WORD", "kept", 1);
    execl("/proc/self/exe", words[0], "replaced", NULL);
    return 1;
}
