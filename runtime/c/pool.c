/* The thread pool: one job at a time. Each thread has an equal range of its tiles, the same part of every job, so that it
 * finds in its own caches what it wrote in the job before; it takes half of what is left of it from the front, again and
 * again. A thread whose range is empty takes half of what is left of another's from the back: the last chunks, in which
 * threads wait for one another, are short.
 *
 * `state` says everything about the current job: its number, whether it is open, how many workers are in it. A
 * worker enters an open job by adding one, so a worker that is late, asleep or pre-empted is never waited for.
 * Waiting threads spin for a bounded time and then sleep on a futex (both measured: an empty region costs 0.1 us
 * when spinning, about 11 us when sleeping). */
#include <sched.h>
#include <signal.h>
#include <time.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

#include "internal.h"

enum { SPIN_NS = 50000, STACK_BYTES = 1 << 20 };
#define OPEN ((uint64_t)1 << 31)
#define ACTIVE (OPEN - 1)
#define JOB(state) ((state) >> 32)

typedef struct {
  /* What is left of the thread's range, in units: the first in the upper half, the end in the lower. */
  _Alignas(64) _Atomic(uint64_t) range;
  pool *owner;
  pthread_t thread;
  int slot; /* of scratch; the calling thread has slot 0 */
} worker;

struct pool {
  _Alignas(64) _Atomic(uint64_t) state;
  _Atomic(uint32_t) sleepers;
  _Atomic(uint32_t) wake;   /* futex: changes when a sleeping worker should look again */
  _Atomic(uint32_t) finish; /* futex: changes when the last worker leaves a closed job */
  _Atomic(uint32_t) caller_sleeps;
  _Atomic(bool) stop;
  /* the job: written by the caller while no worker is in, read by workers that have entered */
  _Alignas(64) stepwell_kernel kernel;
  void *const *buffers;
  const int64_t *dims;
  int64_t tiles, unit; /* unit: tiles that ranges count as one, so that they fit their halves */
  uint64_t least;      /* units in a chunk, but for the last */
  char *scratch;
  size_t scratch_stride;
  stepwell_event *events;
  bool spin;
  int processor; /* the caller's, when the workers were last told to keep off it */
  int width;     /* workers and the caller */
  worker threads[]; /* the first is the caller */
};

static void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void futex_wait(_Atomic(uint32_t) *word, uint32_t value) {
#if defined(__linux__)
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
#else
  (void)value, (void)word;
  nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
#endif
}

static void futex_wake(_Atomic(uint32_t) *word) {
  atomic_fetch_add(word, 1);
#if defined(__linux__)
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
#endif
}

/* Take a chunk of a range, from its front or from its back; 0: nothing is left. */
static uint64_t take_chunk(_Atomic(uint64_t) *range, uint64_t least, bool front) {
  uint64_t all = atomic_load_explicit(range, memory_order_relaxed);
  for (;;) {
    uint64_t begin = all >> 32, end = all & UINT32_MAX, left = end - begin;
    if (!left) return 0;
    uint64_t part = (left + 1) / 2;
    if (part < least) part = least < left ? least : left;
    uint64_t middle = front ? begin + part : end - part;
    uint64_t rest = front ? middle << 32 | end : begin << 32 | middle;
    if (atomic_compare_exchange_weak_explicit(range, &all, rest, memory_order_relaxed, memory_order_relaxed))
      return front ? begin << 32 | middle : middle << 32 | end;
  }
}

static void take_chunks(pool *p, int slot) {
  void *scratch = p->scratch ? p->scratch + (size_t)slot * p->scratch_stride : NULL;
  stepwell_event *event = p->events ? p->events + slot : NULL;
  if (event && slot) event->begin_ns = now_ns(); /* the caller's part begins when it opens the job */
  for (int i = 0; i < p->width; i++) {
    _Atomic(uint64_t) *range = &p->threads[(slot + i) % p->width].range;
    uint64_t chunk;
    while ((chunk = take_chunk(range, p->least, i == 0))) {
      int64_t begin = (int64_t)(chunk >> 32) * p->unit, end = (int64_t)(chunk & UINT32_MAX) * p->unit;
      if (end > p->tiles) end = p->tiles;
      p->kernel(p->buffers, p->dims, begin, end, scratch);
      if (event) event->tiles += end - begin;
    }
  }
  if (event) event->end_ns = now_ns();
}

static bool has_work(pool *p, uint64_t seen) {
  uint64_t state = atomic_load(&p->state);
  return atomic_load(&p->stop) || ((state & OPEN) && JOB(state) != seen);
}

static void wait_for_work(pool *p, uint64_t seen) {
  if (p->spin) {
    int64_t deadline = now_ns() + SPIN_NS;
    do {
      for (int i = 0; i < 64; i++) {
        if (has_work(p, seen)) return;
        relax();
      }
    } while (now_ns() < deadline);
  }
  /* `sleepers` goes up before the last look; the caller opens the job before it looks at `sleepers`: one of the
   * two sees the other. */
  atomic_fetch_add(&p->sleepers, 1);
  for (;;) {
    uint32_t wake = atomic_load(&p->wake);
    if (has_work(p, seen)) break;
    futex_wait(&p->wake, wake);
  }
  atomic_fetch_sub(&p->sleepers, 1);
}

static void *work(void *argument) {
  worker *w = argument;
  pool *p = w->owner;
  uint64_t seen = 0;
  for (;;) {
    wait_for_work(p, seen);
    if (atomic_load(&p->stop)) return NULL;
    uint64_t state = atomic_load(&p->state);
    if (!(state & OPEN) || JOB(state) == seen) continue;
    if (!atomic_compare_exchange_strong(&p->state, &state, state + 1)) continue;
    seen = JOB(state);
    take_chunks(p, w->slot);
    uint64_t left = atomic_fetch_sub(&p->state, 1) - 1;
    if (!(left & (OPEN | ACTIVE)) && atomic_load(&p->caller_sleeps)) futex_wake(&p->finish);
  }
}

/* Wait until no worker is in the closed job. */
static void wait_for_workers(pool *p) {
  if (!(atomic_load(&p->state) & ACTIVE)) return;
  int64_t deadline = now_ns() + SPIN_NS;
  do {
    for (int i = 0; i < 64; i++) {
      if (!(atomic_load(&p->state) & ACTIVE)) return;
      relax();
    }
  } while (now_ns() < deadline);
  atomic_store(&p->caller_sleeps, 1);
  for (;;) {
    uint32_t finish = atomic_load(&p->finish);
    if (!(atomic_load(&p->state) & ACTIVE)) break;
    futex_wait(&p->finish, finish);
  }
  atomic_store(&p->caller_sleeps, 0);
}

/* Keep the workers off the caller's processor. On a busy machine a scheduler may queue a waking worker behind its waker
 * without a look at other processors, and there it gets its turn when the job is over (measured: two threads as slow
 * as one). The caller's own affinity is the limit; a worker that cannot obey stays as it is. */
static void spread(pool *p) {
#if defined(__linux__)
  int processor = sched_getcpu();
  if (processor == p->processor || processor < 0) return;
  cpu_set_t allowed;
  if (processor >= CPU_SETSIZE || sched_getaffinity(0, sizeof allowed, &allowed)) return;
  CPU_CLR(processor, &allowed);
  if (CPU_COUNT(&allowed) < p->width - 1) return;
  p->processor = processor;
  for (int i = 1; i < p->width; i++) pthread_setaffinity_np(p->threads[i].thread, sizeof allowed, &allowed);
#else
  (void)p;
#endif
}

void pool_run(pool *p, stepwell_kernel kernel, void *const *buffers, const int64_t *dims, int64_t tiles, int64_t least,
              char *scratch, size_t scratch_stride, stepwell_event *events) {
  p->kernel = kernel;
  p->buffers = buffers;
  p->dims = dims;
  p->tiles = tiles;
  p->unit = tiles / INT32_MAX + 1;
  p->least = (uint64_t)((least - 1) / p->unit + 1);
  p->scratch = scratch;
  p->scratch_stride = scratch_stride;
  p->events = events;
  int64_t units = (tiles - 1) / p->unit + 1, begin = 0;
  for (int i = 0; i < p->width; i++) {
    int64_t end = begin + (units - begin) / (p->width - i) + ((units - begin) % (p->width - i) != 0);
    atomic_store_explicit(&p->threads[i].range, (uint64_t)begin << 32 | (uint64_t)end, memory_order_relaxed);
    begin = end;
  }
  uint64_t job = JOB(atomic_load(&p->state)) + 1;
  if (job >> 32) job = 1;
  if (events) events->begin_ns = now_ns();
  spread(p);
  atomic_store(&p->state, job << 32 | OPEN);
  if (atomic_load(&p->sleepers)) futex_wake(&p->wake);
  take_chunks(p, 0);
  atomic_fetch_and(&p->state, ~OPEN);
  wait_for_workers(p);
  if (events) events->end_ns = now_ns();
}

int pool_width(const pool *p) { return p->width; }

/* Fewer threads than asked for are no error: results do not depend on their number. */
pool *pool_create(int threads, bool spin) {
  size_t bytes = sizeof(pool) + sizeof(worker) * (size_t)(threads > 1 ? threads : 1);
  pool *p = aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
  if (!p) return NULL;
  memset(p, 0, bytes);
  p->spin = spin;
  p->processor = -1;
  p->width = 1;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  /* The host program's signals are for its own threads. */
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (int i = 1; i < threads; i++) {
    worker *w = &p->threads[i];
    w->owner = p;
    w->slot = i;
    if (pthread_create(&w->thread, &attributes, work, w)) break;
    p->width++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  return p;
}

void pool_destroy(pool *p) {
  if (!p) return;
  atomic_store(&p->stop, true);
  futex_wake(&p->wake);
  for (int i = 1; i < p->width; i++) pthread_join(p->threads[i].thread, NULL);
  free(p);
}
