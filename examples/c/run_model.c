/* Run a compiled model from C: the number of outputs and one shape per input on the command line, as in
 * `run_model 1 1x3x224x224` (the signature, which is printed first, tells both). Every input is
 * float32 and holds 0, 1, 2, ...; the first values of each output are printed. */
#include <stdio.h>
#include <stdlib.h>

#include "stepwell.h"

enum { MAX_RANK = 8, MAX_VALUES = 16 };

static int fail(const stepwell_context *context) {
  fprintf(stderr, "run_model: %s\n", stepwell_last_error(context));
  return 1;
}

/* A new tensor of the shape in `text`, such as "2x3"; "" is a scalar. */
static stepwell_value make_input(const char *text, int64_t *shape) {
  stepwell_value value = {.kind = STEPWELL_TENSOR};
  DLTensor *t = &value.as.tensor;
  int64_t count = 1;
  while (*text && t->ndim < MAX_RANK) {
    char *end;
    shape[t->ndim] = strtoll(text, &end, 10);
    count *= shape[t->ndim++];
    text = *end == 'x' ? end + 1 : "";
  }
  float *data = malloc((size_t)(count > 0 ? count : 1) * sizeof *data);
  if (!data) exit(1);
  for (int64_t i = 0; i < count; i++) data[i] = (float)i;
  t->data = data;
  t->shape = shape;
  t->dtype = (DLDataType){kDLFloat, 32, 1};
  t->device.device_type = kDLCPU;
  return value;
}

static void print_output(int index, const DLTensor *t) {
  int64_t count = 1;
  printf("output %d, shape [", index);
  for (int i = 0; i < t->ndim; i++) {
    printf(i ? ", %lld" : "%lld", (long long)t->shape[i]);
    count *= t->shape[i];
  }
  printf("]:");
  for (int64_t i = 0; i < count && i < MAX_VALUES && t->dtype.code == kDLFloat && t->dtype.bits == 32; i++)
    printf(" %g", ((const float *)t->data)[i]);
  printf("\n");
}

int main(int argc, char **argv) {
  printf("%s\n", stepwell_signature_json());
  int n_outputs = argc > 1 ? atoi(argv[1]) : 0, n_inputs = argc - 2;
  stepwell_value inputs[MAX_VALUES], outputs[MAX_VALUES] = {0};
  int64_t shapes[MAX_VALUES][MAX_RANK];
  if (n_outputs < 1 || n_outputs > MAX_VALUES || n_inputs > MAX_VALUES) {
    fprintf(stderr, "usage: run_model OUTPUTS SHAPE...   (one shape per input, such as 2x3)\n");
    return 1;
  }
  for (int i = 0; i < n_inputs; i++) inputs[i] = make_input(argv[i + 2], shapes[i]);

  stepwell_context *context = stepwell_create(NULL); /* the model's default number of threads */
  if (!context) return fail(NULL);
  /* Absent outputs are allocated by the context and valid until its next run. */
  int status = stepwell_run(context, inputs, (size_t)n_inputs, outputs, (size_t)n_outputs);
  if (status) fail(context);
  for (int i = 0; !status && i < n_outputs; i++) print_output(i, &outputs[i].as.tensor);

  stepwell_destroy(context);
  for (int i = 0; i < n_inputs; i++) free(inputs[i].as.tensor.data);
  return status;
}
