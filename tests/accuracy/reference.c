/* Judges f32 functions of one argument against the C library's f64: `judge` compares the results for a run of inputs. */
#include <math.h>
#include <stdint.h>
#include <string.h>

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double softplus(double x) { return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x)); }
static double reciprocal(double x) { return 1 / x; }
static double swish(double x) { return x / (1 + exp(-x)); }
static double softsign(double x) { return x / (1 + fabs(x)); }
static double elu(double x) { return x < 0 ? expm1(x) : x; }
/* 1 + erf(t) = erfc(-t), and 1 + tanh(t) = 2 sigmoid(2 t): nothing cancels where x is far below 0. */
static double gelu(double x) { return 0.5 * x * erfc(-x * 0.70710678118654752440); }
static double gelu_tanh(double x) {
  return x / (1 + exp(-2 * 0.79788456080286535588 * x * (1 + 0.044715 * x * x)));
}
/* tanh(log(1 + e)) = (e^2 + 2 e) / (e^2 + 2 e + 2) for e = exp(x). */
static double mish(double x) {
  if (x > 40) return x;
  double e = exp(x), n = e * (e + 2);
  return x * n / (n + 2);
}

static const struct {
  const char *name;
  double (*function)(double);
} REFERENCES[] = {
    {"Acos", acos},           {"Acosh", acosh},         {"Asin", asin},   {"Asinh", asinh},     {"Atan", atan},
    {"Atanh", atanh},         {"Cos", cos},             {"Cosh", cosh},   {"Elu", elu},         {"Erf", erf},
    {"Exp", exp},             {"Gelu", gelu},           {"Log", log},     {"Mish", mish},       {"Sigmoid", sigmoid},
    {"Sin", sin},             {"Sinh", sinh},           {"Sqrt", sqrt},   {"Softplus", softplus}, {"Softsign", softsign},
    {"Reciprocal", reciprocal}, {"Swish", swish},       {"Tan", tan},     {"Tanh", tanh},       {"GeluTanh", gelu_tanh},
};

typedef struct {
  double ulp;       /* the largest error, in units of the last place of the nearest f32 */
  int64_t special;  /* results that are NaN, infinite or of the other sign of zero where they must not be, or the reverse */
  float at, special_at;
} verdict;

static double error_of(float got, double want, int *special) {
  float nearest = (float)want;
  *special = 0;
  if (isnan(want) || isnan(got)) {
    *special = !isnan(want) != !isnan(got);
    return 0;
  }
  if (got == 0 && nearest == 0) *special = signbit(got) != signbit(nearest);
  if (got == nearest && isinf(got)) return 0;
  if (isinf(want) != isinf(got) && fabs(want) < 0x1p127) {
    *special = 1;
    return 0;
  }
  double wide = isinf(got) ? copysign(0x1p128, got) : got, exact = isinf(want) ? copysign(0x1p128, want) : want;
  int exponent;
  frexp(exact, &exponent);
  if (exponent > 128) exponent = 128, exact = copysign(0x1p128, exact);
  return fabs(wide - exact) / ldexp(1, exponent > -125 ? exponent - 24 : -149);
}

/* The results `got` for the f32 with the bits first, first + stride, ...; 0: there is no such function. */
int judge(const char *name, uint32_t first, uint32_t stride, int64_t count, const float *got, verdict *worst) {
  double (*function)(double) = NULL;
  for (size_t i = 0; i < sizeof REFERENCES / sizeof *REFERENCES; i++)
    if (!strcmp(REFERENCES[i].name, name)) function = REFERENCES[i].function;
  if (!function) return 0;
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits = first + (uint32_t)i * stride;
    float x;
    memcpy(&x, &bits, sizeof x);
    int special;
    double error = error_of(got[i], function(x), &special);
    if (special && !worst->special++) worst->special_at = x;
    if (error > worst->ulp) worst->ulp = error, worst->at = x;
  }
  return 1;
}
