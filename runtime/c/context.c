/* Contexts and runs: the public functions, and those of generated code that need the whole context. */
#include "internal.h"

static _Thread_local char thread_error[ERROR_BYTES];

int fail(stepwell_context *context, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(context ? context->error : thread_error, ERROR_BYTES, format, arguments);
  va_end(arguments);
  return 1;
}

STEPWELL_API int stepwell_abi_version(void) { return STEPWELL_ABI_VERSION; }

STEPWELL_API const char *stepwell_signature_json(void) { return stepwell_model.json; }

STEPWELL_API const char *stepwell_last_error(const stepwell_context *context) {
  return context ? context->error : thread_error;
}

static void free_context(stepwell_context *c) {
  const stepwell_model_table *m = &stepwell_model;
  block_free(&c->arena);
  block_free(&c->scratch);
  chunks_free(c);
  for (int i = 0; c->staging && i < m->n_inputs; i++) block_free(&c->staging[i]);
  for (int i = 0; c->outputs && i < m->n_outputs; i++) {
    block_free(&c->outputs[i].memory);
    free(c->outputs[i].shape);
  }
  free(c->staging);
  free(c->fresh);
  free(c->outputs);
  free(c->inputs);
  free(c->dims);
  free(c->symbols);
  free(c->events);
  free(c);
}

STEPWELL_API stepwell_context *stepwell_create(const stepwell_options *options) {
  const stepwell_model_table *m = &stepwell_model;
  stepwell_options o = {0};
  if (options) {
    size_t size = options->struct_size;
    if (size < offsetof(stepwell_options, flags))
      return fail(NULL, "stepwell_options.struct_size is %zu; set it to sizeof(stepwell_options)", size), NULL;
    memcpy(&o, options, size < sizeof o ? size : sizeof o);
    /* A newer caller's options are refused only where it asks for something that this library does not know. */
    for (size_t i = sizeof o; i < size; i++)
      if (((const char *)options)[i]) return fail(NULL, "stepwell_options holds fields newer than this library"), NULL;
  }
  if (o.flags & ~(uint64_t)(STEPWELL_NO_SPIN | STEPWELL_POISON | STEPWELL_PROFILE))
    return fail(NULL, "stepwell_options.flags has unknown bits: 0x%llx", (unsigned long long)o.flags), NULL;
  if (o.threads < 0 || o.threads > MAX_THREADS)
    return fail(NULL, "stepwell_options.threads is %d; expected 0 to %d", o.threads, MAX_THREADS), NULL;
  if (check_cpu()) return NULL;
  advise_weights();
  stepwell_context *c = calloc(1, sizeof *c);
  size_t dynamic = 0;
  for (int i = 0; i < m->n_inputs; i++)
    for (int axis = 0; !m->inputs[i].layers[0] && axis < m->inputs[i].rank; axis++) dynamic += m->inputs[i].dims[axis] < 0;
  bool ok = c && (c->staging = calloc((size_t)m->n_inputs + 1, sizeof *c->staging)) &&
            (c->fresh = calloc((size_t)m->n_inputs + 1, sizeof *c->fresh)) &&
            (c->inputs = calloc((size_t)m->n_inputs + 1, sizeof *c->inputs)) &&
            (c->dims = calloc(dynamic + 1, sizeof *c->dims)) &&
            (c->symbols = calloc((size_t)m->n_symbols + 1, sizeof *c->symbols)) &&
            (c->outputs = calloc((size_t)m->n_outputs + 1, sizeof *c->outputs));
  for (int i = 0; ok && i < m->n_outputs; i++)
    ok = m->outputs[i].layers[0] || (c->outputs[i].shape = calloc(2 * (size_t)m->outputs[i].rank + 1, sizeof(int64_t)));
  if (!ok) {
    if (c) free_context(c);
    return fail(NULL, "out of memory for a context"), NULL;
  }
  c->threads = o.threads ? o.threads : m->threads;
  if (c->threads < 1) c->threads = 1;
  c->flags = o.flags;
  pthread_mutex_init(&c->mutex, NULL);
  atomic_store(&c->pid, getpid());
  thread_error[0] = 0;
  return c;
}

/* A fork copies neither the pool's threads nor whoever held the mutex: the child gets new ones. The old pool is
 * left as it is, since its threads exist only in the parent. */
static void renew_after_fork(stepwell_context *c) {
  int self = getpid(), owner = atomic_load(&c->pid);
  while (owner != self) {
    if (owner != -1 && atomic_compare_exchange_strong(&c->pid, &owner, -1)) {
      pthread_mutex_init(&c->mutex, NULL);
      c->pool = NULL;
      atomic_store(&c->pid, self);
      return;
    }
    owner = atomic_load(&c->pid);
  }
}

STEPWELL_API void stepwell_destroy(stepwell_context *c) {
  if (!c) return;
  renew_after_fork(c);
  pool_destroy(c->pool);
  pthread_mutex_destroy(&c->mutex);
  free_context(c);
}

int stepwell_rt_fail(stepwell_context *context, const char *message) { return fail(context, "%s", message); }

void *stepwell_rt_output(stepwell_context *c, int64_t index, int64_t rank, const int64_t *dims) {
  const stepwell_model_table *m = &stepwell_model;
  if (index < 0 || index >= m->n_outputs || m->outputs[index].layers[0] || rank != m->outputs[index].rank)
    return fail(c, "internal: output %lld of rank %lld", (long long)index, (long long)rank), NULL;
  const stepwell_slot *s = &m->outputs[index];
  output *o = &c->outputs[index];
  size_t bytes;
  for (int64_t i = 0; i < rank; i++)
    if (dims[i] < 0)
      return fail(c, "output '%s': axis %d would have the extent %lld; pass inputs of other extents", s->name, (int)i,
                  (long long)dims[i]),
             NULL;
  if (!byte_count(s, dims, &bytes)) return fail(c, "output '%s' is too large to be addressed", s->name), NULL;
  stepwell_value *v = &c->caller[index];
  if (given(v)) {
    bool text = v->kind == STEPWELL_STRINGS;
    const int64_t *shape = text ? v->as.strings.shape : v->as.tensor.shape;
    for (int i = 0; i < rank; i++)
      if (shape[i] != dims[i])
        return fail(c, "output '%s': axis %d of the buffer given has the extent %lld, the result has %lld", s->name, i,
                    (long long)shape[i], (long long)dims[i]),
               NULL;
    if (text) return o->destination = (char *)v->as.strings.data;
    return o->destination = (char *)v->as.tensor.data + v->as.tensor.byte_offset;
  }
  if (!block_reserve(&o->memory, bytes)) return fail(c, "out of memory: %zu bytes for output '%s'", bytes, s->name), NULL;
  int64_t stride = 1;
  for (int64_t i = rank; i-- > 0;) {
    o->shape[i] = dims[i];
    o->shape[rank + i] = stride;
    stride *= dims[i] ? dims[i] : 1;
  }
  return o->destination = o->memory.data;
}

/* `count` new events of the launch `site`, one a thread; NULL: out of memory. */
static stepwell_event *new_events(stepwell_context *c, int64_t site, size_t count) {
  if (c->n_events + count > c->event_capacity) {
    size_t capacity = 2 * (c->n_events + count) + 256;
    stepwell_event *larger = realloc(c->events, capacity * sizeof *larger);
    if (!larger) return fail(c, "out of memory: %zu events", capacity), NULL;
    c->events = larger;
    c->event_capacity = capacity;
  }
  stepwell_event *made = c->events + c->n_events;
  for (size_t i = 0; i < count; i++) made[i] = (stepwell_event){.site = (int32_t)site, .thread = (int32_t)i};
  c->n_events += count;
  return made;
}

/* Drop the events of threads that took no part. */
static void close_events(stepwell_context *c) {
  size_t kept = 0;
  for (size_t i = 0; i < c->n_events; i++)
    if (c->events[i].end_ns) c->events[kept++] = c->events[i];
  c->n_events = kept;
}

STEPWELL_API const stepwell_event *stepwell_events(stepwell_context *c, size_t *count) {
  *count = c ? c->n_events : 0;
  return c ? c->events : NULL;
}

enum { SERIAL_NS = 3000, CHUNK_NS = 1000 };

/* The number of threads decides only who computes a tile, never how: the bits are the same for any. */
int stepwell_rt_launch(stepwell_context *c, stepwell_kernel kernel, void *const *buffers, const int64_t *dims,
                       int64_t tiles, int64_t work_ns, int64_t scratch_bytes, int64_t site) {
  if (tiles <= 0) return 0;
  if (scratch_bytes < 0) return fail(c, "internal: scratch of %lld bytes", (long long)scratch_bytes);
  if (work_ns < 1) work_ns = 1;
  size_t stride = ((size_t)scratch_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  if (stride && !block_reserve(&c->scratch, stride * (size_t)c->threads))
    return fail(c, "out of memory: %zu bytes of scratch", stride * (size_t)c->threads);
  /* Of every kernel a thread has the same part: another's would come from another core's cache. */
  if (stride) stride = c->scratch.capacity / (size_t)c->threads / ALIGNMENT * ALIGNMENT;
  char *scratch = stride ? c->scratch.data : NULL;
  bool serial = c->threads == 1 || tiles == 1 || (work_ns < SERIAL_NS && tiles < SERIAL_NS / work_ns);
  if (!serial && !c->pool) c->pool = pool_create(c->threads, !(c->flags & STEPWELL_NO_SPIN));
  if (serial || !c->pool || pool_width(c->pool) == 1) {
    if (!(c->flags & STEPWELL_PROFILE)) {
      kernel(buffers, dims, 0, tiles, scratch);
      return 0;
    }
    stepwell_event *event = new_events(c, site, 1);
    if (!event) return 1;
    event->tiles = tiles;
    event->begin_ns = now_ns();
    kernel(buffers, dims, 0, tiles, scratch);
    event->end_ns = now_ns();
    return 0;
  }
  int64_t least = work_ns < CHUNK_NS ? CHUNK_NS / work_ns : 1;
  stepwell_event *events = NULL;
  if ((c->flags & STEPWELL_PROFILE) && !(events = new_events(c, site, (size_t)pool_width(c->pool)))) return 1;
  pool_run(c->pool, kernel, buffers, dims, tiles, least, scratch, stride, events);
  return 0;
}

static void fill_output(output *o, const stepwell_slot *s, stepwell_value *v) {
  if (s->layers[0]) {
    *v = *o->value;
    return;
  }
  DLTensor *t = &v->as.tensor;
  if (given(v)) return;
  memset(v, 0, sizeof *v);
  if (s->code == STEPWELL_STRING_CODE) {
    v->kind = STEPWELL_STRINGS;
    v->as.strings = (stepwell_string_tensor){(stepwell_string *)o->destination, o->shape, s->rank};
    return;
  }
  v->kind = STEPWELL_TENSOR;
  t->data = o->destination;
  t->device.device_type = kDLCPU;
  t->ndim = s->rank;
  t->dtype = (DLDataType){s->code, s->bits, 1};
  t->shape = o->shape;
  t->strides = o->shape + s->rank;
}

static int run_locked(stepwell_context *c, const stepwell_value *in, size_t n_in, stepwell_value *out, size_t n_out) {
  const stepwell_model_table *m = &stepwell_model;
  c->error[0] = 0;
  if (n_in != (size_t)m->n_inputs || n_out != (size_t)m->n_outputs)
    return fail(c, "%zu inputs and %zu outputs, expected %d and %d", n_in, n_out, m->n_inputs, m->n_outputs);
  if ((n_in && !in) || (n_out && !out)) return fail(c, "the array of %s is NULL", n_in && !in ? "inputs" : "outputs");
  if (bind_inputs(c, in) || check_outputs(c, in, out)) return 1;
  chunks_recycle(c);
  for (int i = 0; i < m->n_outputs; i++) c->outputs[i].destination = NULL, c->outputs[i].value = NULL;
  c->n_events = 0;
  if ((c->flags & STEPWELL_PROFILE) && !new_events(c, -1, 1)) return 1;
  c->caller = out;
  int64_t begin = c->flags & STEPWELL_PROFILE ? now_ns() : 0;
  int32_t status = stepwell_main(c, c->inputs, c->dims);
  c->caller = NULL;
  if (c->flags & STEPWELL_PROFILE) {
    c->events[0].begin_ns = begin;
    c->events[0].end_ns = now_ns();
    close_events(c);
  }
  if (status) return c->error[0] ? 1 : fail(c, "the model stopped with status %d", status);
  for (int i = 0; i < m->n_outputs; i++) {
    if (!c->outputs[i].destination && !c->outputs[i].value) return fail(c, "internal: output '%s' was not written", m->outputs[i].name);
    fill_output(&c->outputs[i], &m->outputs[i], &out[i]);
  }
  return 0;
}

STEPWELL_API int stepwell_run(stepwell_context *c, const stepwell_value *in, size_t n_in, stepwell_value *out,
                              size_t n_out) {
  if (!c) return fail(NULL, "stepwell_run: the context is NULL");
  renew_after_fork(c);
  pthread_mutex_lock(&c->mutex);
  int status = run_locked(c, in, n_in, out, n_out);
  pthread_mutex_unlock(&c->mutex);
  return status;
}
