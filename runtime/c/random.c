/* Keys for generators that have none: each is another 64 bits, in this and in every other process. */
#include <time.h>

#include "internal.h"

static uint64_t mixed(uint64_t x) { /* the finaliser of SplitMix64: a bijection that flips half of the bits */
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

static uint64_t entropy(void) {
  uint64_t bits = 0;
  FILE *source = fopen("/dev/urandom", "rb");
  if (source) {
    if (fread(&bits, sizeof bits, 1, source) != 1) bits = 0;
    fclose(source);
  }
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return bits ^ mixed((uint64_t)now.tv_sec * 1000000007u + (uint64_t)now.tv_nsec) ^ mixed((uint64_t)getpid());
}

/* Write the two halves of a new key to buffer 0. */
void stepwell_rt_random_key(void *const *buffers, const int64_t *dims, int64_t begin, int64_t end, void *scratch) {
  static _Atomic(uint64_t) drawn;
  static _Atomic(uint64_t) start;
  static _Atomic(int) owner;
  (void)dims, (void)begin, (void)end, (void)scratch;
  int pid = getpid();
  if (atomic_load(&owner) != pid) { /* the first one, or the first after a fork */
    atomic_store(&start, entropy());
    atomic_store(&owner, pid);
  }
  uint64_t key = mixed(atomic_load(&start) + 0x9e3779b97f4a7c15u * (1 + atomic_fetch_add(&drawn, 1)));
  uint32_t halves[2] = {(uint32_t)key, (uint32_t)(key >> 32)};
  memcpy(buffers[0], halves, sizeof halves);
}
