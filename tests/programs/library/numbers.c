#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

static void all(const char *format, ...) {
    char text[200], *made;
    va_list one, two, three, four;
    va_start(one, format);
    va_copy(two, one), va_copy(three, one), va_copy(four, one);
    vprintf(format, one);
    vfprintf(stdout, format, two);
    printf("%d ", vsnprintf(text, 8, format, three));
    puts(text);
    if (vasprintf(&made, format, four) > 0)
        fputs(made, stdout);
    free(made);
    va_end(one), va_end(two), va_end(three), va_end(four);
}

static int to(char *text, const char *format, ...) {
    va_list list;
    va_start(list, format);
    int written = vsprintf(text, format, list);
    va_end(list);
    return written;
}

void numbers(void) {
    char *end, text[400];
    const char *integers[] = {"42", " -17x", "0x1f", "077", "99999999999999999999", "-99999999999999999999", "zz", "+5", "0x", ""};
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        errno = 0;
        long value = strtol(integers[i], &end, 0);
        printf("%ld %s", value, end);
        printf(" %lu %lld %llu %d\n", strtoul(integers[i], NULL, 10), strtoll(integers[i], NULL, 16),
               strtoull(integers[i], NULL, 36), errno);
    }
    printf("%jd %ju %d %ld %lld\n", strtoimax("-8", NULL, 10), strtoumax("8", NULL, 10), atoi("12"), atol("-3"), atoll("4"));
    const char *floats[] = {"3.25", "-1e3x", ".5", "5.", "1e", "inf", "-nan", "1e999", "abc", "+2.5e-3"};
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
        errno = 0;
        double value = strtod(floats[i], &end);
        printf("%g %s", value, end);
        printf(" %g %g %d\n", strtof(floats[i], NULL), atof(floats[i]), errno);
    }
    printf("%d %ld %lld\n", abs(-3), labs(-4), llabs(-5LL));
    div_t d = div(-7, 2);
    ldiv_t l = ldiv(-7, 2);
    lldiv_t ll = lldiv(-7, 2);
    printf("%d %d %ld %ld %lld %lld\n", d.quot, d.rem, l.quot, l.rem, ll.quot, ll.rem);
    int values[100], wanted = 37 * 61 % 101;
    for (int i = 0; i < 100; i++)
        values[i] = i * 61 % 101;
    qsort(values, 100, sizeof *values, compare);
    int *found = bsearch(&wanted, values, 100, sizeof *values, compare);
    printf("%d %d %d %d\n", values[0], values[50], values[99], found != NULL && *found == wanted);
    srand(1);
    unsigned seed = 1;
    printf("%d %d\n", rand() >= 0, rand_r(&seed) >= 0);

    all("%d %s %.3f %c\n", -5, "text", 2.0 / 3, 'c');
    printf("%5d|%-5d|%05d|%+d|% d|%.3d|%5.2d|%x|%#X|%#o|%o\n", 42, 42, 42, 42, 42, 7, 7, 255, 255, 8, 8);
    printf("%hhd %hd %ld %lld %zu %jd %td %hhu %lu\n", 300, 70000, 1L << 40, 1LL << 50, (size_t)7, (intmax_t)-9, (ptrdiff_t)3, 300, ~0UL);
    printf("%d %u %d %lld\n", -2147483647 - 1, 4294967295u, 0, -9223372036854775807LL - 1);
    printf("[%.0d] [%.0x] [%s] [%.2s] [%10.3s] [%-6s] [%c]\n", 0, 0, (char *)"", "abc", "abcdef", "ab", 'z');
    double shown[] = {0.0, 1.0, -2.5, 1e10, 123456789.0, 1e-5, 9.9999995, 0.1, 1e300, 5e-324, 1.0 / 3};
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++)
        printf("%f %e %g %.0f %.3e %#g %G %a %.2a %10.2f|%-10.1e|%+.1f|%010.3f\n", shown[i], shown[i], shown[i], shown[i], shown[i], shown[i],
               shown[i], shown[i], shown[i], shown[i], shown[i], shown[i], shown[i]);
    printf("%f %F %e %5g|%-5g|%05g\n", 1 / 0.0, 1 / 0.0, -1 / 0.0, 1 / 0.0, 1 / 0.0, 1 / 0.0);
    printf("%*d|%-*d|%.*f|%*.*f|%.*s\n", 6, 1, 6, 2, 2, 3.14159, 8, 3, 2.71828, 2, "abc");
    printf("%Lf %Lg %.3Le\n", 2.5L, -1e10L, 1.0L / 3);
    printf("%.360f|%#05o|%#.1g|%#.3g\n", 0.1, 8, 1e10, 1e10);
    int count = 0;
    printf("12345%n", &count);
    printf(" %d %% %d %d %d %d %d %d %f %f %f %f %f %f %f %f %f %f\n", count, 1, 2, 3, 4, 5, 6, .1, .2, .3, .4, .5, .6, .7, .8, .9, 1.);
    printf("%d %s\n", snprintf(text, 4, "%d", 123456), text);
    printf("%d %s\n", sprintf(text, "%s-%d", "x", 5), text);
    printf("%d %s\n", to(text, "%d", 9), text);
    asprintf(&end, "%s!", "made");
    fprintf(stderr, "%s", "");
    puts(end);
    free(end);
    fputc('f', stdout), putc('p', stdout), fputs("uts ", stdout), fwrite("written\n", 1, 8, stdout), fflush(stdout);
    setvbuf(stdout, NULL, _IONBF, 0);
}
