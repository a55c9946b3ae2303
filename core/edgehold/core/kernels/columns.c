/* Kernels whose every bit is fixed: sums run in one order in float64 and nothing is contracted, so that they equal the
   NumPy code beside them (compiled with -ffp-contract=off). */
#include <math.h>

#include "sorting.h"

#if WIDTH == 16
enum { ABREAST = 2 }; /* vectors of columns that go through a network together */
#else
enum { ABREAST = 4 };
#endif
enum { AHEAD = 256, HELD = 1 << 16 }; /* columns, and values of all rows, that are asked for before they are needed */

/* Sort ABREAST * WIDTH columns by a network of comparisons, each (low, high); value i of vector g is v[i * ABREAST + g].

   The processor lets a comparison wait until the one before is written, whichever values they are about: several vectors at
   a time fill that wait. */
static void exchange(floats *v, const int32_t *network, int64_t comparisons) {
    for (int64_t c = 0; c < comparisons; c++) {
        floats *low = v + network[2 * c] * ABREAST, *high = v + network[2 * c + 1] * ABREAST, a[ABREAST], b[ABREAST];
        UNROLL for (int g = 0; g < ABREAST; g++) {
            a[g] = low[g];
            b[g] = high[g];
        }
        UNROLL for (int g = 0; g < ABREAST; g++) {
            low[g] = lower(a[g], b[g]);
            high[g] = higher(a[g], b[g]);
        }
    }
}

/* Means of the values of ranks lo..hi-1 of `abreast` vectors, added up in ascending order; +0 makes -0 into +0. */
INLINE void mean_of(const floats *v, const int abreast, int64_t lo, int64_t hi, double *out) {
    doubles total[2 * ABREAST] = {{0}};
    for (int64_t rank = lo; rank < hi; rank++)
        UNROLL for (int h = 0; h < 2 * abreast; h++) total[h] += load_wide((const float *)&v[rank * abreast] + h * HALF);
    UNROLL for (int h = 0; h < 2 * abreast; h++) store_doubles(out + h * HALF, total[h] / (double)(hi - lo));
}

/* Means of the `keep` values nearest the median: the window moves upwards while the value that would enter is nearer than
   the one that would leave; each slot holds the last value that entered through it. */
INLINE void nearest_mean(floats *v, const int abreast, int64_t n, int64_t keep, double *out) {
    typedef int32_t few_marks __attribute__((vector_size(2 * WIDTH)));
    float *values = (float *)v;
    int64_t row = abreast * WIDTH, slot = 0;
    doubles twice[2 * ABREAST];
    UNROLL for (int h = 0; h < 2 * abreast; h++)
        twice[h] = load_wide(values + (n - 1) / 2 * row + h * HALF) + load_wide(values + n / 2 * row + h * HALF);
    for (int64_t leaving = 0; leaving < n - keep; leaving++) {
        UNROLL for (int h = 0; h < 2 * abreast; h++) {
            few old = load_few(values + slot * row + h * HALF), entering = load_few(values + (leaving + keep) * row + h * HALF);
            doubles both = load_wide(values + leaving * row + h * HALF) + widened(entering);
            few_marks nearer = __builtin_convertvector(both < twice[h], few_marks);
            store_few(values + slot * row + h * HALF, (few)(((few_marks)entering & nearer) | ((few_marks)old & ~nearer)));
        }
        slot = slot + 1 < keep ? slot + 1 : 0;
    }
    mean_of(v, abreast, 0, keep, out);
}

/* What `ordered_mean` wants of vectors whose values are in order. */
INLINE void means(floats *v, const int abreast, int64_t n, int64_t lo, int64_t hi, int64_t keep, double *out) {
    if (keep)
        nearest_mean(v, abreast, n, keep, out);
    else
        mean_of(v, abreast, lo, hi, out);
}

/* rows: n pointers to `width` floats each; network: `comparisons` pairs that order what is looked at; below 0: all are sorted.
   keep > 0: mean of the `keep` values nearest the median; else mean of ranks lo..hi-1. out: (width,).
   Returns 0, or 1 when there is no memory. */
int ordered_mean(const float *const *rows, int64_t n, int64_t width, const int32_t *network, int64_t comparisons, int64_t lo,
                 int64_t hi, int64_t keep, double *out) {
    enum { STEP = ABREAST * WIDTH };
    int64_t size = 8, ahead = n ? least(AHEAD, HELD / n) : AHEAD;
    while (size < n) size *= 2;
    int64_t across = comparisons < 0 ? size : 1, along = comparisons < 0 ? 1 : ABREAST; /* from vector to vector, row to row */
    floats *v = room(size * ABREAST, sizeof(floats));
    float tail[STEP] = {0};
    double sums[STEP];
    if (!v) return 1;
    for (int64_t start = 0; start < width; start += STEP) {
        int64_t count = least(STEP, width - start), later = start + ahead < width ? ahead : 0;
        for (int64_t i = 0; i < n; i++) {
            const float *row = rows[i] + start;
            for (int64_t at = 0; at < STEP; at += LINE) __builtin_prefetch(row + later + at, 0, 2);
            if (count < STEP) row = memcpy(tail, row, (size_t)count * sizeof(float));
            UNROLL for (int g = 0; g < ABREAST; g++) v[i * along + g * across] = load(row + g * WIDTH);
        }
        if (comparisons < 0) {
            for (int g = 0; g < ABREAST; g++) {
                floats *own = v + g * size;
                for (int64_t i = n; i < size; i++) own[i] = (floats){0} + INFINITY;
                sorted(own, size, n);
                means(own, 1, n, lo, hi, keep, sums + g * WIDTH);
            }
        } else {
            exchange(v, network, comparisons);
            means(v, ABREAST, n, lo, hi, keep, sums);
        }
        memcpy(out + start, sums, (size_t)count * sizeof(double));
    }
    free(v);
    return 0;
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
