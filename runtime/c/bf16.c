/* What LLVM 19 to 22 call to make a bf16 on a CPU without the instruction, as when they move lanes of a vector of them.
 * libgcc has it from 13 on only. */
#include "internal.h"

static __bf16 bf16_of(uint32_t bits) {
  uint16_t high = (uint16_t)(bits >> 16);
  __bf16 result;
  memcpy(&result, &high, sizeof result);
  return result;
}

__bf16 __truncsfbf2(float value);
__bf16 __truncsfbf2(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000) return bf16_of(bits | 1u << 22);
  return bf16_of(bits + 0x7fff + (bits >> 16 & 1)); /* to the nearest, ties to even */
}
