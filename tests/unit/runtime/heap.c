/* Runs of a model at two extents, the heap watched: prints how many calls of the allocator, and how many mappings, 40
 * runs make after the first of each extent. Linked with a model of one f32 input [n, 64] and one output. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "stepwell.h"

static atomic_long calls;

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

void *malloc(size_t bytes) { return calls++, __libc_malloc(bytes); }
void *calloc(size_t n, size_t bytes) { return calls++, __libc_calloc(n, bytes); }
void *realloc(void *old, size_t bytes) { return calls++, __libc_realloc(old, bytes); }
void *aligned_alloc(size_t alignment, size_t bytes) { return calls++, __libc_memalign(alignment, bytes); }
int posix_memalign(void **out, size_t alignment, size_t bytes) {
  calls++;
  return (*out = __libc_memalign(alignment, bytes)) ? 0 : ENOMEM;
}
void *mmap(void *at, size_t bytes, int protection, int flags, int file, off_t offset) {
  calls++;
  return (void *)syscall(SYS_mmap, at, bytes, protection, flags, file, offset);
}

static float data[300 * 64];

static int run(stepwell_context *context, int64_t rows) {
  int64_t shape[] = {rows, 64};
  stepwell_value in = {.kind = STEPWELL_TENSOR}, out = {0};
  in.as.tensor = (DLTensor){data, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, shape, NULL, 0};
  return stepwell_run(context, &in, 1, &out, 1);
}

int main(void) {
  for (int i = 0; i < 300 * 64; i++) data[i] = (float)(i % 7) - 3;
  stepwell_options options = {.struct_size = sizeof options, .threads = 2};
  stepwell_context *context = stepwell_create(&options);
  if (!context || run(context, 300) || run(context, 20)) return 1;
  long before = calls;
  if (!before) return 2; /* the allocator is not the one that is watched */
  for (int i = 0; i < 20; i++)
    if (run(context, 20) || run(context, 300)) return 1;
  printf("%ld\n", calls - before);
  stepwell_destroy(context);
  return 0;
}
