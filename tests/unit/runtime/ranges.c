/* Every tile of a job is computed once, whatever their number, the number of threads and the smallest chunk.
 * Exit status: the number of jobs of which that is not so. */
#include "internal.h"

#include "pool.c"

enum { MOST = 1000 };

static _Atomic(int) counts[MOST];
static _Atomic(int64_t) total;

static void count(void *const *buffers, const int64_t *dims, int64_t begin, int64_t end, void *scratch) {
  (void)buffers, (void)dims, (void)scratch;
  atomic_fetch_add(&total, end - begin);
  for (int64_t i = begin; i < end && i < MOST; i++) counts[i]++;
}

static bool is_whole(pool *p, int64_t tiles, int64_t least) {
  for (int i = 0; i < MOST; i++) counts[i] = 0;
  total = 0;
  pool_run(p, count, NULL, NULL, tiles, least, NULL, 0, NULL);
  for (int i = 0; i < MOST && i < tiles; i++)
    if (counts[i] != 1) return false;
  return total == tiles;
}

int main(void) {
  int wrong = 0;
  for (int threads = 2; threads <= 5; threads++) {
    pool *p = pool_create(threads, threads % 2);
    for (int64_t tiles = 1; tiles < MOST; tiles += 1 + tiles / 7)
      for (int64_t least = 1; least < 2 * MOST; least *= 3) wrong += !is_whole(p, tiles, least);
    wrong += !is_whole(p, ((int64_t)1 << 40) + 1, 1) + !is_whole(p, (int64_t)INT32_MAX + 7, (int64_t)1 << 33);
    pool_destroy(p);
  }
  return wrong;
}
