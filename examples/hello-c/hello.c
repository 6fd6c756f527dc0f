/* The smallest program in C: a thread on each CPU says hello. */
#include <aerokernel.h>

static void print(const char *text) {
    size_t length = 0;
    while (text[length] != 0)
        length++;
    aero_print(text, length);
}

static void greet(void *number) {
    char text[] = "hello from CPU ?\n";
    text[15] = (char)('0' + aero_cpu_this() % 10);
    print(text);
    *(uint32_t *)number = aero_cpu_this();
}

static int32_t start(int32_t count, const char *const *values) {
    uint32_t seen[64] = {0};
    aero_thread *threads[64];
    uint32_t cpus = aero_cpu_count() < 64 ? aero_cpu_count() : 64;
    for (uint32_t cpu = 0; cpu < cpus; cpu++) {
        aero_thread_options options = {"greeter", 7, cpu, 0};
        if (aero_thread_spawn(&options, greet, &seen[cpu], &threads[cpu]) != AERO_OK) {
            print("hello: a thread could not be spawned\n");
            return 1;
        }
    }
    for (uint32_t cpu = 0; cpu < cpus; cpu++) {
        aero_thread_join(threads[cpu], AERO_NEVER);
        if (seen[cpu] != cpu)
            return 2;
    }
    for (int32_t index = 1; index < count; index++) {
        print("hello, ");
        print(values[index]);
        print("\n");
    }
    return 0;
}

AERO_PROGRAM(start);
