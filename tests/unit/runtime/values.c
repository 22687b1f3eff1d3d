/* Sequences and optionals from C, with the model of modules/values.ll: prints each promise that is broken, and their
 * number is the exit status. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stepwell.h"

static int broken;

static void check(int holds, int line, const char *promise) {
  if (holds) return;
  printf("line %d: %s\n", line, promise);
  broken++;
}
#define CHECK(condition) check((condition) != 0, __LINE__, #condition)

static stepwell_value tensor(float *data, int rank, int64_t *shape, int64_t *strides) {
  stepwell_value v = {.kind = STEPWELL_TENSOR};
  v.as.tensor = (DLTensor){data, {kDLCPU, 0}, rank, {kDLFloat, 32, 1}, shape, strides, 0};
  return v;
}

static stepwell_value sequence(stepwell_value *values, size_t count) {
  stepwell_value v = {.kind = STEPWELL_SEQUENCE};
  v.as.sequence = (stepwell_sequence){values, count};
  return v;
}

static stepwell_context *context;

static int refused(stepwell_value s, stepwell_value x, const char *part) {
  stepwell_value in[2] = {s, x}, out[2] = {{0}, {0}};
  int status = stepwell_run(context, in, 2, out, 2);
  const char *message = stepwell_last_error(context);
  if (status && strstr(message, part)) return 1;
  printf("status %d, message: %s\nexpected: %s\n", status, message, part);
  return 0;
}

static float at(const stepwell_value *s, size_t element, size_t place) {
  return ((float *)s->as.sequence.values[element].as.tensor.data)[place];
}

int main(void) {
  float a[6] = {1, 2, 3, 4, 5, 6}, b[3] = {10, 20, 30};
  int64_t two[] = {2, 3}, three[] = {3}, three_two[] = {3, 2};
  int64_t steps[] = {1, 3}, negative[] = {-1};
  stepwell_value none = {0}, x = tensor(b, 1, three, NULL);
  stepwell_value elements[2] = {tensor(a, 2, two, NULL), tensor(a, 2, three_two, steps)};
  CHECK((context = stepwell_create(NULL)));

  stepwell_value in[2] = {sequence(elements, 2), x}, out[2] = {{0}, {0}};
  CHECK(!stepwell_run(context, in, 2, out, 2));
  CHECK(out[0].kind == STEPWELL_SEQUENCE && out[0].as.sequence.count == 3);
  CHECK(*(int64_t *)out[1].as.tensor.data == 3 && out[1].as.tensor.ndim == 0);
  CHECK(out[0].as.sequence.values[0].as.tensor.data != a && at(&out[0], 0, 5) == 6);
  CHECK(at(&out[0], 1, 1) == 4 && out[0].as.sequence.values[1].as.tensor.strides[0] == 2);
  CHECK(at(&out[0], 2, 2) == 30 && out[0].as.sequence.values[2].as.tensor.data != b);

  /* Results are fed back, and the array of results is used again. */
  for (int64_t count = 4; count < 40; count++) {
    in[0] = out[0];
    CHECK(!stepwell_run(context, in, 2, out, 2));
    CHECK(out[0].as.sequence.count == (size_t)count && at(&out[0], 0, 5) == 6 && at(&out[0], (size_t)count - 1, 1) == 20);
  }
  in[0] = sequence(NULL, 0), in[1] = none;
  CHECK(!stepwell_run(context, in, 2, out, 2) && out[0].kind == STEPWELL_SEQUENCE && !out[0].as.sequence.count);

  /* What the caller owned may be gone after the run. */
  float *own = malloc(sizeof b);
  memcpy(own, b, sizeof b);
  stepwell_value mine = tensor(own, 1, three, NULL);
  in[0] = sequence(&mine, 1);
  CHECK(!stepwell_run(context, in, 2, out, 2));
  free(own);
  CHECK(at(&out[0], 0, 1) == 20);

  stepwell_value wrong = x;
  wrong.as.tensor.dtype.bits = 64;
  CHECK(refused(x, none, "input 's': a tensor, expected a sequence"));
  CHECK(refused(none, none, "input 's': an absent value, expected a sequence"));
  CHECK(refused(sequence(NULL, 2), none, "array of its 2 elements is NULL"));
  CHECK(refused(sequence(&wrong, 1), none, "input 's[0]': dtype"));
  CHECK(refused(sequence(&none, 1), none, "input 's[0]': a value of kind 0, expected a tensor"));
  wrong = tensor(b, 1, negative, NULL);
  CHECK(refused(sequence(&wrong, 1), none, "input 's[0]': axis 0 has the extent -1"));
  wrong = tensor(b, 65, three, NULL);
  CHECK(refused(sequence(&wrong, 1), none, "rank 65, expected 0 to 64"));
  CHECK(refused(sequence(elements, 2), elements[0], "input 'x': rank 2, expected 1"));

  /* A buffer for a tensor may not lie in an element. */
  int64_t room[4];
  stepwell_value shared = tensor((float *)room, 1, three, NULL);
  in[0] = sequence(&shared, 1);
  out[1] = (stepwell_value){.kind = STEPWELL_TENSOR};
  out[1].as.tensor = (DLTensor){room, {kDLCPU, 0}, 0, {kDLInt, 64, 1}, NULL, NULL, 0};
  CHECK(stepwell_run(context, in, 2, out, 2) && strstr(stepwell_last_error(context), "overlaps input 's'"));

  stepwell_destroy(context);
  return broken;
}
