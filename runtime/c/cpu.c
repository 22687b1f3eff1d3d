/* Whether this CPU, and the operating system on it, has what the model was compiled for: a clear error instead of an
 * illegal instruction. Read by cpuid, since __builtin_cpu_supports answers nothing under zig. */
#include "internal.h"

#if defined(__x86_64__)
#include <cpuid.h>

enum { EAX, EBX, ECX, EDX };
enum { STATE_NONE = 0, STATE_AVX = 0x6, STATE_AVX512 = 0xe6, STATE_AMX = 0x60000 };

/* Intel SDM volume 2A, CPUID: leaf, subleaf, register, bit; and what the system must save (XCR0, volume 1, 13.3). */
static const struct {
  const char *name;
  uint8_t leaf, subleaf, reg, bit;
  uint32_t state;
} FEATURES[] = {
    {"sse4_1", 1, 0, ECX, 19, STATE_NONE},         {"sse4_2", 1, 0, ECX, 20, STATE_NONE},
    {"fma", 1, 0, ECX, 12, STATE_AVX},             {"avx", 1, 0, ECX, 28, STATE_AVX},
    {"f16c", 1, 0, ECX, 29, STATE_AVX},            {"bmi1", 7, 0, EBX, 3, STATE_NONE},
    {"avx2", 7, 0, EBX, 5, STATE_AVX},             {"bmi2", 7, 0, EBX, 8, STATE_NONE},
    {"avx512f", 7, 0, EBX, 16, STATE_AVX512},      {"avx512dq", 7, 0, EBX, 17, STATE_AVX512},
    {"avx512cd", 7, 0, EBX, 28, STATE_AVX512},     {"avx512bw", 7, 0, EBX, 30, STATE_AVX512},
    {"avx512vl", 7, 0, EBX, 31, STATE_AVX512},     {"avx512vbmi", 7, 0, ECX, 1, STATE_AVX512},
    {"avx512_vnni", 7, 0, ECX, 11, STATE_AVX512},  {"avx512_fp16", 7, 0, EDX, 23, STATE_AVX512},
    {"avx512_bf16", 7, 1, EAX, 5, STATE_AVX512},   {"avx_vnni", 7, 1, EAX, 4, STATE_AVX},
    {"amx_bf16", 7, 0, EDX, 22, STATE_AMX},        {"amx_tile", 7, 0, EDX, 24, STATE_AMX},
    {"amx_int8", 7, 0, EDX, 25, STATE_AMX},
};

static uint32_t saved_state(void) {
  unsigned r[4];
  if (!__get_cpuid(1, &r[0], &r[1], &r[2], &r[3]) || !(r[ECX] & 1u << 27)) return 0;
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

static bool has(const char *name) {
  for (size_t i = 0; i < sizeof FEATURES / sizeof *FEATURES; i++) {
    if (strcmp(FEATURES[i].name, name)) continue;
    unsigned r[4] = {0};
    return __get_cpuid_count(FEATURES[i].leaf, FEATURES[i].subleaf, &r[0], &r[1], &r[2], &r[3]) &&
           (r[FEATURES[i].reg] >> FEATURES[i].bit & 1) && (saved_state() & FEATURES[i].state) == FEATURES[i].state;
  }
  return false;
}
#else
static bool has(const char *name) { return (void)name, true; }
#endif

int check_cpu(void) {
  for (const char *const *name = stepwell_model.features; *name; name++)
    if (!has(*name))
      return fail(NULL, "compiled for a CPU with %s, which this one has not; compile it for this machine", *name);
  return 0;
}
