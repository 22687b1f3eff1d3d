/*
 * Judges functions of one argument against the C library: `judge` compares the results for a run of arguments. f32 and what
 * is narrower is held against double precision, LANES values at a time, and f64 (-DWIDE) against long double. With -DMVEC
 * the C library has its functions for vectors too, in libmvec, within 4 units in the last place of double.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef WIDE
enum { LANES = 1 };
typedef double value, values;
typedef long double real;
#define FUNCTION(name) static real each_##name(real x) { return name##l(x); }
#define LANEWISE FUNCTION
#define CONVERT(x, type) ((type)(x))
#define ABSOLUTE fabsl
#define COPYSIGN copysignl
#define LANE(x, lane) (x)
#else
#if defined MVEC && defined __AVX512F__
enum { LANES = 8 };
#define VECTOR(name) _ZGVeN8v_##name
#elif defined MVEC && defined __AVX2__
enum { LANES = 4 };
#define VECTOR(name) _ZGVdN4v_##name
#else
enum { LANES = 4 };
#define FUNCTION LANEWISE
#endif
typedef float value;
typedef float values __attribute__((ext_vector_type(LANES)));
typedef double real __attribute__((ext_vector_type(LANES)));
#define LANEWISE(name) \
  static real each_##name(real x) { \
    for (int i = 0; i < LANES; i++) x[i] = name(x[i]); \
    return x; \
  }
#ifdef VECTOR
#define FUNCTION(name) \
  real VECTOR(name)(real); \
  static real each_##name(real x) { return VECTOR(name)(x); }
#endif
#define CONVERT __builtin_convertvector
#define ABSOLUTE __builtin_elementwise_abs
#define COPYSIGN __builtin_elementwise_copysign
#define LANE(x, lane) (x)[lane]
#endif

FUNCTION(acos) FUNCTION(acosh) FUNCTION(asin) FUNCTION(asinh) FUNCTION(atan) FUNCTION(atanh) FUNCTION(cos) FUNCTION(cosh)
FUNCTION(erf) FUNCTION(erfc) FUNCTION(exp) FUNCTION(expm1) FUNCTION(log) FUNCTION(log1p) FUNCTION(sin) FUNCTION(sinh)
FUNCTION(tan) FUNCTION(tanh) LANEWISE(sqrt)

static real each_elu(real x) { return x < 0 ? each_expm1(x) : x; }
static real each_selu(real x) {
  return (x > 0 ? x : 1.67326319217681884765625 * each_expm1(x)) * 1.05070102214813232421875;
}
/* 1 + erf(t) = erfc(-t), and 1 + tanh(t) = 2 sigmoid(2 t): nothing cancels where x is far below 0. */
static real each_gelu(real x) { return 0.5 * x * each_erfc(x * -0.707106781186547524400844362104849039L); }
static real each_gelu_tanh(real x) {
  return x / (1 + each_exp(x * -1.59576912160573071175978423973L * (1 + 0.044715L * x * x)));
}
static real each_quick_gelu(real x) { return x / (1 + each_exp(x * -1.70200002193450927734375)); }
/* alpha is the f32 next to 0.2; x + 2.5 is exact where the sum is small. */
static real each_hard_sigmoid(real x) {
  real y = 0.20000000298023223876953125 * (x + 2.5) - 7.450580596923828125e-09;
  return y < 0 ? 0 : y > 1 ? 1 : y;
}
static real each_hard_swish(real x) { return x < -3 ? 0 * x : x > 3 ? x : x * (x + 3) / 6; }
/* tanh(log(1 + e)) = (e^2 + 2 e) / (e^2 + 2 e + 2) for e = exp(x). */
static real each_mish(real x) {
  real e = each_exp(x), n = e * (e + 2);
  return x > 40 ? x : x * n / (n + 2);
}
static real each_reciprocal(real x) { return 1 / x; }
static real each_sigmoid(real x) { return 1 / (1 + each_exp(-x)); }
static real each_softplus(real x) { return each_log1p(each_exp(-ABSOLUTE(x))) + (x < 0 ? 0 : x); }
static real each_softsign(real x) { return x / (1 + ABSOLUTE(x)); }
static real each_swish(real x) { return x / (1 + each_exp(-x)); }

static const struct {
  const char *name;
  real (*function)(real);
} REFERENCES[] = {
    {"Acos", each_acos},
    {"Acosh", each_acosh},
    {"Asin", each_asin},
    {"Asinh", each_asinh},
    {"Atan", each_atan},
    {"Atanh", each_atanh},
    {"Celu", each_elu},
    {"Cos", each_cos},
    {"Cosh", each_cosh},
    {"Elu", each_elu},
    {"Erf", each_erf},
    {"Exp", each_exp},
    {"Gelu", each_gelu},
    {"GeluTanh", each_gelu_tanh},
    {"HardSigmoid", each_hard_sigmoid},
    {"HardSwish", each_hard_swish},
    {"Log", each_log},
    {"Mish", each_mish},
    {"QuickGelu", each_quick_gelu},
    {"Reciprocal", each_reciprocal},
    {"Selu", each_selu},
    {"Sigmoid", each_sigmoid},
    {"Sin", each_sin},
    {"Sinh", each_sinh},
    {"Softplus", each_softplus},
    {"Softsign", each_softsign},
    {"Sqrt", each_sqrt},
    {"Swish", each_swish},
    {"Tan", each_tan},
    {"Tanh", each_tanh},
};

typedef struct {
  int digits, least, most; /* binary digits, and the exponents of the least normal number and the largest */
} format;

typedef struct {
  double ulp;      /* the largest error, in units of the last place of the right result */
  int64_t special; /* results that are NaN, infinite or of the other sign of zero where they must not be, or the reverse */
  double at, special_at;
} verdict;

/* 2^e for x = m 2^e, 1 <= m < 2; 0 is 0. */
static real power_of_two_below(real x) {
#ifdef WIDE
  return x > 0 ? ldexpl(1, ilogbl(x)) : 0;
#else
  typedef int64_t bits __attribute__((ext_vector_type(LANES)));
  return (real)((bits)x & 0x7ff0000000000000);
#endif
}

/* In units of the last place of `want`; infinite for a special value that is wrong. */
static real error_of(real got, real want, const format *of) {
  const real one = 1, infinite = INFINITY, top = 2 * ldexpl(1, of->most), least = ldexp(1, of->least);
  const real unit = ldexp(1, 1 - of->digits);
  real size = ABSOLUTE(want), exact = size < top ? want : COPYSIGN(top, want);
  real found = ABSOLUTE(got) < top ? got : COPYSIGN(top, got);
  real power = power_of_two_below(ABSOLUTE(exact));
  power = power < least ? least : power < top ? power : top / 2;
  real error = ABSOLUTE(found - exact) / (power * unit);
  error = ABSOLUTE(found) == top && size < top / 2 ? infinite : error;
  error = got == 0 && size <= least * unit / 2 && COPYSIGN(one, got) != COPYSIGN(one, want) ? infinite : error;
  return got == got && want == want ? error : got == got || want == want ? infinite : 0 * one;
}

/* The results `got` for the arguments `x`, `count` of them, a multiple of 8. 0: there is no such function. */
int judge(const char *name, int64_t count, const value *x, const value *got, const format *of, verdict *worst) {
  real (*function)(real) = NULL;
  for (size_t i = 0; i < sizeof REFERENCES / sizeof *REFERENCES; i++)
    if (!strcmp(REFERENCES[i].name, name)) function = REFERENCES[i].function;
  if (!function || count % LANES) return 0;
  for (int64_t i = 0; i < count; i += LANES) {
    values arguments, results;
    memcpy(&arguments, x + i, sizeof arguments);
    memcpy(&results, got + i, sizeof results);
    real error = error_of(CONVERT(results, real), function(CONVERT(arguments, real)), of);
    double errors[LANES];
    for (int lane = 0; lane < LANES; lane++) errors[lane] = LANE(error, lane);
    for (int lane = 0; lane < LANES; lane++) {
      if (errors[lane] <= worst->ulp) continue;
      if (!isinf(errors[lane])) worst->ulp = errors[lane], worst->at = x[i + lane];
      else if (!worst->special++) worst->special_at = x[i + lane];
    }
  }
  return 1;
}
