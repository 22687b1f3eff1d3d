/* Run a compiled model in a program of its architecture: `run_foreign MODEL.so THREADS INPUTS OUTPUTS`. A file of
 * tensors is, for each, the words code, bits and rank (int32), the extents (int64), the number of bytes (int64) and the
 * bytes. INPUTS begins with the numbers of inputs and of outputs (int32). */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stepwell.h"

enum { MAX_RANK = 64 };

static void need(int condition, const char *what) {
  if (condition) return;
  fprintf(stderr, "run_foreign: %s\n", what);
  exit(2);
}

static void take(FILE *file, void *data, size_t bytes) {
  need(fread(data, 1, bytes, file) == bytes, "the file of inputs ends early");
}

static stepwell_value read_tensor(FILE *file) {
  stepwell_value value = {.kind = STEPWELL_TENSOR};
  DLTensor *t = &value.as.tensor;
  int32_t head[3];
  int64_t bytes;
  take(file, head, sizeof head);
  need(head[2] <= MAX_RANK, "rank");
  t->device.device_type = kDLCPU;
  t->dtype = (DLDataType){(uint8_t)head[0], (uint8_t)head[1], 1};
  t->ndim = head[2];
  t->shape = malloc(MAX_RANK * sizeof *t->shape);
  take(file, t->shape, (size_t)t->ndim * sizeof *t->shape);
  take(file, &bytes, sizeof bytes);
  t->data = malloc((size_t)bytes + 1);
  take(file, t->data, (size_t)bytes);
  return value;
}

static void write_tensor(FILE *file, const stepwell_value *value) {
  need(value->kind == STEPWELL_TENSOR, "an output is no tensor");
  const DLTensor *t = &value->as.tensor;
  int32_t head[3] = {t->dtype.code, t->dtype.bits, t->ndim};
  int64_t bytes = (t->dtype.bits + 7) / 8;
  for (int i = 0; i < t->ndim; i++) bytes *= t->shape[i];
  fwrite(head, sizeof head, 1, file);
  fwrite(t->shape, sizeof *t->shape, (size_t)t->ndim, file);
  fwrite(&bytes, sizeof bytes, 1, file);
  fwrite(t->data, 1, (size_t)bytes, file);
}

int main(int argc, char **argv) {
  need(argc == 5, "usage: run_foreign MODEL.so THREADS INPUTS OUTPUTS");
  void *model = dlopen(argv[1], RTLD_NOW);
  need(model != NULL, model ? "" : dlerror());
  __typeof__(stepwell_create) *create = (__typeof__(stepwell_create) *)dlsym(model, "stepwell_create");
  __typeof__(stepwell_run) *run = (__typeof__(stepwell_run) *)dlsym(model, "stepwell_run");
  __typeof__(stepwell_last_error) *error = (__typeof__(stepwell_last_error) *)dlsym(model, "stepwell_last_error");
  __typeof__(stepwell_destroy) *destroy = (__typeof__(stepwell_destroy) *)dlsym(model, "stepwell_destroy");
  need(create && run && error && destroy, "the library is no model");

  FILE *file = fopen(argv[3], "rb");
  need(file != NULL, "no file of inputs");
  int32_t counts[2];
  take(file, counts, sizeof counts);
  stepwell_value *inputs = calloc((size_t)counts[0] + 1, sizeof *inputs);
  stepwell_value *outputs = calloc((size_t)counts[1] + 1, sizeof *outputs);
  for (int32_t i = 0; i < counts[0]; i++) inputs[i] = read_tensor(file);
  fclose(file);

  stepwell_options options = {.struct_size = sizeof options, .threads = atoi(argv[2]), .flags = STEPWELL_POISON};
  stepwell_context *context = create(&options);
  need(context != NULL, context ? "" : error(NULL));
  int status = run(context, inputs, (size_t)counts[0], outputs, (size_t)counts[1]);
  need(status == 0, status ? error(context) : "");
  file = fopen(argv[4], "wb");
  need(file != NULL, "the file of outputs cannot be written");
  for (int32_t i = 0; i < counts[1]; i++) write_tensor(file, &outputs[i]);
  fclose(file);
  destroy(context);
  return 0;
}
