/* The signature holds the caller to what the model was compiled for, before any generated code runs. */
#include "internal.h"

static const char *role_name(bool input) { return input ? "input" : "output"; }

static size_t element_bytes(const stepwell_slot *slot) { return (slot->bits + 7u) / 8u; }

/* False: a negative extent, or more bytes than can be addressed. */
bool byte_count(const stepwell_slot *slot, const int64_t *dims, size_t *bytes) {
  int64_t total = (int64_t)element_bytes(slot);
  bool empty = false;
  for (int i = 0; i < slot->rank; i++) {
    if (dims[i] < 0) return false;
    if (dims[i] == 0)
      empty = true;
    else if (__builtin_mul_overflow(total, dims[i], &total))
      return false;
  }
  *bytes = empty ? 0 : (size_t)total;
  return true;
}

static int describe_shape(char *text, size_t size, const int64_t *dims, int rank) {
  size_t at = (size_t)snprintf(text, size, "[");
  for (int i = 0; i < rank && at < size; i++)
    at += (size_t)snprintf(text + at, size - at, i ? ", %lld" : "%lld", (long long)dims[i]);
  if (at < size) snprintf(text + at, size - at, "]");
  return 0;
}

bool row_major(const DLTensor *t) {
  if (!t->strides) return true;
  int64_t expected = 1;
  for (int i = t->ndim; i-- > 0;) {
    if (t->shape[i] == 0) return true;
    if (t->shape[i] != 1 && t->strides[i] != expected) return false;
    expected *= t->shape[i];
  }
  return true;
}

static char *data_of(const DLTensor *t) { return (char *)t->data + t->byte_offset; }

/* Rank and static extents; symbols are bound on first sight and must then agree. */
static int check_shape(stepwell_context *c, const stepwell_slot *s, const int64_t *dims, int rank, bool input) {
  const char *role = role_name(input);
  if (rank != s->rank) return fail(c, "%s '%s': rank %d, expected %d", role, s->name, rank, s->rank);
  if (s->rank && !dims) return fail(c, "%s '%s': its shape is NULL", role, s->name);
  for (int i = 0; i < s->rank; i++) {
    int64_t extent = dims[i], want = s->dims[i];
    if (extent < 0) return fail(c, "%s '%s': axis %d has the extent %lld", role, s->name, i, (long long)extent);
    if (want == STEPWELL_ANY) continue;
    if (want >= 0) {
      if (extent != want)
        return fail(c, "%s '%s': axis %d has the extent %lld, expected %lld", role, s->name, i, (long long)extent,
                    (long long)want);
      continue;
    }
    int64_t *value = &c->symbols[-1 - want];
    if (*value < 0) {
      if (input) *value = extent;
    } else if (*value != extent) {
      return fail(c, "%s '%s': axis %d has the extent %lld, but '%s' is %lld in another %s", role, s->name, i,
                  (long long)extent, stepwell_model.symbols[-1 - want], (long long)*value, input ? "input" : "tensor");
    }
  }
  size_t bytes;
  if (!byte_count(s, dims, &bytes)) {
    char shape[128];
    describe_shape(shape, sizeof shape, dims, s->rank);
    return fail(c, "%s '%s': shape %s holds more bytes than can be addressed", role, s->name, shape);
  }
  return 0;
}

static bool is_text(const stepwell_slot *s) { return s->code == STEPWELL_STRING_CODE; }

static const int64_t *dims_of(const stepwell_slot *s, const stepwell_value *v) {
  return is_text(s) ? v->as.strings.shape : v->as.tensor.shape;
}

static int check_strings(stepwell_context *c, const stepwell_slot *s, const stepwell_value *v, bool input) {
  const char *role = role_name(input);
  if (v->kind != STEPWELL_STRINGS)
    return fail(c, "%s '%s': a value of kind %d, expected a tensor of strings", role, s->name, v->kind);
  const stepwell_string_tensor *t = &v->as.strings;
  if (check_shape(c, s, t->shape, t->ndim, input)) return 1;
  size_t bytes;
  byte_count(s, t->shape, &bytes);
  if (!input || !bytes) return 0;
  if (!t->data) return fail(c, "input '%s': its data is NULL", s->name);
  for (size_t i = 0; i < bytes / sizeof *t->data; i++) {
    stepwell_string text;
    memcpy(&text, (const char *)t->data + i * sizeof text, sizeof text);
    if ((!text.data && text.length) || text.length > PTRDIFF_MAX)
      return fail(c, "input '%s': string %zu has the length %zu and %s data", s->name, i, text.length,
                  text.data ? "some" : "no");
  }
  return 0;
}

/* Kind, dtype, device and shape. */
int check_tensor(stepwell_context *c, const stepwell_slot *s, const stepwell_value *v, bool input) {
  if (is_text(s)) return check_strings(c, s, v, input);
  const char *role = role_name(input);
  if (v->kind != STEPWELL_TENSOR)
    return fail(c, "%s '%s': a value of kind %d, expected a tensor of %s", role, s->name, v->kind, s->dtype);
  const DLTensor *t = &v->as.tensor;
  if (t->device.device_type != kDLCPU && t->device.device_type != kDLCUDAHost)
    return fail(c, "%s '%s': it lies on device type %d, expected CPU memory; copy it to the host", role, s->name,
                (int)t->device.device_type);
  if (t->dtype.code != s->code || t->dtype.bits != s->bits || t->dtype.lanes > 1)
    return fail(c, "%s '%s': dtype (code %d, %d bits, %d lanes), expected %s (code %d, %d bits, 1 lane)", role, s->name,
                t->dtype.code, t->dtype.bits, t->dtype.lanes, s->dtype, s->code, s->bits);
  if (check_shape(c, s, t->shape, t->ndim, input)) return 1;
  size_t bytes;
  byte_count(s, t->shape, &bytes);
  if (bytes && !t->data && input) return fail(c, "input '%s': its data is NULL", s->name);
  return 0;
}

void copy_strided(char **to, const char *from, const DLTensor *t, size_t width, int axis) {
  if (axis == t->ndim) {
    memcpy(*to, from, width);
    *to += width;
    return;
  }
  for (int64_t i = 0; i < t->shape[axis]; i++)
    copy_strided(to, from + i * t->strides[axis] * (int64_t)width, t, width, axis + 1);
}

/* A caller may feed back an output that the context allocated (a recurrent state); this run will overwrite it. */
bool lies_in_outputs(const stepwell_context *c, const char *data) {
  for (int i = 0; i < stepwell_model.n_outputs; i++) {
    const block *b = &c->outputs[i].memory;
    if (b->data && data >= b->data && data < b->data + b->capacity) return true;
  }
  return false;
}

static bool holds(const block *b, const char *data) { return b->data && data >= b->data && data < b->data + b->capacity; }

/* Memory of the context that this run may use again. */
static bool lies_in_context(const stepwell_context *c, const char *data) {
  for (int i = 0; i < stepwell_model.n_inputs; i++)
    if (holds(&c->staging[i], data)) return true;
  for (const chunk *k = c->chunks; k; k = k->next)
    if (holds(&k->memory, data)) return true;
  return lies_in_outputs(c, data);
}

/* Strings are taken as they lie; those that are the context's own, results of its last run, are copied. */
static int bind_strings(stepwell_context *c, int index, const stepwell_value *v) {
  const stepwell_slot *s = &stepwell_model.inputs[index];
  const char *data = (const char *)v->as.strings.data;
  size_t bytes, own = 0;
  stepwell_string text;
  byte_count(s, v->as.strings.shape, &bytes);
  c->inputs[index] = (void *)data;
  bool copied = (uintptr_t)data % _Alignof(stepwell_string) || lies_in_context(c, data);
  for (size_t at = 0; at < bytes; at += sizeof text) {
    memcpy(&text, data + at, sizeof text);
    if (text.length && lies_in_context(c, text.data)) own += text.length;
  }
  if (!bytes || (!copied && !own)) return 0;
  block copy = {0}; /* what is copied may lie in the old one */
  if (!block_reserve(&copy, bytes + own)) return fail(c, "out of memory: %zu bytes to copy input '%s'", bytes + own, s->name);
  char *to = copy.data + bytes;
  for (size_t at = 0; at < bytes; at += sizeof text) {
    memcpy(&text, data + at, sizeof text);
    if (text.length && lies_in_context(c, text.data)) {
      memcpy(to, text.data, text.length);
      text.data = to;
      to += text.length;
    }
    memcpy(copy.data + at, &text, sizeof text);
  }
  c->inputs[index] = copy.data;
  c->fresh[index] = copy;
  return 0;
}

static int bind_input(stepwell_context *c, int index, const stepwell_value *v) {
  const stepwell_slot *s = &stepwell_model.inputs[index];
  if (check_tensor(c, s, v, true)) return 1;
  if (is_text(s)) return bind_strings(c, index, v);
  const DLTensor *t = &v->as.tensor;
  size_t bytes, width = element_bytes(s);
  byte_count(s, t->shape, &bytes);
  char *data = t->data ? data_of(t) : NULL;
  size_t alignment = width & (width - 1) ? 1 : width;
  if (bytes && (!row_major(t) || (uintptr_t)data % alignment || lies_in_outputs(c, data))) {
    block *copy = &c->staging[index];
    if (!block_reserve(copy, bytes)) return fail(c, "out of memory: %zu bytes to copy input '%s'", bytes, s->name);
    char *to = copy->data;
    if (row_major(t))
      memcpy(to, data, bytes);
    else
      copy_strided(&to, data, t, width, 0);
    data = copy->data;
  }
  c->inputs[index] = data;
  return 0;
}

/* Fill `inputs`, `dims` and `symbols` of the context. */
int bind_inputs(stepwell_context *c, const stepwell_value *inputs) {
  const stepwell_model_table *m = &stepwell_model;
  for (int i = 0; i < m->n_symbols; i++) c->symbols[i] = -1;
  int64_t *dims = c->dims;
  int status = 0;
  for (int i = 0; i < m->n_inputs && !status; i++) {
    if (m->inputs[i].layers[0]) {
      status = bind_value(c, i, &inputs[i]);
      continue;
    }
    if ((status = bind_input(c, i, &inputs[i]))) break;
    for (int axis = 0; axis < m->inputs[i].rank; axis++)
      if (m->inputs[i].dims[axis] < 0) *dims++ = dims_of(&m->inputs[i], &inputs[i])[axis];
  }
  /* Only now, since one input may lie in the copy that was made of another. */
  for (int i = 0; i < m->n_inputs; i++)
    if (c->fresh[i].data) {
      block_free(&c->staging[i]);
      c->staging[i] = c->fresh[i];
      c->fresh[i] = (block){0};
    }
  return status;
}

/* The bytes that a tensor spans; with strides of either sign. */
void span_of(const DLTensor *t, uintptr_t *low, uintptr_t *high) {
  stepwell_slot slot = {.rank = t->ndim, .bits = t->dtype.bits};
  size_t bytes;
  *low = *high = (uintptr_t)data_of(t);
  if (!t->data || !byte_count(&slot, t->shape, &bytes) || !bytes) return;
  if (row_major(t)) {
    *high += bytes;
    return;
  }
  int64_t width = (int64_t)element_bytes(&slot);
  for (int i = 0; i < t->ndim; i++) {
    int64_t reach = (t->shape[i] - 1) * t->strides[i] * width;
    *(reach < 0 ? low : high) += (uintptr_t)reach;
  }
  *high += (uintptr_t)width;
}

/* The bytes of a tensor, or of the array of a tensor of strings. */
void span_of_value(const stepwell_value *v, uintptr_t *low, uintptr_t *high) {
  if (v->kind != STEPWELL_STRINGS) {
    span_of(&v->as.tensor, low, high);
    return;
  }
  stepwell_slot slot = {.rank = v->as.strings.ndim, .bits = 8 * sizeof(stepwell_string)};
  size_t bytes;
  *low = *high = (uintptr_t)v->as.strings.data;
  if (*low && byte_count(&slot, v->as.strings.shape, &bytes)) *high += bytes;
}

/* Whether the caller gave memory for an output. */
bool given(const stepwell_value *v) {
  return (v->kind == STEPWELL_TENSOR && v->as.tensor.data) || (v->kind == STEPWELL_STRINGS && v->as.strings.data);
}

/* Whether the context shall allocate an output: it is absent, or of its kind without data. */
static bool wanted(const stepwell_slot *s, const stepwell_value *v) {
  return v->kind == STEPWELL_ABSENT || (v->kind == (is_text(s) ? STEPWELL_STRINGS : STEPWELL_TENSOR) && !given(v));
}

static int check_layout(stepwell_context *c, const stepwell_slot *s, const stepwell_value *v) {
  size_t width = is_text(s) ? _Alignof(stepwell_string) : element_bytes(s);
  const char *data = is_text(s) ? (const char *)v->as.strings.data : data_of(&v->as.tensor);
  if (!is_text(s) && !row_major(&v->as.tensor))
    return fail(c, "output '%s': its buffer is strided; give a contiguous one, or none", s->name);
  if (!(width & (width - 1)) && (uintptr_t)data % width)
    return fail(c, "output '%s': its buffer is not aligned to %zu bytes; align it, or give none", s->name, width);
  return 0;
}

int check_outputs(stepwell_context *c, const stepwell_value *inputs, const stepwell_value *outputs) {
  const stepwell_model_table *m = &stepwell_model;
  for (int i = 0; i < m->n_outputs; i++) {
    const stepwell_slot *s = &m->outputs[i];
    if (s->layers[0]) continue; /* always the context's */
    if (wanted(s, &outputs[i])) continue;
    if (check_tensor(c, s, &outputs[i], false) || check_layout(c, s, &outputs[i])) return 1;
    uintptr_t low, high;
    span_of_value(&outputs[i], &low, &high);
    for (int j = 0; j < m->n_inputs; j++) {
      if (value_overlaps(&inputs[j], low, high))
        return fail(c, "output '%s' overlaps input '%s'; give it memory of its own", s->name, m->inputs[j].name);
    }
    for (int j = 0; j < i; j++) {
      if (m->outputs[j].layers[0] || !given(&outputs[j])) continue;
      if (value_overlaps(&outputs[j], low, high))
        return fail(c, "output '%s' overlaps output '%s'; give it memory of its own", s->name, m->outputs[j].name);
    }
  }
  return 0;
}
