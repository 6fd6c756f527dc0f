/* The first function of a program that has a `main`: linked if it does not name another by AERO_PROGRAM. */
#include <aerokernel.h>
#include <stdlib.h>

int main(int count, char **values);

static int32_t start(int32_t count, const char *const *values) {
    exit(main(count, (char **)values));
}

/* A stack as programs made for Linux expect it, of which all is there from the start. */
AERO_PROGRAM_WITH_STACK(start, 1 << 20);
