/* Memory that only grows: the arena, scratch, outputs, and what is allocated during a run. */
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

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

/* Weights too large for the library are mapped over the address range that it reserves for them. The file is
 * `<stem>.weights` beside the library; its last 64 bytes are the digest that the library expects. */
static int map_weights_file(void) {
  const stepwell_model_table *m = &stepwell_model;
  Dl_info info;
  char path[4096];
  if (!dladdr(m, &info) || !info.dli_fname) return fail(NULL, "cannot find the library's own file");
  /* Opened by way of a descriptor, the library's name is a link to where it lies. */
  ssize_t length = strncmp(info.dli_fname, "/proc/self/fd/", 14) ? -1 : readlink(info.dli_fname, path, sizeof path - 1);
  if (length < 0) length = snprintf(path, sizeof path, "%s", info.dli_fname);
  if (length <= 0 || (size_t)length + 10 > sizeof path) return fail(NULL, "the library's path is too long");
  path[length] = 0;
  char *dot = strrchr(path, '.'), *slash = strrchr(path, '/');
  if (!dot || (slash && dot < slash)) dot = path + length;
  memcpy(dot, ".weights", 9);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return fail(NULL, "%s: cannot open the weights: %s; keep them beside the library", path, strerror(errno));
  struct stat status;
  char digest[64];
  if (fstat(fd, &status) || !S_ISREG(status.st_mode) || (uint64_t)status.st_size != m->weight_bytes + sizeof digest ||
      pread(fd, digest, sizeof digest, (off_t)m->weight_bytes) != sizeof digest ||
      memcmp(digest, m->mapped_digest, sizeof digest) != 0) {
    close(fd);
    return fail(NULL, "%s: these weights belong to another model; compile again", path);
  }
  void *at = mmap(m->weights, m->weight_bytes, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
  int reason = errno;
  close(fd);
  if (at == MAP_FAILED) return fail(NULL, "%s: cannot map the weights: %s", path, strerror(reason));
  return 0;
}

/* The pages stay those of the file, shared by all processes. What is not in memory is then read by huge pages, and
 * mapped so where the file system keeps them; where the system knows nothing of that, nothing changes. A private copy
 * in huge pages was no faster (docs/runtime.md). */
static void advise_huge_weights(void) {
#ifdef MADV_HUGEPAGE
  uintptr_t begin = round_up((uintptr_t)stepwell_model.weights, HUGE_PAGE);
  uintptr_t end = ((uintptr_t)stepwell_model.weights + stepwell_model.weight_bytes) / HUGE_PAGE * HUGE_PAGE;
  if (begin < end) madvise((void *)begin, end - begin, MADV_HUGEPAGE);
#endif
}

/* Once a process: no kernel runs before the first context is made. */
int prepare_weights(void) {
  static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  static bool prepared;
  pthread_mutex_lock(&mutex);
  if (!prepared) {
    prepared = !stepwell_model.mapped_digest || !map_weights_file();
    if (prepared) advise_huge_weights();
  }
  bool failed = !prepared;
  pthread_mutex_unlock(&mutex);
  return failed;
}
