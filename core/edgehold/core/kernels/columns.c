/* Kernels whose every bit is fixed: sums run in one order in float64 and nothing is contracted, so that they equal the
   NumPy code beside them (compiled with -ffp-contract=off). */
#include <math.h>

#include "sorting.h"

enum { PANEL = 256 }; /* most columns worked on at a time */
enum { HELD = 1 << 17 }; /* values worked on at a time where rows are many: they stay in the second-level cache */
enum { STREAMS = 24 }; /* more rows than the processor can read ahead of one by one are copied, panel by panel */

/* Sort WIDTH columns of n values by a network of comparisons; each is (low, high). */
static void exchange(floats *v, const int32_t *network, int64_t comparisons) {
    for (int64_t c = 0; c < comparisons; c++) {
        floats a = v[network[2 * c]], b = v[network[2 * c + 1]];
        v[network[2 * c]] = lower(a, b);
        v[network[2 * c + 1]] = higher(a, b);
    }
}

/* Mean of the values of ranks lo..hi-1, added up in ascending order; +0 makes -0 into +0. */
static void mean_of(const floats *v, int64_t lo, int64_t hi, double *out) {
    doubles low = {0}, high = {0};
    for (int64_t rank = lo; rank < hi; rank++) {
        low += load_wide((const float *)&v[rank]);
        high += load_wide((const float *)&v[rank] + HALF);
    }
    store_doubles(out, low / (double)(hi - lo));
    store_doubles(out + HALF, high / (double)(hi - lo));
}

/* Mean of the `keep` values nearest the median: the window moves upwards while the value that would enter is nearer than
   the one that would leave; each slot holds the last value that entered through it. */
static void nearest_mean(floats *v, int64_t n, int64_t keep, double *out) {
    for (int half = 0; half < 2; half++) {
        doubles twice = load_wide((float *)&v[(n - 1) / 2] + half * HALF) + load_wide((float *)&v[n / 2] + half * HALF);
        for (int64_t leaving = 0; leaving < n - keep; leaving++) {
            float *slot = (float *)&v[leaving % keep] + half * HALF;
            few old = load_few(slot), entering = load_few((float *)&v[leaving + keep] + half * HALF);
            doubles both = load_wide((float *)&v[leaving] + half * HALF) + widened(entering);
            typedef int32_t few_marks __attribute__((vector_size(2 * WIDTH)));
            few_marks nearer = __builtin_convertvector(both < twice, few_marks);
            store_few(slot, (few)(((few_marks)entering & nearer) | ((few_marks)old & ~nearer)));
        }
        doubles total = {0};
        for (int64_t slot = 0; slot < keep; slot++) total += load_wide((float *)&v[slot] + half * HALF);
        store_doubles(out + half * HALF, total / (double)keep);
    }
}

/* rows: n pointers to `width` floats each; network: `comparisons` pairs that order what is looked at; below 0: all are sorted.
   keep > 0: mean of the `keep` values nearest the median; else mean of ranks lo..hi-1. out: (width,).
   Returns 0, or 1 when there is no memory. */
int ordered_mean(const float *const *rows, int64_t n, int64_t width, const int32_t *network, int64_t comparisons, int64_t lo,
                 int64_t hi, int64_t keep, double *out) {
    int copies = n > STREAMS;
    int64_t size = 8, part = n ? least(PANEL, HELD / n / WIDTH * WIDTH) : PANEL;
    while (size < n) size *= 2;
    if (part < WIDTH) part = WIDTH;
    int64_t aisle = part + WIDTH; /* copies that lie a power of two apart would push each other out of the cache */
    float *panel = room(n * aisle, sizeof(float));
    floats *v = room(size, sizeof(floats));
    const float **from = malloc((size_t)n * sizeof *from);
    double tail[WIDTH];
    int failed = !panel || !v || !from;
    for (int64_t start = 0; start < width && !failed; start += part) {
        int64_t count = least(part, width - start);
        for (int64_t i = 0; i < n; i++) {
            from[i] = rows[i] + start;
            if (!copies && count == part) continue;
            from[i] = memcpy(panel + i * aisle, from[i], (size_t)count * sizeof(float));
            memset(panel + i * aisle + count, 0, (size_t)(part - count) * sizeof(float));
        }
        for (int64_t at = 0; at < count; at += WIDTH) {
            double *to = at + WIDTH <= count ? out + start + at : tail;
            for (int64_t i = 0; i < n; i++) v[i] = load(from[i] + at);
            if (comparisons < 0) {
                for (int64_t i = n; i < size; i++) v[i] = (floats){0} + INFINITY;
                sorted(v, size, n);
            } else {
                exchange(v, network, comparisons);
            }
            if (keep)
                nearest_mean(v, n, keep, to);
            else
                mean_of(v, lo, hi, to);
            if (to == tail) memcpy(out + start + at, tail, (size_t)(count - at) * sizeof(double));
        }
    }
    free(panel);
    free(v);
    free(from);
    return failed;
}

/* out = sum of shares[i] * rows[i], added up row after row. out: (width,). Returns 0. */
int combined(const float *const *rows, const double *shares, int64_t n, int64_t width, double *out) {
    enum { PART = 2048 }; /* 16 KiB of sums stay in the first-level cache */
    for (int64_t start = 0; start < width; start += PART) {
        int64_t count = least(PART, width - start), whole = count - count % HALF;
        double *to = out + start;
        memset(to, 0, (size_t)count * sizeof(double));
        for (int64_t i = 0; i < n; i++) {
            const float *row = rows[i] + start;
            double share = shares[i];
            for (int64_t at = 0; at < whole; at += HALF)
                store_doubles(to + at, load_doubles(to + at) + load_wide(row + at) * share);
            for (int64_t at = whole; at < count; at++) to[at] += (double)load_one(row + at) * share;
        }
    }
    return 0;
}
