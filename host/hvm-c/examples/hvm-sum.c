/* Sums numbers that Linux has in memory, in place, in the Aerokernel beside this process: as one call, as parallel
 * calls, and as synchronous ones. `AEROKERNEL_HRT=IMAGE hvm-sum-c` */
#include <stdio.h>
#include <stdlib.h>

#include "hvm.h"

enum { COUNT = 1 << 20, PARTS = 64 };

static uint64_t numbers[COUNT];
static uint64_t sums[PARTS];
static uint64_t next_part;

static void must(const char *what, int result)
{
    if (result != 0) {
        fprintf(stderr, "%s: %s\n", what, hvm_error());
        exit(1);
    }
}

/* Runs in the HRT. */
static uint64_t sum(uint64_t from, uint64_t to, uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
    (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    uint64_t sum = 0;
    for (uint64_t at = from; at < to; at++)
        sum += numbers[at];
    return sum;
}

/* Runs in the HRT, by several threads at once: each takes parts until there are none. */
static uint64_t sum_parts(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
    (void)a, (void)b;
    uint64_t part;
    while ((part = __atomic_fetch_add(&next_part, 1, __ATOMIC_RELAXED)) < PARTS)
        sums[part] = sum(part * (COUNT / PARTS), (part + 1) * (COUNT / PARTS), c, d, e, f, g, h);
    return 0;
}

int main(void)
{
    uint64_t expected = 0, result = 0, total = 0;
    for (uint64_t at = 0; at < COUNT; at++)
        expected += numbers[at] = at * UINT64_C(0x9e3779b97f4a7c15);
    must("init", v3_hvm_ros_user_init());
    must("merge", v3_hvm_ros_merge_address_spaces());

    struct hvm_call whole = { sum, &result, { 0, COUNT } };
    must("call", v3_hvm_ros_invoke_hrt_async(&whole, 0));
    printf("one call: %s\n", result == expected ? "right" : "WRONG");

    struct hvm_call parts = { sum_parts, NULL, { 0 } };
    must("parallel call", v3_hvm_ros_invoke_hrt_async(&parts, 1));
    for (int part = 0; part < PARTS; part++)
        total += sums[part];
    printf("parallel calls: %s\n", total == expected ? "right" : "WRONG");

    must("synchronize", v3_hvm_ros_synchronize());
    total = 0;
    for (uint64_t part = 0; part < PARTS; part++) {
        struct hvm_call one = { sum, &result, { part * (COUNT / PARTS), (part + 1) * (COUNT / PARTS) } };
        must("synchronous call", v3_hvm_ros_invoke_hrt_sync(&one, 1));
        total += result;
    }
    must("desynchronize", v3_hvm_ros_desynchronize());
    printf("synchronous calls: %s\n", total == expected ? "right" : "WRONG");

    must("reset", v3_hvm_ros_reset(RESET_HRT));
    if (v3_hvm_ros_invoke_hrt_async(&whole, 0) == 0)
        printf("a call before the merge: WRONG\n");
    else
        printf("a call before the merge: %s\n", hvm_error());
    must("merge", v3_hvm_ros_merge_address_spaces());
    result = 0;
    must("call", v3_hvm_ros_invoke_hrt_async(&whole, 0));
    printf("after a reset: %s\n", result == expected ? "right" : "WRONG");
    must("deinit", v3_hvm_ros_user_deinit());
    return 0;
}
