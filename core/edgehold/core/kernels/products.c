/* Products of rows: fused multiply-add wherever the machine has it. */
#include <math.h>

#include "lanes.h"

enum { DEPTH = 64 }; /* float32 products added up in a lane before they go on in float64: error at most DEPTH * 2^-24 */
enum { NEAR = 16 }; /* tiles that meet all others before the next: they stay in the second-level cache meanwhile */
#define STRIP (DEPTH * WIDTH)
#define APART (STRIP + WIDTH) /* rows that lie a power of two apart would push each other out of the cache */

/* Largest size of a vector's values. */
static float largest(floats v) {
    float most = 0;
    for (int i = 0; i < WIDTH; i++) most = v[i] > most ? v[i] : most;
    return most;
}

static inline double difference(const float *row, const float *centre, int64_t at) {
    return (double)load_one(row + at) - (centre ? (double)load_one(centre + at) : 0);
}

/* row - centre over `count` columns into `to`, filled up with zeros to STRIP; returns the power of two that was taken out.
   Ordinary numbers are left as they are; huge and tiny ones are scaled so that their float32 products neither overflow nor
   vanish. `next` will be read next: memory is asked for it meanwhile. */
static int centred(const float *row, const float *centre, int64_t count, const float *next, float *to) {
    const marks magnitude = (marks){0} + 0x7fffffff;
    floats most = {0};
    int64_t at = 0;
    for (; at + WIDTH <= count; at += WIDTH) {
        if (at % LINE == 0) __builtin_prefetch(next + at, 0, 2);
        floats v = load(row + at);
        if (centre) v -= load(centre + at);
        store(to + at, v);
        floats size = (floats)((marks)v & magnitude);
        marks more = size > most;
        most = (floats)(((marks)size & more) | ((marks)most & ~more));
    }
    float top = largest(most);
    for (; at < count; at++) {
        to[at] = load_one(row + at) - (centre ? load_one(centre + at) : 0);
        top = fabsf(to[at]) > top ? fabsf(to[at]) : top;
    }
    memset(to + count, 0, (size_t)(STRIP - count) * sizeof(float));
    if (top == 0 || (top < 0x1p50f && top > 0x1p-30f)) return 0;
    double size = 0;
    for (at = 0; at < count; at++) size = fmax(size, fabs(difference(row, centre, at)));
    int power;
    frexp(size, &power);
    for (at = 0; at < count; at++) to[at] = (float)ldexp(difference(row, centre, at), -power);
    return power;
}

static inline double summed(floats v) {
    const float *at = (const float *)&v;
    doubles wide = load_wide(at) + load_wide(at + HALF);
#if WIDTH == 16
    typedef double four __attribute__((vector_size(32)));
    typedef double two __attribute__((vector_size(16)));
    four half = __builtin_shufflevector(wide, wide, 0, 1, 2, 3) + __builtin_shufflevector(wide, wide, 4, 5, 6, 7);
    two pair = __builtin_shufflevector(half, half, 0, 1) + __builtin_shufflevector(half, half, 2, 3);
    return pair[0] + pair[1];
#else
    double total = 0;
    for (int i = 0; i < HALF; i++) total += wide[i];
    return total;
#endif
}

/* Sums of products of TILE rows with `rows` rows over one strip; inlined, so that the number is known. */
INLINE void tile(const float *a, const float *b, const int rows, double *out) {
    floats sums[TILE][TILE];
    UNROLL for (int i = 0; i < TILE; i++) UNROLL for (int j = 0; j < rows; j++) sums[i][j] = (floats){0};
    for (int64_t at = 0; at < STRIP; at += WIDTH) {
        floats left[TILE];
        UNROLL for (int i = 0; i < TILE; i++) left[i] = load(a + i * APART + at);
        UNROLL for (int j = 0; j < rows; j++) {
            floats right = load(b + j * APART + at);
            UNROLL for (int i = 0; i < TILE; i++) sums[i][j] += left[i] * right;
        }
    }
    UNROLL for (int i = 0; i < TILE; i++) UNROLL for (int j = 0; j < rows; j++) out[i * TILE + j] = summed(sums[i][j]);
}

static void tiles_of(const float *a, const float *b, int64_t rows, double *out) {
    if (rows >= TILE)
        tile(a, b, TILE, out);
    else if (rows == 1)
        tile(a, b, 1, out);
    else if (rows == 2)
        tile(a, b, 2, out);
    else
        tile(a, b, 3, out);
}

/* gram += inner products of rows about row `centre` (below 0: about the origin) over `width` columns, upper triangle.
   rows: n pointers; one may be NULL: the origin. gram: (n, n). Returns 0, or 1 when there is no memory. */
int gram(const float *const *rows, int64_t n, int64_t width, int64_t centre, double *out) {
    int64_t tiles = (n + TILE - 1) / TILE;
    float *strip = room(tiles * TILE * APART, sizeof(float));
    float *nothing = calloc(STRIP, sizeof(float));
    int *powers = calloc((size_t)(tiles * TILE), sizeof(int));
    int failed = !strip || !nothing || !powers;
    if (!failed) memset(strip + n * APART, 0, (size_t)(tiles * TILE - n) * APART * sizeof(float));
    for (int64_t start = 0; start < width && !failed; start += STRIP) {
        int64_t count = least(STRIP, width - start);
        const float *from = centre >= 0 ? rows[centre] + start : NULL;
        for (int64_t i = 0; i < n; i++) {
            const float *next = i + 1 < n ? rows[i + 1] : NULL;
            const float *row = rows[i] ? rows[i] + start : nothing;
            powers[i] = centred(row, from, count, next ? next + start : nothing, strip + i * APART);
        }
        for (int64_t first = 0; first < tiles; first += NEAR) {
            int64_t last = least(first + NEAR, tiles);
            for (int64_t p = 0; p < last; p++)
                for (int64_t q = p > first ? p : first; q < last; q++) {
                    double sums[TILE * TILE];
                    tiles_of(strip + p * TILE * APART, strip + q * TILE * APART, n - q * TILE, sums);
                    for (int64_t i = 0; i < TILE && p * TILE + i < n; i++)
                        for (int64_t j = 0; j < TILE && q * TILE + j < n; j++) {
                            int power = powers[p * TILE + i] + powers[q * TILE + j];
                            double sum = sums[i * TILE + j];
                            out[(p * TILE + i) * n + q * TILE + j] += power ? ldexp(sum, power) : sum;
                        }
                }
        }
    }
    free(strip);
    free(nothing);
    free(powers);
    return failed;
}

enum { OUTPUTS = 6 };

/* out[r] = float32(sum of mix[r, i] * rows[i]), sums in float64. rows: n pointers; mix: (m, n); out: m pointers.
   Returns 0, or 1 when there is no memory. */
int mixed(const float *const *rows, int64_t n, const double *mix, int64_t m, int64_t width, float *const *out) {
    enum { PANEL = 256 };
    int64_t groups = (m + OUTPUTS - 1) / OUTPUTS;
    double *panel = room(n * PANEL, sizeof(double));
    double *shares = calloc((size_t)(groups * n * OUTPUTS), sizeof(double)); /* OUTPUTS of a row side by side */
    int failed = !panel || !shares;
    for (int64_t r = 0; r < m && !failed; r++)
        for (int64_t i = 0; i < n; i++) shares[(r / OUTPUTS * n + i) * OUTPUTS + r % OUTPUTS] = mix[r * n + i];
    for (int64_t start = 0; start < width && !failed; start += PANEL) {
        int64_t count = least(PANEL, width - start), padded = (count + WIDTH - 1) / WIDTH * WIDTH;
        for (int64_t i = 0; i < n; i++) { /* WIDTH columns of all rows lie together */
            int64_t whole = count - count % WIDTH;
            for (int64_t at = 0; at < whole; at += HALF)
                store_doubles(panel + (at / WIDTH * n + i) * WIDTH + at % WIDTH, load_wide(rows[i] + start + at));
            for (int64_t at = whole; at < padded; at++) {
                panel[(at / WIDTH * n + i) * WIDTH + at % WIDTH] = at < count ? (double)load_one(rows[i] + start + at) : 0;
            }
        }
        for (int64_t at = 0; at < padded; at += WIDTH)
            for (int64_t g = 0; g < groups; g++) {
                doubles low[OUTPUTS], high[OUTPUTS];
                UNROLL for (int r = 0; r < OUTPUTS; r++) low[r] = high[r] = (doubles){0};
                const double *share = shares + g * n * OUTPUTS, *values = panel + at * n;
                for (int64_t i = 0; i < n; i++) {
                    doubles a = load_doubles(values + i * WIDTH), b = load_doubles(values + i * WIDTH + HALF);
                    UNROLL for (int r = 0; r < OUTPUTS; r++) {
                        low[r] += a * share[i * OUTPUTS + r];
                        high[r] += b * share[i * OUTPUTS + r];
                    }
                }
                UNROLL for (int r = 0; r < OUTPUTS; r++) {
                    if (g * OUTPUTS + r >= m) continue;
                    few both[2] = {narrowed(low[r]), narrowed(high[r])};
                    memcpy(out[g * OUTPUTS + r] + start + at, both, (size_t)least(WIDTH, count - at) * sizeof(float));
                }
            }
    }
    free(panel);
    free(shares);
    return failed;
}

enum { TOGETHER = 4 }; /* rows whose every subset is summed once for all outputs */
enum { CLOSE = 14 };   /* such groups at a time: their sums stay in the first-level cache */
#define SUBSETS (1 << TOGETHER)

typedef struct {
    doubles low, high;
} wide; /* WIDTH columns */

/* Sums of all subsets of the next TOGETHER rows: bit j of the place says whether row j is in it. */
static inline void sums_of_subsets(const float *panel, int64_t aisle, wide *sums) {
    sums[0] = (wide){{0}, {0}};
    UNROLL for (int j = 0; j < TOGETHER; j++) {
        doubles low = load_wide(panel + j * aisle), high = load_wide(panel + j * aisle + HALF);
        UNROLL for (int s = 0; s < 1 << j; s++) sums[(1 << j) + s] = (wide){sums[s].low + low, sums[s].high + high};
    }
}

/* out[r] = float32(scale[r] * sum of the rows of subset r), sums in float64. rows: n pointers; members: (m, groups) bytes,
   groups = ceil(n / 4): bit j of byte g stands for row 4 g + j; out: m pointers. Returns 0, or 1 when there is no memory.
   Source: Arlazarov et al. 1970 ("four Russians"): 50 means over 40 of 50 rows take a third of the additions. */
int subset_sums(const float *const *rows, int64_t n, const uint8_t *members, const double *scale, int64_t m, int64_t width,
                float *const *out) {
    enum { PANEL = 256, AISLE = PANEL + WIDTH };
    int64_t groups = (n + TOGETHER - 1) / TOGETHER, all = groups * TOGETHER;
    float *panel = room(all * AISLE, sizeof(float));
    wide *sums = room(CLOSE * SUBSETS, sizeof(wide)), *totals = room(m, sizeof(wide));
    uint16_t *places = room(m * groups, sizeof *places); /* of each subset's sum, in bytes */
    int failed = !panel || !sums || !totals || !places;
    for (int64_t at = 0; at < m * groups && !failed; at++)
        places[at] = (uint16_t)((at % groups % CLOSE * SUBSETS + members[at]) * (int64_t)sizeof(wide));
    if (!failed) memset(panel, 0, (size_t)all * AISLE * sizeof(float));
    for (int64_t start = 0; start < width && !failed; start += PANEL) {
        int64_t count = least(PANEL, width - start);
        for (int64_t i = 0; i < n; i++) {
            memcpy(panel + i * AISLE, rows[i] + start, (size_t)count * sizeof(float));
            for (int64_t at = 0; at < PANEL; at += LINE) __builtin_prefetch(rows[i] + start + PANEL + at, 0, 2);
        }
        for (int64_t at = 0; at < count; at += WIDTH)
            for (int64_t first = 0; first < groups; first += CLOSE) {
                int64_t some = least(CLOSE, groups - first);
                for (int64_t g = 0; g < some; g++)
                    sums_of_subsets(panel + (first + g) * TOGETHER * AISLE + at, AISLE, sums + g * SUBSETS);
                for (int64_t r = 0; r < m; r++) {
                    const uint16_t *place = places + r * groups + first;
                    wide total = {{0}, {0}};
                    if (first) total = totals[r];
                    for (int64_t g = 0; g < some; g++) {
                        const wide *sum = (const wide *)((const char *)sums + place[g]);
                        total = (wide){total.low + sum->low, total.high + sum->high};
                    }
                    if (first + some < groups) {
                        totals[r] = total;
                        continue;
                    }
                    few both[2] = {narrowed(total.low * scale[r]), narrowed(total.high * scale[r])};
                    float *to = out[r] + start + at;
                    __builtin_prefetch(to + PANEL, 1); /* runs are too short for the processor to see where they go on */
                    if (at + WIDTH <= count) {
                        store_few(to, both[0]);
                        store_few(to + HALF, both[1]);
                    } else {
                        memcpy(to, both, (size_t)(count - at) * sizeof(float));
                    }
                }
            }
    }
    free(panel);
    free(sums);
    free(totals);
    free(places);
    return failed;
}
