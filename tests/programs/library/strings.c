#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

int bcmp(const void *, const void *, size_t);

static int sign(int value) { return (value > 0) - (value < 0); }
static const char *or_null(const char *text) { return text ? text : "null"; }

void strings(void) {
    char a[64] = "aerokernel", b[64], c[64];
    memset(b, 'x', sizeof b);
    memcpy(b, a, 11);
    memmove(b + 2, b, 8);
    printf("%s %d %d %d\n", b, sign(memcmp(a, b, 5)), bcmp(a, a, 5), (int)((char *)memchr(a, 'k', 10) - a));
    printf("%d %d\n", (int)((char *)memrchr(a, 'e', 10) - a), (int)((char *)memmem(a, 10, "kern", 4) - a));
    *(char *)mempcpy(c, "piece", 5) = 0;
    printf("%s %d %s\n", c, (int)((char *)memccpy(b, "one,two", ',', 7) - b), or_null(memccpy(b, "one", ',', 3)));
    printf("%zu %zu %zu\n", strlen(a), strnlen(a, 4), strnlen(a, 40));
    strcpy(b, "abc"), strcat(b, "def"), strncat(b, "ghijkl", 2);
    printf("%s %d %d %d\n", b, sign(strcmp(b, "abd")), sign(strncmp(b, "abd", 2)), sign(strcoll("b", "a")));
    strncpy(c, "short", 10);
    printf("%s %d %d %d\n", c, c[9], sign(strcasecmp("HeLLo", "hello")), sign(strncasecmp("HeLp", "hell", 3)));
    printf("%s %s %s\n", strchr(a, 'k'), strrchr(a, 'e'), or_null(strchr(a, 'z')));
    printf("%zu %zu %s %s\n", strspn(a, "oear"), strcspn(a, "k"), strpbrk(a, "nk"), strstr(a, "kern"));
    printf("%d", (int)(stpcpy(c, "stp") - c));
    printf(" %s %d", c, (int)(stpncpy(c, "ab", 4) - c));
    printf(" %s %zu", c, strxfrm(c, "collate", sizeof c));
    printf(" %s\n", c);
    char words[] = " one, two,three", *rest, *more = words;
    printf("%s", strtok_r(words, " ,", &rest));
    printf(" %s", strtok_r(NULL, " ,", &rest));
    printf(" %s %s\n", strtok_r(NULL, " ,", &rest), or_null(strtok_r(NULL, " ,", &rest)));
    char again[] = "x y";
    printf("%s", strtok(again, " "));
    printf(" %s\n", strtok(NULL, " "));
    char fields[] = "a::b";
    more = fields;
    for (char *field; (field = strsep(&more, ":"));)
        printf("[%s]", field);
    char *copy = strdup("copied"), *part = strndup("copied", 3);
    printf(" %s %s\n", copy, part);
    free(copy), free(part);
    explicit_bzero(c, 4), bzero(b, 4);
    printf("%d %d\n", c[0], b[3]);
    printf("%d %d\n", strlen(strerror(ENOMEM)) > 3, strerror_r(EINVAL, c, sizeof c) != NULL);
    int __xpg_strerror_r(int, char *, size_t);
    printf("%d\n", __xpg_strerror_r(EINVAL, c, sizeof c));
    for (int character = 0; character < 128; character += 13) {
        int (*tests[])(int) = {isalnum, isalpha, isblank, iscntrl, isdigit, isgraph, islower, isprint, ispunct, isspace, isupper, isxdigit};
        for (size_t test = 0; test < sizeof tests / sizeof *tests; test++)
            putchar(tests[test](character) ? '1' : '0');
        printf(" %d %d\n", toupper(character), tolower(character));
    }
    char accented[] = "na\xc3\xafve";
    printf("%d %d %d\n", (int)(strchr(accented, accented[2]) - accented), (int)(strrchr(accented, (char)0xaf) - accented),
           (int)((char *)memchr(accented, (char)0xc3, 6) - accented));
    printf("%d %d\n", isspace('\t') != 0, isxdigit('G') != 0);
}
