/* Maps from C, with the model of modules/values.ll over maps from strings to f32: the exit status is the line of the first
 * promise that is broken. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stepwell.h"

#define CHECK(condition) \
  if (!(condition)) return printf("%s\n", #condition), __LINE__ % 256

static stepwell_context *context;

static stepwell_value map(stepwell_value *keys, stepwell_value *values) {
  stepwell_value v = {.kind = STEPWELL_MAP};
  v.as.map = (stepwell_map){keys, values};
  return v;
}

static int refused(stepwell_value first, stepwell_value second, const char *part) {
  stepwell_value in[2] = {first, second}, out[2] = {{0}, {0}};
  if (stepwell_run(context, in, 2, out, 2) && strstr(stepwell_last_error(context), part)) return 1;
  printf("message: %s\nexpected: %s\n", stepwell_last_error(context), part);
  return 0;
}

int main(void) {
  int64_t two[] = {2}, one[] = {1}, matrix[] = {1, 2}, strides[] = {2};
  char *bytes = malloc(5);
  memcpy(bytes, "abcde", 5);
  stepwell_string *words = malloc(2 * sizeof *words);
  words[0] = (stepwell_string){bytes, 1}, words[1] = (stepwell_string){bytes + 1, 4};
  float *numbers = malloc(4 * sizeof *numbers);
  for (int i = 0; i < 4; i++) numbers[i] = (float)i + 0.5f;
  stepwell_value keys = {.kind = STEPWELL_STRINGS}, values = {.kind = STEPWELL_TENSOR};
  keys.as.strings = (stepwell_string_tensor){words, two, 1};
  /* every other number: what is strided is copied */
  values.as.tensor = (DLTensor){numbers, {kDLCPU, 0}, 1, {kDLFloat, 32, 1}, two, strides, 0};
  stepwell_value elements[2] = {map(&keys, &values), map(&keys, &values)};
  stepwell_value sequence = {.kind = STEPWELL_SEQUENCE}, absent = {0};
  sequence.as.sequence = (stepwell_sequence){elements, 2};
  stepwell_value in[2] = {sequence, elements[0]}, out[2] = {{0}, {0}};
  context = stepwell_create(NULL);
  CHECK(context && !stepwell_run(context, in, 2, out, 2));
  free(bytes), free(words), free(numbers); /* what the caller owned may be gone */
  in[1] = absent;
  for (int run = 0; run < 5; run++) {
    CHECK(out[0].kind == STEPWELL_SEQUENCE && out[0].as.sequence.count == 3);
    for (int i = 0; i < 3; i++) {
      stepwell_value *m = &out[0].as.sequence.values[i];
      CHECK(m->kind == STEPWELL_MAP && m->as.map.keys->kind == STEPWELL_STRINGS);
      stepwell_string_tensor k = m->as.map.keys->as.strings;
      DLTensor v = m->as.map.values->as.tensor;
      CHECK(k.ndim == 1 && k.shape[0] == 2 && v.ndim == 1 && v.shape[0] == 2 && v.strides[0] == 1);
      CHECK(k.data[0].length == 1 && k.data[0].data[0] == 'a');
      CHECK(k.data[1].length == 4 && !memcmp(k.data[1].data, "bcde", 4));
      CHECK(((float *)v.data)[0] == 0.5f && ((float *)v.data)[1] == 2.5f);
    }
    in[0] = out[0]; /* results are fed back */
    CHECK(!stepwell_run(context, in, 2, out, 2));
  }

  stepwell_string word = {"x", 1};
  float number[2] = {1, 2};
  int64_t whole[1] = {7};
  keys.as.strings = (stepwell_string_tensor){&word, one, 1};
  values.as.tensor = (DLTensor){number, {kDLCPU, 0}, 1, {kDLFloat, 32, 1}, one, NULL, 0};
  sequence.as.sequence.count = 0;
  CHECK(refused(elements[0], absent, "input 's': a map, expected a sequence"));
  CHECK(refused(sequence, sequence, "input 'x': a sequence, expected a map"));
  CHECK(refused(sequence, map(&keys, NULL), "input 'x': its keys or its values are NULL"));
  CHECK(refused(sequence, map(&values, &values), "input 'x.keys': a value of kind 1, expected a tensor of strings"));
  CHECK(refused(sequence, map(&keys, &keys), "input 'x.values': a value of kind 2, expected a tensor of float32"));
  values.as.tensor.shape = two;
  CHECK(refused(sequence, map(&keys, &values), "input 'x': 1 keys for 2 values"));
  values.as.tensor.shape = matrix, values.as.tensor.ndim = 2;
  CHECK(refused(sequence, map(&keys, &values), "input 'x.values': rank 2, expected 1"));
  values.as.tensor = (DLTensor){whole, {kDLCPU, 0}, 1, {kDLInt, 64, 1}, one, NULL, 0};
  elements[0] = map(&keys, &values), sequence.as.sequence.count = 1;
  CHECK(refused(sequence, absent, "input 's[0].values': dtype (code 0, 64 bits, 1 lanes), expected float32"));
  stepwell_destroy(context);
  return 0;
}
