/* The model modules/rows.ll in a program that runs OpenMP: in turns with parallel regions, inside of one with a context
 * for each thread and one for all, and in a child forked behind both. Exit status: whether a result was wrong. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stepwell.h"

enum { COLUMNS = 1000, ROWS = 64, TURNS = 200 };

static float x[ROWS * COLUMNS];
static _Atomic(int) wrong;

static void run_one(stepwell_context *context, int64_t rows) {
  int64_t shape[] = {rows, COLUMNS}, length[] = {rows};
  float y[ROWS];
  stepwell_value in = {.kind = STEPWELL_TENSOR}, out = in;
  in.as.tensor = (DLTensor){x, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, shape, NULL, 0};
  out.as.tensor = (DLTensor){y, {kDLCPU, 0}, 1, {kDLFloat, 32, 1}, length, NULL, 0};
  if (stepwell_run(context, &in, 1, &out, 1)) {
    wrong++;
    return;
  }
  for (int64_t i = 0; i < rows; i++)
    if (y[i] != (float)(COLUMNS + i)) wrong++;
}

/* The sum of 0 to n-1, by the program's own OpenMP threads. */
static void sum_in_parallel(long n) {
  long sum = 0;
#pragma omp parallel for reduction(+ : sum) num_threads(3)
  for (long i = 0; i < n; i++) sum += i;
  if (sum != n * (n - 1) / 2) wrong++;
}

int main(void) {
  for (int i = 0; i < ROWS * COLUMNS; i++) x[i] = 1;
  stepwell_options options = {.struct_size = sizeof options, .threads = 3};
  stepwell_context *shared = stepwell_create(&options);
  for (int i = 0; i < TURNS; i++) {
    sum_in_parallel(10000 + i);
    run_one(shared, 1 + i % ROWS);
  }
  int threads = 0;
#pragma omp parallel num_threads(3) reduction(+ : threads)
  {
    threads += 1;
    stepwell_context *own = stepwell_create(&options);
    for (int i = 0; i < TURNS; i++) run_one(i % 2 ? own : shared, 1 + i % ROWS);
    stepwell_destroy(own);
  }
  printf("%d\n", threads);
  fflush(stdout);
  pid_t child = fork(); /* OpenMP itself promises nothing there; the model does */
  if (child == 0) {
    run_one(shared, ROWS);
    _exit(wrong != 0);
  }
  int status;
  if (waitpid(child, &status, 0) != child || status) wrong++;
  run_one(shared, ROWS);
  stepwell_destroy(shared);
  return wrong != 0;
}
