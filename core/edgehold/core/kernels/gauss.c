/* Attempts at values of the rounded Gaussian (edgehold.core.privacy.rounded, which says what they mean), decided where 31 bits
   decide. Every bit equals the NumPy code beside it (compiled with -ffp-contract=off). */
#include "lanes.h"

enum { BATCH = 256, TERMS = 14 };
#define MARGIN 0x1p-6 /* far above all rounding and what the series leaves out, far below one: see rounded.py */

typedef struct {
    uint64_t coarse; /* place in the cumulative table */
    uint32_t fine;   /* 28 bits of place inside the cell; the lowest four are not used */
    uint32_t last;   /* sign, 31 bits to be compared with the chance of acceptance */
} attempt;

/* attempts: `count` of them, one after the other, until `want` values are in `out` or one stays open.
   edges: high words of the cumulative table; the last is the largest number there is. start: cell to begin the search with,
   by the highest byte. series: TERMS coefficients, the highest power first.
   told: attempts used, values made, whether the attempt after those used is open. Returns 0. */
int gauss(const attempt *attempts, int64_t count, const uint64_t *edges, const uint8_t *start, const double *series,
          int64_t want, int64_t *out, int64_t *told) {
    int32_t cells[BATCH], fine[BATCH], chance[BATCH], open[BATCH];
    double above[BATCH];
    int64_t used = 0, made = 0;
    int stopped = 0;
    while (used < count && made < want && !stopped) {
        const attempt *from = attempts + used;
        int64_t batch = least(BATCH, count - used), at = 0;
        int32_t any = made + batch > want;
        for (int64_t i = 0; i < batch; i++) {
            int32_t cell = start[from[i].coarse >> 56];
            while (edges[cell] < from[i].coarse) cell++;
            cells[i] = cell;
            fine[i] = (int32_t)(from[i].fine >> 4);
            chance[i] = (int32_t)(from[i].last & 0x7fffffff);
            open[i] = (edges[cell] == from[i].coarse) | ((cell | fine[i]) == 0);
        }
        for (int64_t i = 0; i < batch; i++) {
            double within = (double)fine[i] * 0x1p-28;
            double exponent = within * ((double)(2 * cells[i]) + within) * 0x1p-9;
            double power = series[0];
            for (int term = 1; term < TERMS; term++) power = power * exponent + series[term];
            above[i] = power * 0x1p31 - (double)chance[i];
        }
        for (int64_t i = 0; i < batch; i++) {
            open[i] |= (above[i] > -MARGIN) & (above[i] < 1 + MARGIN);
            any |= open[i];
        }
        for (; at < batch; at++) {
            if (any && (made == want || open[at])) break;
            int64_t size = ((int64_t)cells[at] << 28) + fine[at], minus = -(int64_t)(from[at].last >> 31);
            out[made] = (size ^ minus) - minus; /* overwritten by the next where it is not accepted */
            made += above[at] >= 1 + MARGIN;
        }
        stopped = at < batch;
        used += at;
    }
    told[0] = used;
    told[1] = made;
    told[2] = stopped && made < want;
    return 0;
}
