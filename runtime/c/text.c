/* Strings: what the ops of the `text` dialect call, one function an op. Every array is a pointer and its number of
 * elements, results last, then numbers. Bytes of strings are never changed; new ones live until the next run begins.
 * Strings are UTF-8; a byte that is none is a character of its own, which no property holds of. */
#include <locale.h>

#include "internal.h"

typedef stepwell_string string;
typedef const string *strings;

static char *text_bytes(stepwell_context *c, size_t bytes) { return stepwell_rt_alloc(c, bytes > INT64_MAX ? -1 : (int64_t)bytes); }

static int order(const char *a, size_t n, const char *b, size_t m) {
  size_t least = n < m ? n : m;
  int sign = least ? memcmp(a, b, least) : 0;
  return sign ? sign : (n > m) - (n < m);
}

int stepwell_rt_text_view(stepwell_context *c, const char *bytes, int64_t size, const int64_t *offsets, int64_t n_offsets,
                          string *out, int64_t n) {
  (void)c, (void)size, (void)n_offsets;
  for (int64_t i = 0; i < n; i++) out[i] = (string){bytes + offsets[i], (size_t)(offsets[i + 1] - offsets[i])};
  return 0;
}

int stepwell_rt_text_equal(stepwell_context *c, strings x, int64_t n, strings y, int64_t m, uint8_t *out, int64_t k) {
  (void)c, (void)n, (void)m;
  for (int64_t i = 0; i < k; i++)
    out[i] = x[i].length == y[i].length && (!x[i].length || !memcmp(x[i].data, y[i].data, x[i].length));
  return 0;
}

int stepwell_rt_text_concat(stepwell_context *c, strings x, int64_t n, strings y, int64_t m, string *out, int64_t k) {
  (void)n, (void)m;
  size_t total = 0;
  for (int64_t i = 0; i < k; i++) total += x[i].length + y[i].length;
  char *to = text_bytes(c, total);
  if (!to) return 1;
  for (int64_t i = 0; i < k; i++) {
    string s = {to, x[i].length + y[i].length};
    if (x[i].length) memcpy(to, x[i].data, x[i].length);
    to += x[i].length;
    if (y[i].length) memcpy(to, y[i].data, y[i].length);
    to += y[i].length;
    out[i] = s;
  }
  return 0;
}

/* The character at `s`, and in `width` its bytes; -1 for a byte that begins none. */
static int32_t character(const unsigned char *s, size_t left, size_t *width) {
  static const int32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
  *width = 1;
  if (s[0] < 0x80) return s[0];
  size_t n = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : s[0] >= 0xC0 ? 2 : 0;
  if (!n || n > left || s[0] >= 0xF8) return -1;
  int32_t code = s[0] & (0x7F >> n);
  for (size_t i = 1; i < n; i++) {
    if ((s[i] & 0xC0) != 0x80) return -1;
    code = code << 6 | (s[i] & 0x3F);
  }
  if (code < least[n] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return -1;
  *width = n;
  return code;
}

static size_t encode(int32_t code, char *to) {
  if (code < 0x80) return to[0] = (char)code, 1;
  size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  for (size_t i = n; i-- > 1; code >>= 6) to[i] = (char)(0x80 | (code & 0x3F));
  to[0] = (char)(((0xF00 >> n) & 0xFF) | code);
  return n;
}

enum { RANGE = 4 }; /* first, last, step, distance */

/* Rows of `table` are ranges of characters in ascending order: each `step`-th becomes itself plus `distance`. */
static int32_t mapped_character(int32_t code, const int32_t *table, int64_t rows) {
  int64_t low = 0, high = rows;
  while (low < high) {
    int64_t middle = (low + high) / 2;
    if (table[middle * RANGE + 1] < code)
      low = middle + 1;
    else
      high = middle;
  }
  const int32_t *row = table + low * RANGE;
  return low < rows && row[0] <= code && (code - row[0]) % row[2] == 0 ? code + row[3] : code;
}

int stepwell_rt_text_map(stepwell_context *c, strings x, int64_t n, const int32_t *table, int64_t size, string *out, int64_t k) {
  (void)n;
  size_t total = 0;
  for (int64_t i = 0; i < k; i++) total += x[i].length;
  /* No character of one byte becomes one of several, and none more than twice as long. */
  char *to = text_bytes(c, 2 * total);
  if (!to) return 1;
  for (int64_t i = 0; i < k; i++) {
    const unsigned char *s = (const unsigned char *)x[i].data;
    char *begin = to;
    for (size_t at = 0, width; at < x[i].length; at += width) {
      int32_t code = character(s + at, x[i].length - at, &width);
      if (code < 0)
        *to++ = (char)s[at];
      else
        to += encode(mapped_character(code, table, size / RANGE), to);
    }
    out[i] = (string){begin, (size_t)(to - begin)};
  }
  return 0;
}

/* The place of each string among `words`, which are in ascending order of their bytes; -1 where it is none of them. */
int stepwell_rt_text_find(stepwell_context *c, strings x, int64_t n, const char *bytes, int64_t size, const int64_t *offsets,
                          int64_t n_offsets, int64_t *out, int64_t k) {
  (void)c, (void)n, (void)size;
  for (int64_t i = 0; i < k; i++) {
    int64_t low = 0, high = n_offsets - 1;
    out[i] = -1;
    while (low < high && out[i] < 0) {
      int64_t middle = (low + high) / 2;
      size_t length = (size_t)(offsets[middle + 1] - offsets[middle]);
      int sign = order(x[i].data, x[i].length, bytes + offsets[middle], length);
      if (!sign)
        out[i] = middle;
      else if (sign < 0)
        high = middle;
      else
        low = middle + 1;
    }
  }
  return 0;
}

typedef struct {
  string text;
  int64_t place;
} placed;

static int compare_placed(const void *a, const void *b) {
  const string *x = &((const placed *)a)->text, *y = &((const placed *)b)->text;
  return order(x->data, x->length, y->data, y->length);
}

/* For each string, how many different ones stand before it in the order of their bytes. */
int stepwell_rt_text_rank(stepwell_context *c, strings x, int64_t n, int64_t *out, int64_t k) {
  (void)n;
  placed *sorted = (placed *)text_bytes(c, (size_t)k * sizeof *sorted);
  if (!sorted) return 1;
  for (int64_t i = 0; i < k; i++) sorted[i] = (placed){x[i], i};
  qsort(sorted, (size_t)k, sizeof *sorted, compare_placed);
  for (int64_t i = 0, rank = 0; i < k; i++) {
    if (i && compare_placed(&sorted[i - 1], &sorted[i])) rank++;
    out[sorted[i].place] = rank;
  }
  return 0;
}

/* An automaton over bytes: state 0 never accepts, state 1 is the first; a row of `next` has one entry a class. */
int stepwell_rt_text_match(stepwell_context *c, strings x, int64_t n, const uint8_t *classes, int64_t n_classes,
                           const int32_t *next, int64_t n_next, const uint8_t *accepts, int64_t states, uint8_t *out,
                           int64_t k) {
  (void)c, (void)n, (void)n_classes;
  int64_t columns = n_next / states;
  for (int64_t i = 0; i < k; i++) {
    const unsigned char *s = (const unsigned char *)x[i].data;
    int64_t state = 1;
    for (size_t at = 0; at < x[i].length && state; at++) state = next[state * columns + classes[s[at]]];
    out[i] = accepts[state];
  }
  return 0;
}

static bool is_space(int32_t code) {
  return (code >= 9 && code <= 13) || (code >= 28 && code <= 32) || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F ||
         code == 0x3000;
}

/* The bytes of white space (or of anything but white space) at `s`. */
static size_t run_of(const char *s, size_t left, bool space) {
  size_t at = 0, width;
  while (at < left && is_space(character((const unsigned char *)s + at, left - at, &width)) == space) at += width;
  return at;
}

/* The parts of `s` between delimiters, at most `limit` + 1 of them (any number if it is negative); their number. An empty
 * delimiter is white space: runs of it count once, and at both ends not at all. NULL `out`: only counted. */
static int64_t parts_of(string s, string delimiter, int64_t limit, string *out) {
  int64_t count = 0;
  const char *at = s.data;
  size_t left = s.length;
  if (!delimiter.length) {
    for (size_t skip = run_of(at, left, true); left > skip; count++) {
      at += skip, left -= skip;
      size_t length = count == limit ? left : run_of(at, left, false);
      if (out) out[count] = (string){at, length};
      at += length, left -= length;
      skip = run_of(at, left, true);
    }
    return count;
  }
  for (;; count++) {
    const char *end = count == limit || left < delimiter.length ? NULL : memmem(at, left, delimiter.data, delimiter.length);
    size_t length = end ? (size_t)(end - at) : left;
    if (out) out[count] = (string){at, length};
    if (!end) return count + 1;
    at = end + delimiter.length;
    left -= length + delimiter.length;
  }
}

int stepwell_rt_text_count(stepwell_context *c, strings x, int64_t n, const char *delimiter, int64_t size, int64_t *out,
                           int64_t k, int64_t limit) {
  (void)c, (void)n;
  for (int64_t i = 0; i < k; i++) out[i] = parts_of(x[i], (string){delimiter, (size_t)size}, limit, NULL);
  return 0;
}

int stepwell_rt_text_split(stepwell_context *c, strings x, int64_t n, const char *delimiter, int64_t size, string *out,
                           int64_t k, int64_t limit) {
  (void)c;
  int64_t width = n ? k / n : 0;
  for (int64_t i = 0; i < n && width; i++) {
    int64_t count = parts_of(x[i], (string){delimiter, (size_t)size}, limit, out + i * width);
    for (; count < width; count++) out[i * width + count] = (string){"", 0};
  }
  return 0;
}

static pthread_once_t locale_once = PTHREAD_ONCE_INIT;
static locale_t plain_locale;

static void make_locale(void) { plain_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); }

/* Numbers are written and read in the C locale, whatever the program has set; `locale` is this thread's own. */
static int enter_locale(stepwell_context *c, locale_t *locale) {
  pthread_once(&locale_once, make_locale);
  if (!plain_locale) return fail(c, "out of memory for the C locale");
  *locale = uselocale(plain_locale);
  return 0;
}

enum { NUMBER_BYTES = 512, SHOWN_BYTES = 60 };

static int not_a_number(stepwell_context *c, string s, const char *kind) {
  char shown[SHOWN_BYTES + 1];
  size_t length = s.length < SHOWN_BYTES ? s.length : SHOWN_BYTES;
  for (size_t i = 0; i < length; i++) shown[i] = (unsigned char)s.data[i] >= ' ' ? s.data[i] : '?';
  shown[length] = 0;
  return fail(c, "graph.cast: '%s'%s is not %s; pass strings that are", shown, s.length > length ? "..." : "", kind);
}

/* `s` without white space at its ends, terminated, in `buffer`; false where it is empty or no number is as long. */
static bool terminated(string s, char *buffer) {
  size_t begin = run_of(s.data, s.length, true), end = s.length;
  while (end > begin && is_space((unsigned char)s.data[end - 1])) end--;
  if (end == begin || end - begin >= NUMBER_BYTES) return false;
  memcpy(buffer, s.data + begin, end - begin);
  buffer[end - begin] = 0;
  return strlen(buffer) == end - begin;
}

static bool parsed(string s, double *wide, float *narrow) {
  char buffer[NUMBER_BYTES], *end;
  if (!terminated(s, buffer)) return false;
  if (narrow)
    *narrow = strtof(buffer, &end);
  else
    *wide = strtod(buffer, &end);
  return !*end;
}

int stepwell_rt_text_parse_f64(stepwell_context *c, strings x, int64_t n, double *out, int64_t k) {
  (void)n;
  locale_t own;
  int status = enter_locale(c, &own);
  if (status) return status;
  for (int64_t i = 0; i < k && !status; i++)
    if (!parsed(x[i], &out[i], NULL)) status = not_a_number(c, x[i], "a number");
  uselocale(own);
  return status;
}

int stepwell_rt_text_parse_f32(stepwell_context *c, strings x, int64_t n, float *out, int64_t k) {
  (void)n;
  locale_t own;
  int status = enter_locale(c, &own);
  if (status) return status;
  for (int64_t i = 0; i < k && !status; i++)
    if (!parsed(x[i], NULL, &out[i])) status = not_a_number(c, x[i], "a number");
  uselocale(own);
  return status;
}

/* Decimal digits exactly; a number with a fraction or an exponent is cut to an integer. */
static bool parsed_integer(string s, int64_t *out, bool is_unsigned) {
  char buffer[NUMBER_BYTES], *end;
  if (!terminated(s, buffer)) return false;
  errno = 0;
  bool minus = buffer[0] == '-';
  *out = is_unsigned && !minus ? (int64_t)strtoull(buffer, &end, 10) : strtoll(buffer, &end, 10);
  if (!*end) return !errno;
  double value = strtod(buffer, &end);
  if (*end || !(value >= -0x1p63 && value < (is_unsigned ? 0x1p64 : 0x1p63))) return false;
  *out = value >= 0x1p63 ? (int64_t)(uint64_t)value : (int64_t)value;
  return true;
}

int stepwell_rt_text_parse_i64(stepwell_context *c, strings x, int64_t n, int64_t *out, int64_t k, int64_t is_unsigned) {
  (void)n;
  locale_t own;
  int status = enter_locale(c, &own);
  if (status) return status;
  for (int64_t i = 0; i < k && !status; i++)
    if (!parsed_integer(x[i], &out[i], is_unsigned)) status = not_a_number(c, x[i], "an integer of 64 bits");
  uselocale(own);
  return status;
}

enum { FORMATTED_BYTES = 32 };

static int formatted_float(char *to, double value, int64_t digits) {
  if (value != value) return snprintf(to, FORMATTED_BYTES, "NaN");
  if (value - value != 0) return snprintf(to, FORMATTED_BYTES, value < 0 ? "-INF" : "INF");
  return snprintf(to, FORMATTED_BYTES, "%.*g", (int)digits, value);
}

int stepwell_rt_text_format_f64(stepwell_context *c, const double *x, int64_t n, string *out, int64_t k, int64_t digits) {
  (void)n;
  locale_t own;
  char *to = text_bytes(c, (size_t)k * FORMATTED_BYTES);
  if (!to || enter_locale(c, &own)) return 1;
  for (int64_t i = 0; i < k; i++, to += FORMATTED_BYTES)
    out[i] = (string){to, (size_t)formatted_float(to, x[i], digits)};
  uselocale(own);
  return 0;
}

int stepwell_rt_text_format_fixed(stepwell_context *c, const double *x, int64_t n, string *out, int64_t k, int64_t digits) {
  (void)n;
  locale_t own;
  size_t bytes = 1; /* snprintf ends each string with a zero, which the next one overwrites */
  if (enter_locale(c, &own)) return 1;
  for (int64_t i = 0; i < k; i++) bytes += (size_t)snprintf(NULL, 0, "%.*f", (int)digits, x[i]);
  char *to = text_bytes(c, bytes);
  for (int64_t i = 0; to && i < k; i++) {
    int length = snprintf(to, bytes, "%.*f", (int)digits, x[i]);
    out[i] = (string){to, (size_t)length};
    to += length;
    bytes -= (size_t)length;
  }
  uselocale(own);
  return !to;
}

int stepwell_rt_text_format_i64(stepwell_context *c, const int64_t *x, int64_t n, string *out, int64_t k, int64_t is_unsigned) {
  (void)n;
  char *to = text_bytes(c, (size_t)k * FORMATTED_BYTES);
  if (!to) return 1;
  for (int64_t i = 0; i < k; i++, to += FORMATTED_BYTES) {
    int length = is_unsigned ? snprintf(to, FORMATTED_BYTES, "%llu", (unsigned long long)x[i])
                             : snprintf(to, FORMATTED_BYTES, "%lld", (long long)x[i]);
    out[i] = (string){to, (size_t)length};
  }
  return 0;
}

/* How often each n-gram occurs in each row of `items`, at the place in its row of `out` that `places` gives it. Those of one
 * length n stand in `grams` in ascending order, n items each; `table` has (n, first item, first gram, grams) for each n. */
static int64_t gram_at(const int64_t *items, int64_t step, const int64_t *grams, int64_t n, int64_t count) {
  int64_t low = 0, high = count;
  while (low < high) {
    int64_t middle = (low + high) / 2, at = 0;
    const int64_t *gram = grams + middle * n;
    while (at < n && items[at * step] == gram[at]) at++;
    if (at == n) return middle;
    if (items[at * step] < gram[at])
      high = middle;
    else
      low = middle + 1;
  }
  return -1;
}

int stepwell_rt_text_grams(stepwell_context *c, const int64_t *items, int64_t n_items, const int64_t *grams, int64_t n_grams,
                           const int64_t *places, int64_t n_places, const int64_t *table, int64_t n_table, float *out,
                           int64_t k, int64_t columns, int64_t most_skipped) {
  (void)c, (void)n_grams, (void)n_places;
  int64_t rows = columns ? k / columns : 0, length = rows ? n_items / rows : 0;
  for (int64_t i = 0; i < k; i++) out[i] = 0;
  for (int64_t row = 0; row < rows; row++, items += length, out += columns)
    for (const int64_t *t = table; t < table + n_table; t += 4)
      /* A single item has no gaps to skip, and no gap is longer than the row. */
      for (int64_t n = t[0], step = 1, last = n > 1 ? most_skipped : 0; step <= length && step - 1 <= last; step++)
        for (int64_t first = 0; first + (n - 1) * step < length; first++) {
          int64_t found = gram_at(items + first, step, grams + t[1], n, t[3]);
          if (found >= 0) out[places[t[2] + found]] += 1;
        }
  return 0;
}
