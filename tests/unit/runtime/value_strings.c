/* Sequences of strings from C, with the model of modules/values.ll over strings: the exit status is the line of the first
 * promise that is broken. */
#include <stdlib.h>
#include <string.h>

#include "stepwell.h"

#define CHECK(condition) \
  if (!(condition)) return __LINE__ % 256

static int is(stepwell_string s, const char *text) {
  return s.length == strlen(text) && !memcmp(s.data, text, s.length);
}

static stepwell_value strings(stepwell_string *data, int32_t ndim, int64_t *shape) {
  stepwell_value v = {.kind = STEPWELL_STRINGS};
  v.as.strings = (stepwell_string_tensor){data, shape, ndim};
  return v;
}

int main(void) {
  int64_t three[] = {3}, none[] = {0};
  char *bytes = malloc(6);
  memcpy(bytes, "abcdef", 6);
  stepwell_string words[3] = {{bytes, 1}, {bytes + 1, 0}, {bytes + 2, 4}};
  stepwell_value elements[2] = {strings(words, 1, three), strings(NULL, 1, none)};
  stepwell_value in[2] = {{.kind = STEPWELL_SEQUENCE}, strings(words, 1, three)}, out[2] = {{0}, {0}};
  in[0].as.sequence = (stepwell_sequence){elements, 2};
  stepwell_context *context = stepwell_create(NULL);
  CHECK(context && !stepwell_run(context, in, 2, out, 2));
  free(bytes); /* what the caller owned may be gone */
  char *again = malloc(1);
  *again = 'x';
  words[0] = words[1] = words[2] = (stepwell_string){again, 1};
  for (size_t count = 3; count < 40; count++) {
    CHECK(out[0].kind == STEPWELL_SEQUENCE && out[0].as.sequence.count == count);
    stepwell_string_tensor first = out[0].as.sequence.values[0].as.strings;
    CHECK(out[0].as.sequence.values[0].kind == STEPWELL_STRINGS && first.ndim == 1 && first.shape[0] == 3);
    CHECK(is(first.data[0], "a") && is(first.data[1], "") && is(first.data[2], "cdef"));
    CHECK(out[0].as.sequence.values[1].as.strings.shape[0] == 0);
    stepwell_string_tensor last = out[0].as.sequence.values[count - 1].as.strings;
    CHECK(is(last.data[2], count == 3 ? "cdef" : "x"));
    in[0] = out[0]; /* results are fed back */
    CHECK(!stepwell_run(context, in, 2, out, 2));
  }
  stepwell_value wrong = {.kind = STEPWELL_TENSOR};
  in[0].as.sequence = (stepwell_sequence){&wrong, 1};
  in[0].kind = STEPWELL_SEQUENCE;
  CHECK(stepwell_run(context, in, 2, out, 2) && strstr(stepwell_last_error(context), "expected a tensor of strings"));
  stepwell_destroy(context);
  free(again);
  return 0;
}
