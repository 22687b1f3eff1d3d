/* Memory that only grows: the arena, scratch, outputs, and what is allocated during a run. */
#include <sys/mman.h>

#include "internal.h"

enum { HUGE_PAGE = 2 << 20 };

static size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

/* In huge pages from a quarter of one on: fewer TLB misses where many rows are walked (MobileNet-v2's 1.4 MB: 1.01 to 1.02). */
bool block_reserve(block *memory, size_t bytes) {
  if (bytes <= memory->capacity && memory->data) return true;
  if (bytes > SIZE_MAX / 2) return false;
  block_free(memory);
  size_t unit = bytes >= HUGE_PAGE / 4 ? HUGE_PAGE : ALIGNMENT;
  size_t capacity = round_up(bytes ? bytes : 1, unit);
  char *data = aligned_alloc(unit, capacity);
  if (!data) return false;
#ifdef MADV_HUGEPAGE
  if (unit == HUGE_PAGE) madvise(data, capacity, MADV_HUGEPAGE);
#endif
  memory->data = data;
  memory->capacity = capacity;
  return true;
}

void block_free(block *memory) {
  free(memory->data);
  memory->data = NULL;
  memory->capacity = 0;
}

/* Of the chunks of the last run only one is kept, as large as all together: the next run with the same extents
 * allocates nothing. */
void chunks_recycle(stepwell_context *context) {
  size_t total = 0;
  chunk *first = context->chunks;
  if (!first) return;
  if (!first->next) {
    first->used = 0;
    return;
  }
  for (chunk *c = first; c; c = c->next) total += c->memory.capacity;
  chunks_free(context);
  chunk *c = calloc(1, sizeof *c);
  if (c && block_reserve(&c->memory, total))
    context->chunks = c;
  else
    free(c);
}

void chunks_free(stepwell_context *context) {
  for (chunk *c = context->chunks, *next; c; c = next) {
    next = c->next;
    block_free(&c->memory);
    free(c);
  }
  context->chunks = NULL;
}

/* Generated code computes sizes that never wrap round: what would need more is at least this, or negative. */
static const int64_t TOO_LARGE = (int64_t)1 << 48;
static const char too_large[] = "values of the extents of this run do not fit any memory; pass inputs of other extents";

void *stepwell_rt_alloc(stepwell_context *context, int64_t bytes) {
  if (bytes < 0 || bytes >= TOO_LARGE) return fail(context, "%s", too_large), NULL;
  size_t size = round_up((size_t)bytes, ALIGNMENT);
  chunk *c = context->chunks;
  if (!c || c->memory.capacity - c->used < size) {
    size_t least = c ? 2 * c->memory.capacity : 1 << 16;
    if (least > ((size_t)1 << 28)) least = (size_t)1 << 28;
    chunk *grown = calloc(1, sizeof *grown);
    if (!grown || !block_reserve(&grown->memory, size > least ? size : least)) {
      free(grown);
      return fail(context, "out of memory: %lld bytes for an intermediate result", (long long)bytes), NULL;
    }
    grown->next = c;
    context->chunks = c = grown;
  }
  char *data = c->memory.data + c->used;
  c->used += size;
  return data;
}

void *stepwell_rt_arena(stepwell_context *context, int64_t bytes) {
  if (bytes < 0 || bytes >= TOO_LARGE) return fail(context, "%s", too_large), NULL;
  if (!block_reserve(&context->arena, (size_t)bytes))
    return fail(context, "out of memory: %lld bytes of working memory", (long long)bytes), NULL;
  if (context->flags & STEPWELL_POISON) memset(context->arena.data, 0xff, context->arena.capacity);
  return context->arena.data;
}

/* The pages stay those of the file, shared by all processes. What is not in memory is then read by huge pages, and
 * mapped so where the file system keeps them; where the system knows nothing of that, nothing changes. A private copy
 * in huge pages was no faster (docs/runtime.md). */
void advise_weights(void) {
#ifdef MADV_HUGEPAGE
  uintptr_t begin = round_up((uintptr_t)stepwell_model.weights, HUGE_PAGE);
  uintptr_t end = ((uintptr_t)stepwell_model.weights + stepwell_model.weight_bytes) / HUGE_PAGE * HUGE_PAGE;
  if (begin < end) madvise((void *)begin, end - begin, MADV_HUGEPAGE);
#endif
}
