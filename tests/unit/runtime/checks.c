/* What the C interface promises, called from C: prints each promise that is broken, and their number is the exit
 * status. Linked with the model of modules/sums.ll under the prefix `sums`. */
#include <stdio.h>
#include <string.h>

#include "stepwell.h"

STEPWELL_DECLARE(sums)

static int broken;

static void check(int holds, int line, const char *promise) {
  if (holds) return;
  printf("line %d: %s\n", line, promise);
  broken++;
}
#define CHECK(condition) check((condition) != 0, __LINE__, #condition)

static stepwell_value tensor(void *data, int64_t *shape, int64_t *strides) {
  stepwell_value v = {.kind = STEPWELL_TENSOR};
  v.as.tensor = (DLTensor){data, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, shape, strides, 0};
  return v;
}

static stepwell_context *context;

static int run(stepwell_value a, stepwell_value b, stepwell_value *out) {
  stepwell_value in[2] = {a, b};
  return stepwell_run(context, in, 2, out, 2);
}

static int refused(stepwell_value a, stepwell_value b, stepwell_value sum, const char *part) {
  stepwell_value out[2] = {sum, {0}};
  int status = run(a, b, out);
  const char *message = stepwell_last_error(context);
  if (status && strstr(message, part)) return 1;
  printf("status %d, message: %s\nexpected: %s\n", status, message, part);
  return 0;
}

int main(void) {
  float a[8] = {1, 2, 3, 4, 5, 6, 7, 8}, b[8] = {10, 20, 30, 40, 50, 60, 70, 80}, y[8];
  int64_t two[] = {2, 3}, one[] = {1, 3}, zero[] = {0, 3}, wrong[] = {2, 4}, negative[] = {-1, 3};
  int64_t huge[] = {(int64_t)1 << 61, 3}, transposed[] = {1, 2}, backwards[] = {-3, -1};
  stepwell_value none = {0}, va = tensor(a, two, NULL), vb = tensor(b, two, NULL), v, out[2];

  CHECK(stepwell_abi_version() == STEPWELL_ABI_VERSION && sums_abi_version() == STEPWELL_ABI_VERSION);
  CHECK(strstr(stepwell_signature_json(), "\"difference\"") && sums_signature_json() == stepwell_signature_json());

  stepwell_options options = {.struct_size = 3};
  CHECK(!stepwell_create(&options) && strstr(stepwell_last_error(NULL), "struct_size is 3"));
  options = (stepwell_options){.struct_size = sizeof options, .threads = -1};
  CHECK(!stepwell_create(&options) && strstr(stepwell_last_error(NULL), "threads is -1"));
  options = (stepwell_options){.struct_size = sizeof options, .flags = 1u << 20};
  CHECK(!stepwell_create(&options) && strstr(stepwell_last_error(NULL), "unknown bits"));
  struct {
    stepwell_options known;
    int64_t newer;
  } grown = {{.struct_size = sizeof grown, .threads = 1}, 0};
  context = stepwell_create(&grown.known);
  CHECK(context);
  stepwell_destroy(context);
  grown.newer = 1;
  CHECK(!stepwell_create(&grown.known) && strstr(stepwell_last_error(NULL), "newer than this library"));
  CHECK(stepwell_run(NULL, NULL, 0, NULL, 0) && strstr(stepwell_last_error(NULL), "context is NULL"));
  stepwell_destroy(NULL);

  context = stepwell_create(NULL);
  CHECK(context && !*stepwell_last_error(context));

  /* outputs of the context */
  memset(out, 0, sizeof out);
  CHECK(!run(va, vb, out) && out[0].kind == STEPWELL_TENSOR);
  DLTensor *s = &out[0].as.tensor;
  CHECK(s->ndim == 2 && s->shape[0] == 2 && s->shape[1] == 3 && s->strides[0] == 3 && s->strides[1] == 1);
  CHECK(s->dtype.code == kDLFloat && s->dtype.bits == 32 && s->dtype.lanes == 1 && s->device.device_type == kDLCPU);
  CHECK(((float *)s->data)[5] == 66 && ((float *)out[1].as.tensor.data)[5] == -54);
  CHECK((uintptr_t)s->data % 64 == 0);

  /* an output fed back as an input is read before it is overwritten, even where the memory must grow */
  stepwell_value fed = out[0];
  memset(out, 0, sizeof out);
  CHECK(!run(fed, vb, out) && ((float *)out[0].as.tensor.data)[5] == 126);

  /* outputs of the caller, inputs with strides, an offset, no alignment */
  out[0] = tensor(y, two, NULL), out[1] = none;
  CHECK(!run(va, vb, out) && out[0].as.tensor.data == y && y[0] == 11 && y[5] == 66);
  v = tensor(a, two, transposed);
  CHECK(!run(v, vb, out) && y[0] == 11 && y[1] == 23 && y[2] == 35 && y[3] == 42);
  v = tensor(a + 5, two, backwards);
  CHECK(!run(v, vb, out) && y[0] == 16 && y[5] == 61);
  v = tensor(a, two, NULL), v.as.tensor.byte_offset = 4;
  CHECK(!run(v, vb, out) && y[0] == 12);
  char bytes[sizeof a + 1];
  memcpy(bytes + 1, a, sizeof a);
  v = tensor(bytes + 1, two, NULL);
  CHECK(!run(v, vb, out) && y[5] == 66);

  /* nothing at all */
  memset(out, 0, sizeof out);
  CHECK(!run(tensor(NULL, zero, NULL), tensor(NULL, zero, NULL), out) && out[0].as.tensor.shape[0] == 0);

  /* what is refused, and leaves the context usable */
  CHECK(stepwell_run(context, &va, 1, out, 2) && strstr(stepwell_last_error(context), "1 inputs and 2 outputs"));
  CHECK(stepwell_run(context, NULL, 2, out, 2) && strstr(stepwell_last_error(context), "inputs is NULL"));
  CHECK(refused(none, vb, none, "kind 0, expected a tensor of float32"));
  v = va, v.kind = STEPWELL_STRINGS;
  CHECK(refused(v, vb, none, "kind 2"));
  v = va, v.as.tensor.dtype.bits = 64;
  CHECK(refused(v, vb, none, "64 bits"));
  v = va, v.as.tensor.dtype.lanes = 4;
  CHECK(refused(v, vb, none, "4 lanes"));
  v = va, v.as.tensor.device.device_type = kDLCUDA;
  CHECK(refused(v, vb, none, "device type 2"));
  v = va, v.as.tensor.ndim = 3;
  CHECK(refused(v, vb, none, "rank 3, expected 2"));
  CHECK(refused(tensor(a, NULL, NULL), vb, none, "shape is NULL"));
  CHECK(refused(tensor(NULL, two, NULL), vb, none, "data is NULL"));
  CHECK(refused(tensor(a, wrong, NULL), vb, none, "input 'a': axis 1 has the extent 4, expected 3"));
  CHECK(refused(va, tensor(b, one, NULL), none, "input 'b': axis 0 has the extent 1, but 'n' is 2"));
  CHECK(refused(tensor(a, negative, NULL), vb, none, "extent -1"));
  CHECK(refused(tensor(a, huge, NULL), tensor(b, huge, NULL), none, "more bytes than can be addressed"));
  CHECK(refused(va, vb, tensor(y, one, NULL), "output 'sum': axis 0 has the extent 1, but 'n' is 2"));
  CHECK(refused(va, vb, tensor(y, two, transposed), "strided"));
  CHECK(refused(va, vb, tensor(bytes + 1, two, NULL), "not aligned to 4 bytes"));
  CHECK(refused(va, vb, tensor(a + 2, two, NULL), "output 'sum' overlaps input 'a'"));
  CHECK(refused(va, tensor(b + 5, two, backwards), tensor(b + 1, two, NULL), "overlaps input 'b'"));
  stepwell_value both[2] = {tensor(y, two, NULL), tensor(y + 2, two, NULL)};
  CHECK(run(va, vb, both) && strstr(stepwell_last_error(context), "output 'difference' overlaps output 'sum'"));
  memset(out, 0, sizeof out);
  CHECK(!run(va, vb, out) && !*stepwell_last_error(context));
  stepwell_destroy(context);
  return broken;
}
