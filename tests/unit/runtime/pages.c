/* One run of a model of one f32 input [1, n], with madvise refused where the program has an argument: prints how many
 * calls asked for huge pages, and every bit of the output. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "stepwell.h"

static atomic_int asked;
static int refuse;

int madvise(void *at, size_t bytes, int advice) {
  if (advice == MADV_HUGEPAGE) asked++;
  if (!refuse) return (int)syscall(SYS_madvise, at, bytes, advice);
  errno = EINVAL;
  return -1;
}

int main(int argc, char **argv) {
  (void)argv;
  refuse = argc > 1;
  int64_t shape[] = {1, 512};
  float data[512];
  for (int i = 0; i < 512; i++) data[i] = (float)(i % 7) - 3;
  stepwell_value in = {.kind = STEPWELL_TENSOR}, out = {0};
  in.as.tensor = (DLTensor){data, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, shape, NULL, 0};
  stepwell_context *context = stepwell_create(NULL);
  if (!context || stepwell_run(context, &in, 1, &out, 1)) return 1;
  printf("%d", asked);
  const DLTensor *y = &out.as.tensor;
  for (int64_t i = 0; i < y->shape[0] * y->shape[1]; i++) {
    uint32_t bits;
    memcpy(&bits, (float *)y->data + i, sizeof bits);
    printf(" %08x", bits);
  }
  stepwell_destroy(context);
  return 0;
}
