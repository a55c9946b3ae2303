/* Vectors as wide as the machine has them, and the rows all kernels work on.

   Every kernel is plain C over GCC's vector types, compiled once per instruction set; __init__.py loads the widest that the
   processor has. Rows lie in files and sealed spools at any address. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define WIDTH 16 /* floats of a vector */
#define TILE 4   /* rows of a tile of products: TILE * TILE sums and TILE + 1 operands stay in registers */
#elif defined(__AVX2__)
#define WIDTH 8
#define TILE 3
#else
#define WIDTH 4
#define TILE 3
#endif

typedef float floats __attribute__((vector_size(4 * WIDTH)));
typedef int32_t marks __attribute__((vector_size(4 * WIDTH)));
typedef float few __attribute__((vector_size(2 * WIDTH)));
typedef double doubles __attribute__((vector_size(4 * WIDTH))); /* WIDTH / 2 of them */
#define HALF (WIDTH / 2)
enum { LINE = 16 }; /* floats that memory hands over at a time */

/* The same at any address. (A memcpy would do, but GCC 12 sends wide ones through the stack.) */
#define ANYWHERE aligned(1), may_alias
typedef float floats_at __attribute__((vector_size(4 * WIDTH), ANYWHERE));
typedef float few_at __attribute__((vector_size(2 * WIDTH), ANYWHERE));
typedef double doubles_at __attribute__((vector_size(4 * WIDTH), ANYWHERE));
typedef float float_at __attribute__((ANYWHERE));

static inline floats load(const float *from) { return *(const floats_at *)from; }
static inline void store(float *to, floats v) { *(floats_at *)to = v; }
static inline few load_few(const float *from) { return *(const few_at *)from; }
static inline void store_few(float *to, few v) { *(few_at *)to = v; }
static inline doubles load_doubles(const double *from) { return *(const doubles_at *)from; }
static inline void store_doubles(double *to, doubles v) { *(doubles_at *)to = v; }
static inline float load_one(const float *from) { return *(const float_at *)from; }

/* Half a vector of floats widened, and back. GCC 12 would take a vector of AVX-512 apart for it. */
#if defined(__AVX512F__)
static inline doubles widened(few v) { return (doubles)_mm512_cvtps_pd((__m256)v); }
static inline few narrowed(doubles v) { return (few)_mm512_cvtpd_ps((__m512d)v); }
#else
static inline doubles widened(few v) { return __builtin_convertvector(v, doubles); }
static inline few narrowed(doubles v) { return __builtin_convertvector(v, few); }
#endif
/* The smaller and the larger of two, as the machine's own instructions define them: of equal ones, zeros of both signs among
   them, `lower` gives b and `higher` gives a, so that a comparison loses neither. */
#if defined(__AVX512F__)
static inline floats lower(floats a, floats b) { return (floats)_mm512_min_ps((__m512)a, (__m512)b); }
static inline floats higher(floats a, floats b) { return (floats)_mm512_max_ps((__m512)b, (__m512)a); }
#elif defined(__AVX2__)
static inline floats lower(floats a, floats b) { return (floats)_mm256_min_ps((__m256)a, (__m256)b); }
static inline floats higher(floats a, floats b) { return (floats)_mm256_max_ps((__m256)b, (__m256)a); }
#elif defined(__x86_64__)
static inline floats lower(floats a, floats b) { return (floats)_mm_min_ps((__m128)a, (__m128)b); }
static inline floats higher(floats a, floats b) { return (floats)_mm_max_ps((__m128)b, (__m128)a); }
#else
static inline floats lower(floats a, floats b) {
    marks less = a < b;
    return (floats)(((marks)a & less) | ((marks)b & ~less));
}
static inline floats higher(floats a, floats b) {
    marks less = a < b;
    return (floats)(((marks)b & less) | ((marks)a & ~less));
}
#endif

static inline doubles load_wide(const float *from) { return widened(load_few(from)); }

#define UNROLL _Pragma("GCC unroll 16") /* what is indexed by such a loop alone stays in registers */
#define INLINE static inline __attribute__((always_inline)) /* a constant argument is one inside */

/* Memory for `count` things of `each` bytes, where vectors may lie; NULL when there is none. */
static inline void *room(int64_t count, size_t each) { return aligned_alloc(64, ((size_t)count * each + 63) / 64 * 64); }

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
