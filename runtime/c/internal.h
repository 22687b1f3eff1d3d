/* What the files of the runtime share. */
#ifndef STEPWELL_INTERNAL_H
#define STEPWELL_INTERNAL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stepwell_rt.h"

enum { ALIGNMENT = 64, ERROR_BYTES = 1024, MAX_THREADS = 256, MAX_RANK = 64 };

/* A block that only ever grows. */
typedef struct {
  char *data;
  size_t capacity;
} block;

typedef struct chunk {
  struct chunk *next;
  size_t used;
  block memory;
} chunk;

typedef struct {
  block memory;      /* the context's own copy; unused while the caller's buffer is written */
  char *destination; /* where this run's output lies; NULL until asked for */
  int64_t *shape;    /* rank extents, then rank strides */
  const stepwell_value *value; /* of what is no plain tensor, in this run */
} output;

typedef struct pool pool;

struct stepwell_context {
  pthread_mutex_t mutex;
  _Atomic(int) pid; /* of the process that the mutex and the threads belong to; -1 while they are renewed */
  int threads;
  uint64_t flags;
  pool *pool;
  block arena;
  block scratch;
  chunk *chunks;
  block *staging;   /* per input: the contiguous, aligned copy of one that is not, and what a value is made of */
  block *fresh;     /* per input: what becomes its staging when all inputs are bound */
  void **inputs;    /* per input: its data in this run; of what is no plain tensor, the context's own value */
  int64_t *dims;    /* the dynamic extents of all inputs */
  int64_t *symbols; /* the value of each symbol in this run; -1 unknown */
  output *outputs;
  stepwell_value *caller; /* the caller's outputs, during a run */
  stepwell_event *events; /* of the last run, with STEPWELL_PROFILE */
  size_t n_events, event_capacity;
  char error[ERROR_BYTES];
};

/* errors: set the message and return 1 */
__attribute__((format(printf, 2, 3))) int fail(stepwell_context *context, const char *format, ...);

/* memory.c */
bool block_reserve(block *memory, size_t bytes);
void block_free(block *memory);
void chunks_recycle(stepwell_context *context);
void chunks_free(stepwell_context *context);
void advise_weights(void);

/* cpu.c */
int check_cpu(void);

/* check.c */
int bind_inputs(stepwell_context *context, const stepwell_value *inputs);
int check_outputs(stepwell_context *context, const stepwell_value *inputs, const stepwell_value *outputs);
bool given(const stepwell_value *v);
bool byte_count(const stepwell_slot *slot, const int64_t *dims, size_t *bytes);
int check_tensor(stepwell_context *context, const stepwell_slot *slot, const stepwell_value *value, bool input);
bool row_major(const DLTensor *tensor);
void copy_strided(char **to, const char *from, const DLTensor *tensor, size_t width, int axis);
bool lies_in_outputs(const stepwell_context *context, const char *data);
void span_of(const DLTensor *tensor, uintptr_t *low, uintptr_t *high);
void span_of_value(const stepwell_value *value, uintptr_t *low, uintptr_t *high);

/* values.c */
int bind_value(stepwell_context *context, int index, const stepwell_value *value);
bool value_overlaps(const stepwell_value *value, uintptr_t low, uintptr_t high);

/* pool.c */
pool *pool_create(int threads, bool spin);
void pool_destroy(pool *p);
int pool_width(const pool *p);
/* `events`: one for each thread, filled in by those that take part; NULL: nothing is noted. */
void pool_run(pool *p, stepwell_kernel kernel, void *const *buffers, const int64_t *dims, int64_t tiles, int64_t least,
              char *scratch, size_t scratch_stride, stepwell_event *events);
int64_t now_ns(void);

#endif
