/* Whole columns in ascending order: for more values than a pruned network pays for.

   Bitonic merges (Batcher 1968) whose every comparison points upwards: the first of a merge looks at i and its mirror image.
   Three steps at a time are made on eight values that stay in registers, so that memory is touched a third as often; and parts
   are finished one after the other, so that all but the last steps run in the first-level cache. */
#include "lanes.h"

INLINE void compare(floats *a, floats *b) {
    floats low = lower(*a, *b);
    *b = higher(*a, *b);
    *a = low;
}

/* Steps of a bitonic merge over gaps of `rows` / 2, ..., 1 places among `rows` values (2, 4 or 8) in registers. */
INLINE void halves(floats *x, const int rows) {
    UNROLL for (int gap = rows / 2; gap > 0; gap /= 2)
        UNROLL for (int i = 0; i < rows; i++)
            if (!(i & gap)) compare(&x[i], &x[i + gap]);
}

/* The steps over gaps rows / 2 * apart, ..., apart of every run of rows * apart values among `size`. */
INLINE void steps(floats *v, int64_t size, int64_t apart, const int rows) {
    for (int64_t start = 0; start < size; start += rows * apart)
        for (int64_t at = start; at < start + apart; at++) {
            floats x[8];
            UNROLL for (int i = 0; i < rows; i++) x[i] = v[at + i * apart];
            halves(x, rows);
            UNROLL for (int i = 0; i < rows; i++) v[at + i * apart] = x[i];
        }
}

/* The first three steps of merging two ascending halves of `size` values: mirror images, then a quarter and an eighth apart. */
static void mirrored(floats *v, int64_t size) {
    int64_t apart = size / 8;
    for (int64_t at = 0; at < apart; at++) {
        floats low[4], high[4];
        floats *end = v + size - 1 - at; /* high[i] is the mirror image of low[i] */
        UNROLL for (int i = 0; i < 4; i++) {
            low[i] = v[at + i * apart];
            high[i] = end[-i * apart];
        }
        UNROLL for (int i = 0; i < 4; i++) compare(&low[i], &high[i]);
        halves(low, 4);
        UNROLL for (int gap = 2; gap > 0; gap /= 2)
            UNROLL for (int i = 0; i < 4; i++)
                if (!(i & gap)) compare(&high[i + gap], &high[i]); /* high[i + gap] lies below high[i] */
        UNROLL for (int i = 0; i < 4; i++) {
            v[at + i * apart] = low[i];
            end[-i * apart] = high[i];
        }
    }
}

/* Eight values by Batcher's network of 19 comparisons. */
static inline void eight(floats *v) {
    static const int8_t pairs[19][2] = {{0, 1}, {2, 3}, {4, 5}, {6, 7}, {0, 2}, {1, 3}, {4, 6}, {5, 7}, {1, 2}, {5, 6},
                                        {0, 4}, {1, 5}, {2, 6}, {3, 7}, {2, 4}, {3, 5}, {1, 2}, {3, 4}, {5, 6}};
    floats x[8];
    UNROLL for (int i = 0; i < 8; i++) x[i] = v[i];
    _Pragma("GCC unroll 19") for (int c = 0; c < 19; c++) compare(&x[pairs[c][0]], &x[pairs[c][1]]);
    UNROLL for (int i = 0; i < 8; i++) v[i] = x[i];
}

/* The steps that are left of a merge once runs of `size` values (a power of two) lie apart: gaps size / 2, ..., 1. */
static void finished(floats *v, int64_t size) {
    int left = __builtin_ctzll((unsigned long long)size);
    if (left % 3 == 1) steps(v, size, size / 2, 2);
    if (left % 3 == 2) steps(v, size, size / 4, 4);
    for (int64_t apart = size >> (left % 3) >> 3; left >= 3 && apart > 0; apart /= 8) steps(v, size, apart, 8);
}

/* Sort WIDTH columns of `size` values, a power of two of at least 8, of which those from `n` on are the largest already. */
static void sorted(floats *v, int64_t size, int64_t n) {
    if (n <= 0) return;
    if (size == 8) {
        eight(v);
        return;
    }
    sorted(v, size / 2, n);
    sorted(v + size / 2, size / 2, n - size / 2);
    if (n <= size / 2) return;
    mirrored(v, size);
    for (int64_t start = 0; start < size && start < n; start += size / 8) finished(v + start, size / 8);
}
