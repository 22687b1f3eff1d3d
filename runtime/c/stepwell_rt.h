/* stepwell_rt.h: what generated code calls, and what it must define. Not for users. */
#ifndef STEPWELL_RT_H
#define STEPWELL_RT_H

#include "stepwell.h"

/* One kernel: iterations [begin, end) of its outermost parallel loop. `scratch` is private to the thread. */
typedef void (*stepwell_kernel)(void *const *buffers, const int64_t *dims, int64_t begin, int64_t end, void *scratch);

/* Generated code defines the model's one entry point; `dims` are the dynamic extents of all inputs, in order. */
int32_t stepwell_main(stepwell_context *context, void *const *inputs, const int64_t *dims);

/* Working memory of the run, 64-byte aligned, kept between runs. NULL: out of memory (the error is set). */
void *stepwell_rt_arena(stepwell_context *context, int64_t bytes);
/* Memory whose size follows from data; lives until the run ends. NULL: out of memory (the error is set). */
void *stepwell_rt_alloc(stepwell_context *context, int64_t bytes);
/* The buffer to write output `index` to. NULL: it does not fit what the caller gave (the error is set). */
void *stepwell_rt_output(stepwell_context *context, int64_t index, int64_t rank, const int64_t *dims);
/* Run `tiles` iterations of `kernel`, each about `work_ns` long, over the context's threads. Nonzero: stop.
 * `site` numbers the launches of `stepwell_main` in program order; a profile names the launch by it. */
int stepwell_rt_launch(stepwell_context *context, stepwell_kernel kernel, void *const *buffers, const int64_t *dims,
                       int64_t tiles, int64_t work_ns, int64_t scratch_bytes, int64_t site);
/* Set the error and return 1. */
int stepwell_rt_fail(stepwell_context *context, const char *message);

/* Values that are no plain tensors; `type` is DLPack's code times 256 plus its bits. They are immutable and live until
 * the next run begins. NULL, or -1: it failed (the error is set). A negative position counts from the end. */
const stepwell_value *stepwell_rt_absent(stepwell_context *context);
int32_t stepwell_rt_present(stepwell_context *context, const stepwell_value *value);
/* A copy of a tensor; `layout` is `rank` extents, then `rank` strides. */
const stepwell_value *stepwell_rt_wrap(stepwell_context *context, const void *data, int64_t type, int64_t rank,
                                       const int64_t *layout);
/* The contiguous data of a tensor; `dims` are the extents that it must have (-1: any), and then those that it has. */
void *stepwell_rt_unwrap(stepwell_context *context, const stepwell_value *value, int64_t type, int64_t rank, int64_t *dims);
const stepwell_value *stepwell_rt_empty(stepwell_context *context);
int64_t stepwell_rt_length(stepwell_context *context, const stepwell_value *sequence);
const stepwell_value *stepwell_rt_at(stepwell_context *context, const stepwell_value *sequence, int64_t position);
const stepwell_value *stepwell_rt_insert(stepwell_context *context, const stepwell_value *sequence,
                                         const stepwell_value *value, int64_t position);
const stepwell_value *stepwell_rt_erase(stepwell_context *context, const stepwell_value *sequence, int64_t position);
/* A map of two tensors of rank 1 and of one length, and these. */
const stepwell_value *stepwell_rt_map(stepwell_context *context, const stepwell_value *keys, const stepwell_value *values);
const stepwell_value *stepwell_rt_keys(stepwell_context *context, const stepwell_value *map);
const stepwell_value *stepwell_rt_values(stepwell_context *context, const stepwell_value *map);
/* Let output `index`, which is no plain tensor, be `value`. Nonzero: stop. */
int32_t stepwell_rt_output_value(stepwell_context *context, int64_t index, const stepwell_value *value);

/* Kernels that the runtime defines; generated code launches them as it does its own, as one tile. */
void stepwell_rt_image_size(void *const *buffers, const int64_t *dims, int64_t begin, int64_t end, void *scratch);
void stepwell_rt_image_decode(void *const *buffers, const int64_t *dims, int64_t begin, int64_t end, void *scratch);
void stepwell_rt_random_key(void *const *buffers, const int64_t *dims, int64_t begin, int64_t end, void *scratch);

/* What the ops of the `text` dialect call, one function an op (text.c): 0, or nonzero with the error set. */
int stepwell_rt_text_view(stepwell_context *, const char *bytes, int64_t, const int64_t *offsets, int64_t,
                          stepwell_string *out, int64_t);
int stepwell_rt_text_equal(stepwell_context *, const stepwell_string *x, int64_t, const stepwell_string *y, int64_t,
                           uint8_t *out, int64_t);
int stepwell_rt_text_concat(stepwell_context *, const stepwell_string *x, int64_t, const stepwell_string *y, int64_t,
                            stepwell_string *out, int64_t);
int stepwell_rt_text_map(stepwell_context *, const stepwell_string *x, int64_t, const int32_t *table, int64_t,
                         stepwell_string *out, int64_t);
int stepwell_rt_text_find(stepwell_context *, const stepwell_string *x, int64_t, const char *bytes, int64_t,
                          const int64_t *offsets, int64_t, int64_t *out, int64_t);
int stepwell_rt_text_rank(stepwell_context *, const stepwell_string *x, int64_t, int64_t *out, int64_t);
int stepwell_rt_text_match(stepwell_context *, const stepwell_string *x, int64_t, const uint8_t *classes, int64_t,
                           const int32_t *next, int64_t, const uint8_t *accepts, int64_t, uint8_t *out, int64_t);
int stepwell_rt_text_count(stepwell_context *, const stepwell_string *x, int64_t, const char *delimiter, int64_t,
                           int64_t *out, int64_t, int64_t limit);
int stepwell_rt_text_split(stepwell_context *, const stepwell_string *x, int64_t, const char *delimiter, int64_t,
                           stepwell_string *out, int64_t, int64_t limit);
int stepwell_rt_text_parse_f64(stepwell_context *, const stepwell_string *x, int64_t, double *out, int64_t);
int stepwell_rt_text_parse_f32(stepwell_context *, const stepwell_string *x, int64_t, float *out, int64_t);
int stepwell_rt_text_parse_i64(stepwell_context *, const stepwell_string *x, int64_t, int64_t *out, int64_t,
                               int64_t is_unsigned);
int stepwell_rt_text_format_f64(stepwell_context *, const double *x, int64_t, stepwell_string *out, int64_t,
                                int64_t digits);
int stepwell_rt_text_format_fixed(stepwell_context *, const double *x, int64_t, stepwell_string *out, int64_t,
                                  int64_t digits);
int stepwell_rt_text_format_i64(stepwell_context *, const int64_t *x, int64_t, stepwell_string *out, int64_t,
                                int64_t is_unsigned);
int stepwell_rt_text_grams(stepwell_context *, const int64_t *items, int64_t, const int64_t *grams, int64_t,
                           const int64_t *places, int64_t, const int64_t *table, int64_t, float *out, int64_t,
                           int64_t columns, int64_t most_skipped);

/* An extent in a slot: >= 0 static; STEPWELL_SYMBOL(s) the symbol s; STEPWELL_ANY not known before the run. */
#define STEPWELL_SYMBOL(s) (-1 - (int64_t)(s))
#define STEPWELL_ANY INT64_MIN

typedef struct {
  const char *name;
  const char *dtype;
  const int64_t *dims;
  int32_t rank; /* of the tensor, or of the tensors that a value is made of (0 of a map's values); -1: any */
  uint8_t code; /* DLPack's type code and width; for strings STEPWELL_STRING_CODE and the width of a stepwell_string */
  uint8_t bits;
  const char *layers; /* from the outside in: s, a sequence of; o, an optional; i and t, a map from int64 and strings; "": a tensor */
} stepwell_slot;

#define STEPWELL_STRING_CODE 255

/* What the runtime knows of its model; the back end generates one, `stepwell_model`. */
typedef struct {
  const char *json;
  const stepwell_slot *inputs;
  const stepwell_slot *outputs;
  const char *const *symbols;
  const char *const *features; /* of the CPU, as /proc/cpuinfo names them; NULL ends them */
  int32_t n_inputs;
  int32_t n_outputs;
  int32_t n_symbols;
  int32_t threads;
  void *weights;
  uint64_t weight_bytes;
} stepwell_model_table;

extern const stepwell_model_table stepwell_model;

#endif /* STEPWELL_RT_H */
