/* Four threads share one context while four others have one each; the model is modules/rows.ll.
 * Exit status: the number of wrong results. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "stepwell.h"

enum { COLUMNS = 1000, ROWS = 64 };

static stepwell_context *shared;
static _Atomic(int) wrong;
static int calls;

static void run_one(stepwell_context *context, float *x, int64_t rows) {
  int64_t shape[] = {rows, COLUMNS}, length[] = {rows};
  float y[ROWS];
  stepwell_value in = {.kind = STEPWELL_TENSOR}, out = in;
  in.as.tensor = (DLTensor){x, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, shape, NULL, 0};
  out.as.tensor = (DLTensor){y, {kDLCPU, 0}, 1, {kDLFloat, 32, 1}, length, NULL, 0};
  if (stepwell_run(context, &in, 1, &out, 1)) {
    printf("%s\n", stepwell_last_error(context));
    wrong++;
    return;
  }
  for (int64_t i = 0; i < rows; i++)
    if (y[i] != (float)(COLUMNS + i)) wrong++;
}

static void *call(void *own) {
  stepwell_options options = {.struct_size = sizeof options, .threads = 3, .flags = own ? STEPWELL_NO_SPIN : 0};
  stepwell_context *context = own ? stepwell_create(&options) : shared;
  float *x = malloc(sizeof(float) * COLUMNS * ROWS);
  for (int i = 0; i < COLUMNS * ROWS; i++) x[i] = 1;
  for (int i = 0; i < calls; i++) run_one(context, x, 1 + (i * 7) % ROWS);
  free(x);
  if (own) stepwell_destroy(context);
  return NULL;
}

int main(int argc, char **argv) {
  calls = argc > 1 ? atoi(argv[1]) : 100;
  shared = stepwell_create(&(stepwell_options){.struct_size = sizeof(stepwell_options), .threads = 3});
  pthread_t threads[8];
  for (int i = 0; i < 8; i++) pthread_create(&threads[i], NULL, call, i % 2 ? &wrong : NULL);
  for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
  stepwell_destroy(shared);
  return wrong != 0;
}
