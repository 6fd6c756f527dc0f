/* The variadic functions, of which only a C compiler can make the beginning. What they do is in src/output.rs. */
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#define FORWARD(call)              \
    va_list arguments;             \
    va_start(arguments, format);   \
    int written = call;            \
    va_end(arguments);             \
    return written

int printf(const char *format, ...) { FORWARD(vprintf(format, arguments)); }
int fprintf(FILE *stream, const char *format, ...) { FORWARD(vfprintf(stream, format, arguments)); }
int sprintf(char *to, const char *format, ...) { FORWARD(vsprintf(to, format, arguments)); }
int snprintf(char *to, size_t room, const char *format, ...) { FORWARD(vsnprintf(to, room, format, arguments)); }

int vasprintf(char **to, const char *format, va_list arguments);
int asprintf(char **to, const char *format, ...) { FORWARD(vasprintf(to, format, arguments)); }
