/* Decoding images: PNG, JPEG (baseline), BMP, PNM and TIFF (not compressed), to rows of red, green and blue bytes.
 * A stream comes from anywhere: every read is checked, and what is wrong with it ends as a status. */
#include "internal.h"

enum { IMAGE_OK = 0, IMAGE_UNKNOWN = 1, IMAGE_UNSUPPORTED = 2, IMAGE_DAMAGED = 3, IMAGE_MEMORY = 4 };
enum { MOST_SIDE = 1 << 20, MOST_PIXELS = 1 << 28 };

typedef struct {
  const uint8_t *data;
  size_t size;
} bytes;

typedef struct {
  int64_t width, height;
  uint8_t *rgb; /* NULL: only the extents are asked for */
} picture;

static uint32_t big(const uint8_t *p, int count) {
  uint32_t value = 0;
  for (int i = 0; i < count; i++) value = value << 8 | p[i];
  return value;
}

static uint32_t little(const uint8_t *p, int count) {
  uint32_t value = 0;
  for (int i = count; i--;) value = value << 8 | p[i];
  return value;
}

static int set_extents(picture *out, int64_t width, int64_t height) {
  if (width <= 0 || height <= 0) return IMAGE_DAMAGED;
  if (width > MOST_SIDE || height > MOST_SIDE || width * height > MOST_PIXELS) return IMAGE_UNSUPPORTED;
  if (out->rgb && (width != out->width || height != out->height)) return IMAGE_DAMAGED;
  out->width = width;
  out->height = height;
  return IMAGE_OK;
}

static void put(picture *out, int64_t x, int64_t y, int r, int g, int b) {
  uint8_t *at = out->rgb + 3 * (y * out->width + x);
  at[0] = (uint8_t)r, at[1] = (uint8_t)g, at[2] = (uint8_t)b;
}

/* --- inflate (RFC 1951) --- */

typedef struct {
  uint16_t counts[16], symbols[288];
} code_table;

typedef struct {
  bytes in;
  size_t at;
  uint32_t hold;
  int held;
  bool failed;
} bit_reader;

static uint32_t take_bits(bit_reader *r, int count) {
  while (r->held < count) {
    if (r->at >= r->in.size) {
      r->failed = true;
      return 0;
    }
    r->hold |= (uint32_t)r->in.data[r->at++] << r->held;
    r->held += 8;
  }
  uint32_t value = r->hold & ((1u << count) - 1);
  r->hold >>= count;
  r->held -= count;
  return value;
}

static bool make_code(code_table *code, const uint8_t *lengths, int count) {
  memset(code->counts, 0, sizeof code->counts);
  for (int i = 0; i < count; i++) code->counts[lengths[i]]++;
  int left = 1;
  uint16_t offsets[16];
  offsets[1] = 0;
  for (int length = 1; length < 16; length++) {
    left = 2 * left - code->counts[length];
    if (left < 0) return false;
    if (length < 15) offsets[length + 1] = (uint16_t)(offsets[length] + code->counts[length]);
  }
  for (int i = 0; i < count; i++)
    if (lengths[i]) code->symbols[offsets[lengths[i]]++] = (uint16_t)i;
  return true;
}

static int read_code(bit_reader *r, const code_table *code) {
  int value = 0, first = 0, index = 0;
  for (int length = 1; length < 16; length++) {
    value |= (int)take_bits(r, 1);
    if (r->failed) return -1;
    int count = code->counts[length];
    if (value - count < first) return code->symbols[index + value - first];
    index += count;
    first = (first + count) << 1;
    value <<= 1;
  }
  return -1;
}

static bool read_codes(bit_reader *r, code_table *literals, code_table *distances) {
  static const uint8_t order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
  uint8_t lengths[320] = {0};
  int literal_count = (int)take_bits(r, 5) + 257, distance_count = (int)take_bits(r, 5) + 1;
  int count = (int)take_bits(r, 4) + 4;
  for (int i = 0; i < count; i++) lengths[order[i]] = (uint8_t)take_bits(r, 3);
  code_table code;
  if (r->failed || literal_count > 286 || !make_code(&code, lengths, 19)) return false;
  memset(lengths, 0, sizeof lengths);
  for (int i = 0; i < literal_count + distance_count;) {
    int symbol = read_code(r, &code), repeat = 1;
    uint8_t length = (uint8_t)symbol;
    if (symbol < 0) return false;
    if (symbol >= 16) {
      if (symbol == 16 && !i) return false;
      length = symbol == 16 ? lengths[i - 1] : 0;
      repeat = symbol == 16   ? 3 + (int)take_bits(r, 2)
               : symbol == 17 ? 3 + (int)take_bits(r, 3)
                              : 11 + (int)take_bits(r, 7);
    }
    if (r->failed || i + repeat > literal_count + distance_count) return false;
    while (repeat--) lengths[i++] = length;
  }
  return make_code(literals, lengths, literal_count) &&
         make_code(distances, lengths + literal_count, distance_count);
}

static void fixed_codes(code_table *literals, code_table *distances) {
  uint8_t lengths[288];
  for (int i = 0; i < 288; i++) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
  make_code(literals, lengths, 288);
  memset(lengths, 5, 30);
  make_code(distances, lengths, 30);
}

/* The bytes that fit into `size` of what the zlib stream holds; how many, or -1 where it is damaged. */
static int64_t inflate(bytes in, uint8_t *out, size_t size) {
  static const uint16_t length_base[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                           31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
  static const uint8_t length_bits[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
  static const uint16_t distance_base[30] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
                                             193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
  static const uint8_t distance_bits[30] = {0, 0, 0, 0, 1, 1, 2, 2,  3,  3,  4,  4,  5,  5,  6,
                                            6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};
  bit_reader r = {.in = in, .at = 2};
  size_t done = 0;
  if (in.size < 2 || (in.data[0] & 15) != 8 || in.data[1] & 32) return -1;
  for (bool last = false; !last && done < size;) {
    last = take_bits(&r, 1);
    uint32_t kind = take_bits(&r, 2);
    if (r.failed || kind == 3) return -1;
    if (kind == 0) {
      r.hold = 0, r.held = 0;
      if (in.size - r.at < 4) return -1;
      size_t count = little(in.data + r.at, 2);
      if ((count ^ little(in.data + r.at + 2, 2)) != 0xffff) return -1;
      r.at += 4;
      if (in.size - r.at < count) return -1;
      size_t kept = count < size - done ? count : size - done;
      memcpy(out + done, in.data + r.at, kept);
      done += kept;
      r.at += count;
      continue;
    }
    code_table literals, distances;
    if (kind == 1) fixed_codes(&literals, &distances);
    if (kind == 2 && !read_codes(&r, &literals, &distances)) return -1;
    while (done < size) {
      int symbol = read_code(&r, &literals);
      if (symbol < 0) return -1;
      if (symbol == 256) break;
      if (symbol < 256) {
        out[done++] = (uint8_t)symbol;
        continue;
      }
      if (symbol > 285) return -1;
      size_t count = length_base[symbol - 257] + take_bits(&r, length_bits[symbol - 257]);
      symbol = read_code(&r, &distances);
      if (symbol < 0 || symbol > 29) return -1;
      size_t back = distance_base[symbol] + take_bits(&r, distance_bits[symbol]);
      if (r.failed || back > done) return -1;
      for (; count && done < size; count--, done++) out[done] = out[done - back];
    }
  }
  return (int64_t)done;
}

/* --- PNG --- */

typedef struct {
  int depth, colour, channels;
  const uint8_t *palette;
  size_t palette_size;
} png_format;

static int sample(const uint8_t *row, int64_t index, int depth) {
  if (depth == 8) return row[index];
  if (depth == 16) return row[2 * index]; /* the high byte */
  int64_t bit = index * depth;
  return row[bit / 8] >> (8 - depth - bit % 8) & ((1 << depth) - 1);
}

static int png_pixel(const png_format *f, const uint8_t *row, int64_t x, picture *out, int64_t to_x, int64_t to_y) {
  int v = sample(row, x * f->channels, f->depth);
  if (f->colour == 3) {
    if ((size_t)v * 3 + 3 > f->palette_size) return IMAGE_DAMAGED;
    const uint8_t *entry = f->palette + 3 * v;
    put(out, to_x, to_y, entry[0], entry[1], entry[2]);
  } else if (f->colour & 2) {
    put(out, to_x, to_y, v, sample(row, x * f->channels + 1, f->depth), sample(row, x * f->channels + 2, f->depth));
  } else {
    if (f->depth < 8) v = v * 255 / ((1 << f->depth) - 1);
    put(out, to_x, to_y, v, v, v);
  }
  return IMAGE_OK;
}

static bool unfilter(uint8_t *row, const uint8_t *above, size_t count, size_t step, int kind) {
  for (size_t i = 0; i < count; i++) {
    int a = i >= step ? row[i - step] : 0, b = above ? above[i] : 0, c = above && i >= step ? above[i - step] : 0;
    int p = a + b - c, pa = abs(p - a), pb = abs(p - b), pc = abs(p - c);
    int paeth = pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
    int guess[] = {0, a, b, (a + b) / 2, paeth};
    if (kind > 4) return false;
    row[i] = (uint8_t)(row[i] + guess[kind]);
  }
  return true;
}

/* The seven passes of Adam7, or the one of an image that is not interlaced: first column and row, and the steps. */
static const uint8_t PASSES[8][4] = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4}, {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}, {0, 0, 1, 1}};

static int png_rows(const png_format *f, uint8_t *data, size_t size, bool interlaced, picture *out) {
  size_t at = 0;
  for (int pass = interlaced ? 0 : 7; pass < (interlaced ? 7 : 8); pass++) {
    const uint8_t *p = PASSES[pass];
    int64_t width = (out->width - p[0] + p[2] - 1) / p[2], height = (out->height - p[1] + p[3] - 1) / p[3];
    if (width <= 0 || height <= 0) continue;
    size_t bits = (size_t)(f->channels * f->depth), row_bytes = ((size_t)width * bits + 7) / 8;
    uint8_t *above = NULL;
    for (int64_t y = 0; y < height; y++) {
      if (size - at < row_bytes + 1) return IMAGE_DAMAGED;
      uint8_t *row = data + at + 1;
      if (!unfilter(row, above, row_bytes, bits < 8 ? 1 : bits / 8, data[at])) return IMAGE_DAMAGED;
      for (int64_t x = 0; x < width; x++)
        if (png_pixel(f, row, x, out, p[0] + x * p[2], p[1] + y * p[3])) return IMAGE_DAMAGED;
      above = row;
      at += row_bytes + 1;
    }
  }
  return IMAGE_OK;
}

static int decode_png(bytes in, picture *out) {
  static const int channels[7] = {1, 0, 3, 1, 2, 0, 4};
  if (in.size < 33 || memcmp(in.data + 12, "IHDR", 4)) return IMAGE_DAMAGED;
  const uint8_t *header = in.data + 16;
  int status = set_extents(out, big(header, 4), big(header + 4, 4));
  png_format f = {.depth = header[8], .colour = header[9]};
  bool interlaced = header[12];
  if (status || f.colour > 6 || !channels[f.colour] || !f.depth || f.depth > 16 || f.depth & (f.depth - 1) ||
      (f.depth < 8 && f.colour != 0 && f.colour != 3) || header[12] > 1)
    return status ? status : IMAGE_DAMAGED;
  if (!out->rgb) return IMAGE_OK;
  f.channels = channels[f.colour];
  uint8_t *packed = malloc(in.size);
  size_t packed_size = 0;
  if (!packed) return IMAGE_MEMORY;
  for (size_t at = 8; in.size - at >= 12;) {
    size_t count = big(in.data + at, 4);
    const uint8_t *kind = in.data + at + 4;
    if (in.size - at - 12 < count) break;
    if (!memcmp(kind, "PLTE", 4)) f.palette = kind + 4, f.palette_size = count;
    if (!memcmp(kind, "IDAT", 4)) {
      memcpy(packed + packed_size, kind + 4, count);
      packed_size += count;
    }
    if (!memcmp(kind, "IEND", 4)) break;
    at += count + 12;
  }
  size_t bits = (size_t)(f.channels * f.depth);
  /* passes round each row up: at most 15 more bytes a row of all passes together */
  size_t room = ((size_t)out->width * bits / 8 + 16) * (size_t)out->height * (interlaced ? 2 : 1);
  uint8_t *data = malloc(room);
  int64_t made = data ? inflate((bytes){packed, packed_size}, data, room) : -1;
  status = !data ? IMAGE_MEMORY : made < 0 ? IMAGE_DAMAGED : png_rows(&f, data, (size_t)made, interlaced, out);
  free(data);
  free(packed);
  return status;
}

/* --- BMP --- */

static int decode_bmp(bytes in, picture *out) {
  if (in.size < 26) return IMAGE_DAMAGED;
  size_t start = little(in.data + 10, 4), header = little(in.data + 14, 4);
  const uint8_t *h = in.data + 14;
  bool core = header == 12;
  if ((!core && header < 40) || in.size < 14 + header || header > 1024) return IMAGE_DAMAGED;
  int64_t width = core ? (int64_t)little(h + 4, 2) : (int32_t)little(h + 4, 4);
  int64_t height = core ? (int64_t)little(h + 6, 2) : (int32_t)little(h + 8, 4);
  int depth = (int)little(h + (core ? 10 : 14), 2);
  uint32_t compression = core ? 0 : little(h + 16, 4);
  bool downwards = height < 0;
  int status = set_extents(out, width, downwards ? -height : height);
  if (status) return status;
  if (depth != 1 && depth != 4 && depth != 8 && depth != 24 && depth != 32) return IMAGE_UNSUPPORTED;
  if (compression != 0 && !(compression == 3 && depth == 32)) return IMAGE_UNSUPPORTED;
  if (!out->rgb) return IMAGE_OK;
  int shifts[3] = {16, 8, 0};
  size_t palette = 14 + header;
  if (compression == 3) {
    const uint8_t *masks = in.data + 54;
    if (in.size < 66) return IMAGE_DAMAGED;
    for (int i = 0; i < 3; i++) {
      uint32_t mask = little(masks + 4 * i, 4);
      shifts[i] = mask == 0xff000000u ? 24 : mask == 0xff0000 ? 16 : mask == 0xff00 ? 8 : mask == 0xff ? 0 : -1;
      if (shifts[i] < 0) return IMAGE_UNSUPPORTED;
    }
  }
  size_t row_bytes = ((size_t)out->width * (size_t)depth + 31) / 32 * 4, entry = core ? 3 : 4;
  if (start > in.size || (in.size - start) / row_bytes < (size_t)out->height) return IMAGE_DAMAGED;
  for (int64_t y = 0; y < out->height; y++) {
    const uint8_t *row = in.data + start + row_bytes * (size_t)(downwards ? y : out->height - 1 - y);
    for (int64_t x = 0; x < out->width; x++) {
      if (depth == 24) {
        put(out, x, y, row[3 * x + 2], row[3 * x + 1], row[3 * x]);
      } else if (depth == 32) {
        uint32_t v = little(row + 4 * x, 4);
        put(out, x, y, v >> shifts[0] & 255, v >> shifts[1] & 255, v >> shifts[2] & 255);
      } else {
        size_t at = palette + entry * (size_t)sample(row, x, depth);
        if (at + 3 > in.size) return IMAGE_DAMAGED;
        put(out, x, y, in.data[at + 2], in.data[at + 1], in.data[at]);
      }
    }
  }
  return IMAGE_OK;
}

/* --- PNM --- */

static bool pnm_number(bytes in, size_t *at, int64_t *value) {
  while (*at < in.size && (in.data[*at] == '#' || in.data[*at] <= ' ')) {
    if (in.data[*at] == '#')
      while (*at < in.size && in.data[*at] != '\n') ++*at;
    else
      ++*at;
  }
  size_t from = *at;
  for (*value = 0; *at < in.size && in.data[*at] >= '0' && in.data[*at] <= '9' && *value < 1 << 28; ++*at)
    *value = *value * 10 + in.data[*at] - '0';
  return *at > from;
}

static int decode_pnm(bytes in, picture *out) {
  int kind = in.data[1] - '0';
  size_t at = 2;
  int64_t width, height, most = 1;
  if (!pnm_number(in, &at, &width) || !pnm_number(in, &at, &height)) return IMAGE_DAMAGED;
  bool bitmap = kind == 1 || kind == 4, coloured = kind == 3 || kind == 6;
  if (!bitmap && !pnm_number(in, &at, &most)) return IMAGE_DAMAGED;
  int status = set_extents(out, width, height);
  if (status || most < 1 || most > 65535) return status ? status : IMAGE_DAMAGED;
  if (!out->rgb) return IMAGE_OK;
  if (kind > 3) at++;
  size_t channels = coloured ? 3 : 1, size = most > 255 ? 2 : 1;
  size_t row_bytes = kind == 4 ? ((size_t)width + 7) / 8 : (size_t)width * channels * size;
  if (kind > 3 && (at > in.size || (in.size - at) / row_bytes < (size_t)height)) return IMAGE_DAMAGED;
  for (int64_t y = 0; y < height; y++) {
    const uint8_t *row = kind > 3 ? in.data + at + row_bytes * (size_t)y : NULL;
    for (int64_t x = 0; x < width; x++) {
      int v[3];
      for (size_t c = 0; c < channels; c++) {
        int64_t value = 0;
        size_t index = (size_t)x * channels + c;
        if (kind == 4) {
          value = sample(row, x, 1);
        } else if (row) {
          value = big(row + index * size, (int)size);
        } else if (kind == 1) { /* digits need no space between them */
          while (at < in.size && in.data[at] != '0' && in.data[at] != '1') at++;
          if (at == in.size) return IMAGE_DAMAGED;
          value = in.data[at++] - '0';
        } else if (!pnm_number(in, &at, &value)) {
          return IMAGE_DAMAGED;
        }
        if (value > most) value = most;
        v[c] = bitmap ? (value ? 0 : 255) : (int)((value * 255 + most / 2) / most);
      }
      put(out, x, y, v[0], v[coloured ? 1 : 0], v[coloured ? 2 : 0]);
    }
  }
  return IMAGE_OK;
}

/* --- TIFF, not compressed --- */

typedef struct {
  bytes in;
  bool big_endian;
} tiff_file;

static uint32_t tiff_word(const tiff_file *f, size_t at, int count) {
  if (at > f->in.size || f->in.size - at < (size_t)count) return 0;
  return f->big_endian ? big(f->in.data + at, count) : little(f->in.data + at, count);
}

/* Value `index` of the entry of a tag, which holds shorts or longs. */
static uint32_t tiff_value(const tiff_file *f, int tag, uint32_t index, uint32_t fallback) {
  size_t directory = tiff_word(f, 4, 4);
  uint32_t count = tiff_word(f, directory, 2);
  for (uint32_t i = 0; i < count; i++) {
    size_t entry = directory + 2 + 12 * (size_t)i;
    if (tiff_word(f, entry, 2) != (uint32_t)tag) continue;
    int width = tiff_word(f, entry + 2, 2) == 3 ? 2 : tiff_word(f, entry + 2, 2) == 1 ? 1 : 4;
    uint32_t values = tiff_word(f, entry + 4, 4);
    if (index >= values) return fallback;
    size_t at = (size_t)values * (size_t)width <= 4 ? entry + 8 : tiff_word(f, entry + 8, 4);
    return tiff_word(f, at + (size_t)index * (size_t)width, width);
  }
  return fallback;
}

static int decode_tiff(bytes in, picture *out) {
  tiff_file f = {in, in.data[0] == 'M'};
  int status = set_extents(out, tiff_value(&f, 256, 0, 0), tiff_value(&f, 257, 0, 0));
  if (status) return status;
  uint32_t channels = tiff_value(&f, 277, 0, 1), kind = tiff_value(&f, 262, 0, 1);
  uint32_t rows = tiff_value(&f, 278, 0, (uint32_t)out->height);
  bool plain = tiff_value(&f, 259, 0, 1) == 1 && tiff_value(&f, 258, 0, 1) == 8 && tiff_value(&f, 284, 0, 1) == 1 &&
               tiff_value(&f, 322, 0, 0) == 0 && kind <= 3 && channels >= (kind == 2 ? 3 : 1) && channels <= 16;
  if (!plain) return IMAGE_UNSUPPORTED;
  if (!out->rgb) return IMAGE_OK;
  if (!rows) return IMAGE_DAMAGED;
  size_t row_bytes = (size_t)out->width * channels;
  for (int64_t y = 0; y < out->height; y++) {
    size_t at = tiff_value(&f, 273, (uint32_t)y / rows, 0) + (size_t)((uint32_t)y % rows) * row_bytes;
    if (at < 8 || at > in.size || in.size - at < row_bytes) return IMAGE_DAMAGED;
    for (int64_t x = 0; x < out->width; x++) {
      const uint8_t *p = in.data + at + (size_t)x * channels;
      int v = kind == 0 ? 255 - p[0] : p[0];
      if (kind == 2)
        put(out, x, y, p[0], p[1], p[2]);
      else if (kind == 3)
        put(out, x, y, (int)(tiff_value(&f, 320, (uint32_t)v, 0) >> 8), (int)(tiff_value(&f, 320, 256 + (uint32_t)v, 0) >> 8),
            (int)(tiff_value(&f, 320, 512 + (uint32_t)v, 0) >> 8));
      else
        put(out, x, y, v, v, v);
    }
  }
  return IMAGE_OK;
}

static int decode_jpeg(bytes in, picture *out);

static int decode_image(bytes in, picture *out) {
  const uint8_t *p = in.data;
  if (in.size < 8) return IMAGE_UNKNOWN; /* the smallest image is a PNM of one bit */
  if (!memcmp(p, "\x89PNG\r\n\x1a\n", 8)) return decode_png(in, out);
  if (p[0] == 0xff && p[1] == 0xd8) return decode_jpeg(in, out);
  if (p[0] == 'B' && p[1] == 'M') return decode_bmp(in, out);
  if (p[0] == 'P' && p[1] >= '1' && p[1] <= '6' && (p[2] <= ' ' || p[2] == '#')) return decode_pnm(in, out);
  if (!memcmp(p, "II*\0", 4) || !memcmp(p, "MM\0*", 4)) return decode_tiff(in, out);
  bool webp = in.size >= 12 && !memcmp(p, "RIFF", 4) && !memcmp(p + 8, "WEBP", 4);
  bool jpeg_2000 = !memcmp(p + 4, "jP  ", 4) || !memcmp(p, "\xff\x4f\xff\x51", 4);
  return webp || jpeg_2000 || !memcmp(p, "GIF8", 4) ? IMAGE_UNSUPPORTED : IMAGE_UNKNOWN;
}

/* Buffers: the stream; then status, height and width of the image in it. */
void stepwell_rt_image_size(void *const *buffers, const int64_t *dims, int64_t begin, int64_t end, void *scratch) {
  (void)begin, (void)end, (void)scratch;
  picture image = {0};
  int status = decode_image((bytes){buffers[0], (size_t)dims[0]}, &image);
  int64_t found[3] = {status, status ? 0 : image.height, status ? 0 : image.width};
  memcpy(buffers[1], found, sizeof found);
}

/* Buffers: the stream; then its pixels [height, width, 3] of red, green and blue, and the status. */
void stepwell_rt_image_decode(void *const *buffers, const int64_t *dims, int64_t begin, int64_t end, void *scratch) {
  (void)begin, (void)end, (void)scratch;
  picture image = {.height = dims[1], .width = dims[2], .rgb = buffers[1]};
  int64_t status = decode_image((bytes){buffers[0], (size_t)dims[0]}, &image);
  if (status) memset(buffers[1], 0, (size_t)(dims[1] * dims[2] * 3));
  memcpy(buffers[2], &status, sizeof status);
}
