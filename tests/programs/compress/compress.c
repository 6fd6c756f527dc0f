/* Compresses, decompresses and hashes a text that is made up here. */
#include <lz4.h>
#include <lz4hc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { SIZE = 1 << 20 };

int main(void) {
    char *text = malloc(SIZE), *packed = malloc(LZ4_compressBound(SIZE)), *again = malloc(SIZE);
    if (!text || !packed || !again)
        return 1;
    unsigned seed = 7;
    for (int at = 0; at < SIZE;) {
        seed = seed * 1103515245 + 12345;
        at += snprintf(text + at, SIZE - at, "%s %u, ", seed >> 28 & 1 ? "word" : "another", seed >> 22);
    }
    int fast = LZ4_compress_default(text, packed, SIZE, LZ4_compressBound(SIZE));
    printf("%d %016llx\n", fast, (unsigned long long)XXH64(packed, fast, 0));
    int back = LZ4_decompress_safe(packed, again, fast, SIZE);
    printf("%d %d\n", back, memcmp(text, again, SIZE));
    int small = LZ4_compress_HC(text, packed, SIZE, LZ4_compressBound(SIZE), 9);
    printf("%d %016llx %08x\n", small, (unsigned long long)XXH3_64bits(packed, small), XXH32(text, SIZE, 1));
    memset(again, 0, SIZE);
    back = LZ4_decompress_safe(packed, again, small, SIZE);
    printf("%d %d\n", back, memcmp(text, again, SIZE));
    free(text), free(packed), free(again);
    return 0;
}
