/* What processors' integer benchmarks do: a linked list that is searched, reversed and sorted, a matrix product, a state machine over
 * text; each result goes into a checksum. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint16_t crc(uint16_t value, uint32_t data) {
    for (int bit = 0; bit < 32; bit++) {
        int carry = (value ^ data) & 1;
        value >>= 1, data >>= 1;
        if (carry)
            value ^= 0xa001;
    }
    return value;
}

struct node {
    struct node *next;
    int32_t key, data;
};

static struct node *reverse(struct node *list) {
    struct node *done = NULL;
    while (list) {
        struct node *next = list->next;
        list->next = done, done = list, list = next;
    }
    return done;
}

static struct node *sort(struct node *list) {
    if (!list || !list->next)
        return list;
    struct node *slow = list, *fast = list->next, head, *end = &head;
    while (fast && fast->next)
        slow = slow->next, fast = fast->next->next;
    struct node *right = sort(slow->next);
    slow->next = NULL;
    struct node *left = sort(list);
    while (left && right) {
        struct node **first = left->key <= right->key ? &left : &right;
        end->next = *first, end = *first, *first = (*first)->next;
    }
    end->next = left ? left : right;
    return head.next;
}

static uint16_t lists(uint16_t sum, uint32_t seed) {
    struct node *list = NULL;
    for (int i = 0; i < 500; i++) {
        struct node *node = malloc(sizeof *node);
        seed = seed * 1664525 + 1013904223;
        *node = (struct node){list, seed >> 20, i};
        list = node;
    }
    for (int round = 0; round < 10; round++) {
        list = reverse(list);
        int found = 0;
        for (struct node *node = list; node; node = node->next)
            found += (node->key & 15) == round;
        sum = crc(sum, found);
    }
    list = sort(list);
    while (list) {
        struct node *next = list->next;
        sum = crc(sum, list->key ^ list->data);
        free(list);
        list = next;
    }
    return sum;
}

enum { N = 48 };

static uint16_t matrices(uint16_t sum, int seed) {
    static int32_t a[N][N], b[N][N], c[N][N];
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            a[i][j] = (i * seed + j) % 97, b[i][j] = (i ^ j * seed) % 89;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            int32_t total = 0;
            for (int k = 0; k < N; k++)
                total += a[i][k] * b[k][j];
            c[i][j] = total;
        }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            sum = crc(sum, c[i][j]);
    return sum;
}

enum state { START, INTEGER, FRACTION, EXPONENT, BAD, STATES };

static uint16_t states(uint16_t sum, const char *text) {
    int seen[STATES] = {0};
    enum state state = START;
    for (; *text; text++) {
        int digit = *text >= '0' && *text <= '9';
        if (*text == ' ')
            seen[state]++, state = START;
        else if (state == START || state == INTEGER)
            state = digit ? INTEGER : *text == '.' ? FRACTION : *text == 'e' ? EXPONENT : BAD;
        else if (state == FRACTION)
            state = digit ? FRACTION : *text == 'e' ? EXPONENT : BAD;
        else if (state == EXPONENT && !digit)
            state = BAD;
    }
    for (int index = 0; index < STATES; index++)
        sum = crc(sum, seen[index]);
    return sum;
}

int main(int count, char **values) {
    int rounds = count > 1 ? atoi(values[1]) : 20;
    uint16_t list = 0, matrix = 0, state = 0;
    char text[256];
    for (int round = 0; round < rounds; round++) {
        list = lists(list, round + 1);
        matrix = matrices(matrix, round + 3);
        snprintf(text, sizeof text, "%d %d.%d 1e%d x%d 3.e5 .5 7..1 %s ", round, round, round, round, round, round % 2 ? "12" : "e9");
        state = states(state, text);
    }
    printf("%d rounds: list %04x, matrix %04x, state %04x\n", rounds, list, matrix, state);
    return 0;
}
