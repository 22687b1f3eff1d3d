/* Sequences, optionals and maps: immutable values, made during a run, that live until the next one begins.
 *
 * A value is a `const stepwell_value *`. What an absent optional is, its kind says; an optional that holds something
 * is what it holds. Operations make new values and
 * share elements. During a run a tensor of strings is one of elements of 16 bytes; at the interface it has a kind of its
 * own. */
#include "internal.h"

/* The array behind a sequence. Sequences share it: each sees its own first `count` elements, and one that sees all
 * that are used may append in place, so that n insertions at the end cost O(n). */
typedef struct {
  size_t capacity;
  size_t used;
  stepwell_value values[];
} storage;

static storage *storage_of(const stepwell_value *sequence) {
  return (storage *)((char *)sequence->as.sequence.values - offsetof(storage, values));
}

static size_t align(size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

/* What the data of a tensor without elements points to: kernels may read an element and throw it away. */
static _Alignas(ALIGNMENT) const char nothing[ALIGNMENT];

static const DLDataType STRING_TYPE = {STEPWELL_STRING_CODE, 8 * sizeof(stepwell_string), 1};

static const char *kind_name(int32_t kind) {
  static const char *const names[] = {"an absent value", "a tensor", "a tensor of strings", "a sequence",
                                      "a map"};
  return kind >= 0 && kind <= STEPWELL_MAP ? names[kind] : "a value of an unknown kind";
}

static size_t tensor_bytes(const DLTensor *t) {
  size_t bytes = (t->dtype.bits + 7u) / 8u;
  for (int i = 0; i < t->ndim; i++) bytes *= (size_t)t->shape[i];
  return bytes;
}

/* --- inputs ------------------------------------------------------------------------------------------------- */

static bool lies_in_chunks(const stepwell_context *c, const char *data) {
  for (const chunk *k = c->chunks; k; k = k->next)
    if (data >= k->memory.data && data < k->memory.data + k->memory.capacity) return true;
  return false;
}

static char *data_at(const DLTensor *t) { return (char *)t->data + t->byte_offset; }

/* Whether an element has to be copied: generated code reads contiguous, aligned memory that this run leaves alone. */
static bool needs_copy(const stepwell_context *c, const DLTensor *t) {
  size_t width = (t->dtype.bits + 7u) / 8u, alignment = width & (width - 1) ? 1 : width;
  char *data = data_at(t);
  return !row_major(t) || (uintptr_t)data % alignment || lies_in_chunks(c, data) || lies_in_outputs(c, data);
}

/* The slot of one element, which is called `name[position]` in messages. */
static stepwell_slot element_slot(const stepwell_slot *s, size_t position, char *name, size_t size) {
  stepwell_slot element = *s;
  snprintf(name, size, "%s[%zu]", s->name, position);
  element.name = name;
  element.layers++;
  return element;
}

static int check_element(stepwell_context *c, const stepwell_slot *s, const stepwell_value *v) {
  static const int64_t any[MAX_RANK] = {[0 ... MAX_RANK - 1] = STEPWELL_ANY};
  bool text = s->code == STEPWELL_STRING_CODE;
  if (s->rank >= 0 || v->kind != (text ? STEPWELL_STRINGS : STEPWELL_TENSOR)) return check_tensor(c, s, v, true);
  stepwell_slot slot = *s;
  slot.rank = text ? v->as.strings.ndim : v->as.tensor.ndim;
  slot.dims = any;
  if (slot.rank < 0 || slot.rank > MAX_RANK)
    return fail(c, "input '%s': rank %d, expected 0 to %d", s->name, slot.rank, MAX_RANK);
  return check_tensor(c, &slot, v, true);
}

/* The extent of a tensor of rank 1, of strings or not. */
static int64_t length_of(const stepwell_value *v) {
  return v->kind == STEPWELL_STRINGS ? v->as.strings.shape[0] : v->as.tensor.shape[0];
}

static size_t string_count(const stepwell_string_tensor *t) {
  size_t count = 1;
  for (int i = 0; i < t->ndim; i++) count *= (size_t)t->shape[i];
  return count;
}

/* String `i` of a table of any alignment. */
static stepwell_string string_at(const void *table, size_t i) {
  stepwell_string text;
  memcpy(&text, (const char *)table + i * sizeof text, sizeof text);
  return text;
}

static size_t string_bytes(const void *table, size_t count) {
  size_t bytes = 0;
  for (size_t i = 0; i < count; i++) bytes += string_at(table, i).length;
  return bytes;
}

/* Copy strings with their bytes, which go to `bytes`. */
static void copy_strings(stepwell_string *to, const void *table, size_t count, char *bytes) {
  for (size_t i = 0; i < count; i++) {
    stepwell_string text = string_at(table, i);
    if (text.length) memcpy(bytes, text.data, text.length);
    to[i] = (stepwell_string){bytes, text.length};
    bytes += text.length;
  }
}

static int measure_value(stepwell_context *c, const stepwell_slot *s, const stepwell_value *v, size_t *bytes);

/* A map as two tensors, `name.keys` and `name.values`, of one length that nobody asks for. */
static int measure_map(stepwell_context *c, const stepwell_slot *s, const stepwell_value *v, size_t *bytes) {
  static const int64_t any[] = {STEPWELL_ANY};
  if (v->kind != STEPWELL_MAP) return fail(c, "input '%s': %s, expected a map", s->name, kind_name(v->kind));
  const stepwell_map *m = &v->as.map;
  if (!m->keys || !m->values) return fail(c, "input '%s': its keys or its values are NULL", s->name);
  bool text = s->layers[0] == 't';
  char name[2][128];
  snprintf(name[0], sizeof name[0], "%s.keys", s->name);
  snprintf(name[1], sizeof name[1], "%s.values", s->name);
  stepwell_slot keys = {name[0], text ? "string" : "int64", any, 1, text ? STEPWELL_STRING_CODE : kDLInt,
                        text ? 8 * sizeof(stepwell_string) : 64, ""};
  stepwell_slot values = {name[1], s->dtype, any, 1, s->code, s->bits, ""};
  *bytes += 2 * align(sizeof(stepwell_value));
  if (measure_value(c, &keys, m->keys, bytes) || measure_value(c, &values, m->values, bytes)) return 1;
  long long n = (long long)length_of(m->keys), k = (long long)length_of(m->values);
  return n == k ? 0 : fail(c, "input '%s': %lld keys for %lld values", s->name, n, k);
}

/* Check `v` against the slot, and add up the bytes that `copy_value` will take. */
static int measure_value(stepwell_context *c, const stepwell_slot *s, const stepwell_value *v, size_t *bytes) {
  if (s->layers[0] == 'o') {
    if (v->kind == STEPWELL_ABSENT) return 0;
    stepwell_slot held = *s;
    held.layers++;
    return measure_value(c, &held, v, bytes);
  }
  if (s->layers[0] == 'i' || s->layers[0] == 't') return measure_map(c, s, v, bytes);
  if (s->layers[0] == 's') {
    if (v->kind != STEPWELL_SEQUENCE) return fail(c, "input '%s': %s, expected a sequence", s->name, kind_name(v->kind));
    const stepwell_sequence *q = &v->as.sequence;
    if (q->count && !q->values) return fail(c, "input '%s': the array of its %zu elements is NULL", s->name, q->count);
    if (q->count > SIZE_MAX / 4 / sizeof(stepwell_value))
      return fail(c, "input '%s': %zu elements are more than can be addressed", s->name, q->count);
    *bytes += align(sizeof(storage) + q->count * sizeof(stepwell_value));
    for (size_t i = 0; i < q->count; i++) {
      char name[128];
      stepwell_slot element = element_slot(s, i, name, sizeof name);
      if (measure_value(c, &element, &q->values[i], bytes)) return 1;
    }
    return 0;
  }
  if (check_element(c, s, v)) return 1;
  if (v->kind == STEPWELL_STRINGS) {
    const stepwell_string_tensor *t = &v->as.strings;
    size_t count = string_count(t);
    *bytes += align(2 * (size_t)t->ndim * sizeof(int64_t)) + align(count * sizeof *t->data);
    *bytes += align(string_bytes(t->data, count));
    return 0;
  }
  const DLTensor *t = &v->as.tensor;
  *bytes += align(2 * (size_t)t->ndim * sizeof(int64_t));
  if (tensor_bytes(t) && needs_copy(c, t)) *bytes += align(tensor_bytes(t));
  return 0;
}

static void *take(char **cursor, size_t bytes) {
  char *place = *cursor;
  *cursor += align(bytes);
  return place;
}

static void fill_tensor(DLTensor *t, DLDataType dtype, int32_t rank, const int64_t *shape, int64_t *own, void *data) {
  memset(t, 0, sizeof *t);
  t->device.device_type = kDLCPU;
  t->dtype = dtype;
  t->ndim = rank;
  t->shape = own;
  t->strides = own + rank;
  t->data = data;
  int64_t stride = 1;
  for (int32_t i = rank; i-- > 0;) {
    own[i] = shape[i];
    own[rank + i] = stride;
    stride *= shape[i] ? shape[i] : 1;
  }
}

static void copy_elements(char *to, const DLTensor *t) {
  if (row_major(t))
    memcpy(to, data_at(t), tensor_bytes(t));
  else
    copy_strided(&to, data_at(t), t, (t->dtype.bits + 7u) / 8u, 0);
}

/* The context's own form of a value that was measured: its arrays at `cursor`, its data shared where that may be. */
static void copy_value(stepwell_context *c, const stepwell_value *v, stepwell_value *own, char **cursor) {
  memset(own, 0, sizeof *own);
  own->kind = v->kind;
  if (v->kind == STEPWELL_SEQUENCE) {
    const stepwell_sequence *q = &v->as.sequence;
    storage *array = take(cursor, sizeof(storage) + q->count * sizeof(stepwell_value));
    array->capacity = array->used = q->count;
    own->as.sequence = (stepwell_sequence){array->values, q->count};
    for (size_t i = 0; i < q->count; i++) copy_value(c, &q->values[i], &array->values[i], cursor);
  } else if (v->kind == STEPWELL_MAP) {
    own->as.map.keys = take(cursor, sizeof(stepwell_value));
    own->as.map.values = take(cursor, sizeof(stepwell_value));
    copy_value(c, v->as.map.keys, own->as.map.keys, cursor);
    copy_value(c, v->as.map.values, own->as.map.values, cursor);
  } else if (v->kind == STEPWELL_STRINGS) {
    const stepwell_string_tensor *t = &v->as.strings;
    size_t count = string_count(t);
    int64_t *shape = take(cursor, 2 * (size_t)t->ndim * sizeof(int64_t));
    stepwell_string *strings = count ? take(cursor, count * sizeof *strings) : (stepwell_string *)nothing;
    copy_strings(strings, t->data, count, take(cursor, string_bytes(t->data, count)));
    own->kind = STEPWELL_TENSOR;
    fill_tensor(&own->as.tensor, STRING_TYPE, t->ndim, t->shape, shape, strings);
  } else if (v->kind == STEPWELL_TENSOR) {
    const DLTensor *t = &v->as.tensor;
    int64_t *shape = take(cursor, 2 * (size_t)t->ndim * sizeof(int64_t));
    size_t bytes = tensor_bytes(t);
    char *data = bytes ? data_at(t) : (char *)nothing;
    if (bytes && needs_copy(c, t)) copy_elements(data = take(cursor, bytes), t);
    fill_tensor(&own->as.tensor, t->dtype, t->ndim, t->shape, shape, data);
  }
}

/* An input that is no plain tensor becomes a value of the context's own, and so `inputs[index]`. */
int bind_value(stepwell_context *c, int index, const stepwell_value *v) {
  const stepwell_slot *s = &stepwell_model.inputs[index];
  size_t bytes = align(sizeof(stepwell_value));
  if (measure_value(c, s, v, &bytes)) return 1;
  /* Strings of other inputs may lie in what this one was made of in the last run. */
  block *memory = s->code == STEPWELL_STRING_CODE || strchr(s->layers, 't') ? &c->fresh[index] : &c->staging[index];
  if (!block_reserve(memory, bytes)) return fail(c, "out of memory: %zu bytes for input '%s'", bytes, s->name);
  char *cursor = memory->data;
  stepwell_value *own = take(&cursor, sizeof *own);
  copy_value(c, v, own, &cursor);
  c->inputs[index] = own;
  return 0;
}

bool value_overlaps(const stepwell_value *v, uintptr_t low, uintptr_t high) {
  if (v->kind == STEPWELL_SEQUENCE) {
    for (size_t i = 0; i < v->as.sequence.count; i++)
      if (value_overlaps(&v->as.sequence.values[i], low, high)) return true;
    return false;
  }
  if (v->kind == STEPWELL_MAP)
    return value_overlaps(v->as.map.keys, low, high) || value_overlaps(v->as.map.values, low, high);
  uintptr_t from, to;
  if (v->kind != STEPWELL_TENSOR && v->kind != STEPWELL_STRINGS) return false;
  span_of_value(v, &from, &to);
  return low < to && from < high;
}

/* --- outputs ------------------------------------------------------------------------------------------------ */

static int export_value(stepwell_context *c, const stepwell_value *v, stepwell_value *out);

/* Keys that are those of `before`, the map in front in a sequence, are what they became there, in `done`. */
static int export_map(stepwell_context *c, const stepwell_value *v, const stepwell_value *before,
                      const stepwell_value *done, stepwell_value *out) {
  bool shared = before && before->kind == STEPWELL_MAP && before->as.map.keys == v->as.map.keys;
  stepwell_value *parts = stepwell_rt_alloc(c, (int64_t)((shared ? 1 : 2) * sizeof *parts));
  if (!parts || export_value(c, v->as.map.values, parts)) return 1;
  out->as.map.values = parts;
  out->as.map.keys = shared ? done->as.map.keys : parts + 1;
  return shared ? 0 : export_value(c, v->as.map.keys, parts + 1);
}

/* A copy of `v` in which nothing is the memory of an input. */
static int export_value(stepwell_context *c, const stepwell_value *v, stepwell_value *out) {
  *out = *v;
  if (v->kind == STEPWELL_SEQUENCE) {
    size_t count = v->as.sequence.count;
    stepwell_value *values = stepwell_rt_alloc(c, (int64_t)(count * sizeof *values));
    if (!values) return 1;
    out->as.sequence.values = values;
    for (size_t i = 0; i < count; i++) {
      const stepwell_value *item = &v->as.sequence.values[i];
      values[i] = *item;
      if (item->kind == STEPWELL_MAP ? export_map(c, item, i ? item - 1 : NULL, i ? &values[i - 1] : NULL, &values[i])
                                     : export_value(c, item, &values[i]))
        return 1;
    }
  } else if (v->kind == STEPWELL_MAP) {
    return export_map(c, v, NULL, NULL, out);
  } else if (v->kind == STEPWELL_TENSOR && v->as.tensor.dtype.code == STEPWELL_STRING_CODE) {
    const DLTensor *t = &v->as.tensor;
    size_t count = tensor_bytes(t) / sizeof(stepwell_string);
    stepwell_string *strings = stepwell_rt_alloc(c, (int64_t)tensor_bytes(t));
    char *bytes = stepwell_rt_alloc(c, (int64_t)string_bytes(t->data, count));
    int64_t *shape = stepwell_rt_alloc(c, t->ndim * (int64_t)sizeof *shape);
    if (!strings || !bytes || !shape) return 1;
    copy_strings(strings, t->data, count, bytes);
    for (int i = 0; i < t->ndim; i++) shape[i] = t->shape[i];
    memset(out, 0, sizeof *out);
    out->kind = STEPWELL_STRINGS;
    out->as.strings = (stepwell_string_tensor){strings, shape, t->ndim};
  } else if (v->kind == STEPWELL_TENSOR && !lies_in_chunks(c, v->as.tensor.data)) {
    const DLTensor *t = &v->as.tensor;
    int64_t *shape = stepwell_rt_alloc(c, 2 * t->ndim * (int64_t)sizeof *shape);
    char *data = stepwell_rt_alloc(c, (int64_t)tensor_bytes(t));
    if (!shape || !data) return 1;
    memcpy(data, t->data, tensor_bytes(t));
    fill_tensor(&out->as.tensor, t->dtype, t->ndim, t->shape, shape, data);
  }
  return 0;
}

int32_t stepwell_rt_output_value(stepwell_context *c, int64_t index, const stepwell_value *v) {
  const stepwell_model_table *m = &stepwell_model;
  if (index < 0 || index >= m->n_outputs || !m->outputs[index].layers[0])
    return fail(c, "internal: output %lld is a plain tensor", (long long)index);
  stepwell_value *copy = stepwell_rt_alloc(c, sizeof *copy);
  if (!copy || export_value(c, v, copy)) return 1;
  c->outputs[index].value = copy;
  return 0;
}

/* --- what generated code calls ------------------------------------------------------------------------------ */

static DLDataType unpack_type(int64_t type) { return (DLDataType){(uint8_t)(type >> 8), (uint8_t)type, 1}; }

const stepwell_value *stepwell_rt_absent(stepwell_context *c) {
  static const stepwell_value absent;
  (void)c;
  return &absent;
}

const stepwell_value *stepwell_rt_wrap(stepwell_context *c, const void *data, int64_t type, int64_t rank,
                                       const int64_t *layout) {
  DLTensor source = {.data = (void *)data,
                     .ndim = (int32_t)rank,
                     .dtype = unpack_type(type),
                     .shape = (int64_t *)layout,
                     .strides = (int64_t *)layout + rank};
  stepwell_slot slot = {.rank = (int32_t)rank, .bits = source.dtype.bits};
  size_t bytes;
  if (!byte_count(&slot, layout, &bytes)) return fail(c, "an element of a sequence cannot be addressed"), NULL;
  stepwell_value *v = stepwell_rt_alloc(c, (int64_t)(align(sizeof *v) + 2 * (size_t)rank * sizeof(int64_t)));
  char *own = stepwell_rt_alloc(c, (int64_t)bytes);
  if (!v || !own) return NULL;
  if (bytes) copy_elements(own, &source);
  memset(v, 0, sizeof *v);
  v->kind = STEPWELL_TENSOR;
  fill_tensor(&v->as.tensor, source.dtype, source.ndim, layout, (int64_t *)((char *)v + align(sizeof *v)), own);
  return v;
}

void *stepwell_rt_unwrap(stepwell_context *c, const stepwell_value *v, int64_t type, int64_t rank, int64_t *dims) {
  if (v->kind != STEPWELL_TENSOR) return fail(c, "%s where the model reads a tensor", kind_name(v->kind)), NULL;
  const DLTensor *t = &v->as.tensor;
  DLDataType want = unpack_type(type);
  if (t->dtype.code != want.code || t->dtype.bits != want.bits)
    return fail(c, "an element of type (code %d, %d bits) where the model reads (code %d, %d bits)", t->dtype.code,
                t->dtype.bits, want.code, want.bits),
           NULL;
  if (t->ndim != rank)
    return fail(c, "an element of rank %d where the model reads rank %lld; pass elements of rank %lld", t->ndim,
                (long long)rank, (long long)rank),
           NULL;
  for (int64_t i = 0; i < rank; i++) {
    if (dims[i] >= 0 && dims[i] != t->shape[i])
      return fail(c, "an element with the extent %lld on axis %lld where the model reads %lld", (long long)t->shape[i],
                  (long long)i, (long long)dims[i]),
             NULL;
    dims[i] = t->shape[i];
  }
  return t->data;
}

int32_t stepwell_rt_present(stepwell_context *c, const stepwell_value *v) {
  (void)c;
  return v->kind != STEPWELL_ABSENT;
}

/* Every sequence op begins here: an absent optional is no sequence. */
static int check_sequence(stepwell_context *c, const stepwell_value *s) {
  return s->kind == STEPWELL_SEQUENCE ? 0 : fail(c, "%s where the model reads a sequence", kind_name(s->kind));
}

int64_t stepwell_rt_length(stepwell_context *c, const stepwell_value *s) {
  return check_sequence(c, s) ? -1 : (int64_t)s->as.sequence.count;
}

/* The place that `position` means, a negative one from the end; -1, with the error set, where there is none. */
static int64_t place_of(stepwell_context *c, const stepwell_value *s, int64_t position, bool end) {
  if (check_sequence(c, s)) return -1;
  int64_t count = (int64_t)s->as.sequence.count, place = position < 0 ? position + count : position;
  if (place >= 0 && place < count + end) return place;
  fail(c, "position %lld of a sequence of %lld elements", (long long)position, (long long)count);
  return -1;
}

const stepwell_value *stepwell_rt_at(stepwell_context *c, const stepwell_value *s, int64_t position) {
  int64_t place = place_of(c, s, position, false);
  return place < 0 ? NULL : &s->as.sequence.values[place];
}

static stepwell_value *sequence_on(stepwell_context *c, storage *array, size_t count) {
  stepwell_value *s = stepwell_rt_alloc(c, sizeof *s);
  if (!s) return NULL;
  memset(s, 0, sizeof *s);
  s->kind = STEPWELL_SEQUENCE;
  s->as.sequence = (stepwell_sequence){array->values, count};
  return s;
}

static storage *new_storage(stepwell_context *c, size_t used, size_t capacity) {
  storage *array = stepwell_rt_alloc(c, (int64_t)(sizeof *array + capacity * sizeof(stepwell_value)));
  if (array) *array = (storage){.capacity = capacity, .used = used};
  return array;
}

const stepwell_value *stepwell_rt_empty(stepwell_context *c) {
  storage *array = new_storage(c, 0, 4);
  return array ? sequence_on(c, array, 0) : NULL;
}

const stepwell_value *stepwell_rt_insert(stepwell_context *c, const stepwell_value *s, const stepwell_value *v,
                                         int64_t position) {
  int64_t place = place_of(c, s, position, true);
  if (place < 0) return NULL;
  size_t count = s->as.sequence.count, at = (size_t)place;
  storage *array = storage_of(s);
  if (at != count || array->used != count || array->capacity == count) {
    size_t room = at == count ? 2 * count + 4 : count + 1;
    storage *grown = new_storage(c, count, room);
    if (!grown) return NULL;
    memcpy(grown->values, array->values, at * sizeof *v);
    memcpy(grown->values + at + 1, array->values + at, (count - at) * sizeof *v);
    array = grown;
  }
  array->values[at] = *v;
  array->used = count + 1;
  return sequence_on(c, array, count + 1);
}

const stepwell_value *stepwell_rt_erase(stepwell_context *c, const stepwell_value *s, int64_t position) {
  int64_t place = place_of(c, s, position, false);
  if (place < 0) return NULL;
  size_t count = s->as.sequence.count, at = (size_t)place;
  storage *array = storage_of(s);
  if (at + 1 == count) return sequence_on(c, array, at); /* a shorter view: appending to it copies */
  storage *shorter = new_storage(c, count - 1, count - 1);
  if (!shorter) return NULL;
  memcpy(shorter->values, array->values, at * sizeof *shorter->values);
  memcpy(shorter->values + at, array->values + at + 1, (count - at - 1) * sizeof *shorter->values);
  return sequence_on(c, shorter, count - 1);
}

static int check_part(stepwell_context *c, const stepwell_value *v) {
  if (v->kind == STEPWELL_TENSOR && v->as.tensor.ndim == 1) return 0;
  return v->kind == STEPWELL_TENSOR
             ? fail(c, "a tensor of rank %d where the model makes a map; give keys and values of rank 1", v->as.tensor.ndim)
             : fail(c, "%s where the model makes a map; give keys and values of rank 1", kind_name(v->kind));
}

const stepwell_value *stepwell_rt_map(stepwell_context *c, const stepwell_value *keys, const stepwell_value *values) {
  if (check_part(c, keys) || check_part(c, values)) return NULL;
  if (length_of(keys) != length_of(values))
    return fail(c, "%lld keys for %lld values of a map", (long long)length_of(keys), (long long)length_of(values)), NULL;
  stepwell_value *m = stepwell_rt_alloc(c, sizeof *m);
  if (!m) return NULL;
  memset(m, 0, sizeof *m);
  m->kind = STEPWELL_MAP;
  /* What is made during a run is never changed. */
  m->as.map = (stepwell_map){(stepwell_value *)keys, (stepwell_value *)values};
  return m;
}

static const stepwell_value *part_of(stepwell_context *c, const stepwell_value *m, bool keys) {
  if (m->kind != STEPWELL_MAP) return fail(c, "%s where the model reads a map", kind_name(m->kind)), NULL;
  return keys ? m->as.map.keys : m->as.map.values;
}

const stepwell_value *stepwell_rt_keys(stepwell_context *c, const stepwell_value *m) { return part_of(c, m, true); }

const stepwell_value *stepwell_rt_values(stepwell_context *c, const stepwell_value *m) { return part_of(c, m, false); }
