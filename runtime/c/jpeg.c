/* Baseline JPEG (ITU-T T.81), with the integer transform, the smooth upsampling and the colours of libjpeg: the same
 * bytes as it gives. Progressive and arithmetic streams, and four components, are not supported. */
#include "internal.h"

enum { MOST_COMPONENTS = 3 };

typedef struct {
  uint8_t counts[17], symbols[256];
  bool known;
} jpeg_code;

typedef struct {
  int id, h, v, table, dc, ac, last;
  int64_t width, height, stride; /* of the samples that the image covers, and of a row with its padding */
  uint8_t *plane;
} jpeg_component;

typedef struct {
  bytes in;
  size_t at;
  uint32_t hold;
  int held;
  bool failed;
  uint16_t quantisers[4][64];
  jpeg_code codes[2][4];
  jpeg_component parts[MOST_COMPONENTS];
  int count, most_h, most_v, restart, adobe;
  bool jfif;
  int64_t columns, rows; /* of units */
} jpeg;

static const uint8_t ZIGZAG[64] = {0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
                                   41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
                                   30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

static int jpeg_bits(jpeg *j, int count) {
  while (j->held < count) {
    if (j->at >= j->in.size || (j->in.data[j->at] == 0xff && (j->at + 1 >= j->in.size || j->in.data[j->at + 1]))) {
      j->failed = true;
      return 0;
    }
    uint8_t byte = j->in.data[j->at++];
    if (byte == 0xff) j->at++; /* a zero was stuffed behind it */
    j->hold = j->hold << 8 | byte;
    j->held += 8;
  }
  j->held -= count;
  return (int)(j->hold >> j->held & ((1u << count) - 1));
}

static int jpeg_symbol(jpeg *j, const jpeg_code *code) {
  int value = 0, first = 0, index = 0;
  for (int length = 1; length <= 16; length++) {
    value = value << 1 | jpeg_bits(j, 1);
    if (j->failed) return 0;
    int count = code->counts[length];
    if (value - first < count) return code->symbols[index + value - first];
    index += count;
    first = (first + count) << 1;
  }
  j->failed = true;
  return 0;
}

static int jpeg_signed(jpeg *j, int bits) {
  if (!bits) return 0;
  int value = jpeg_bits(j, bits);
  return value < 1 << (bits - 1) ? value - (1 << bits) + 1 : value;
}

/* Eight values `step` apart, in place: the even part, then the odd one, of Loeffler, Ligtenberg and Moschytz. */
static void transform_line(int64_t *v, int step, int shift) {
  int64_t z1 = (v[2 * step] + v[6 * step]) * 4433, half = (int64_t)1 << (shift - 1);
  int64_t t2 = z1 - v[6 * step] * 15137, t3 = z1 + v[2 * step] * 6270;
  int64_t t0 = (v[0] + v[4 * step]) * 8192, t1 = (v[0] - v[4 * step]) * 8192;
  int64_t even[4] = {t0 + t3, t1 + t2, t1 - t2, t0 - t3};
  t0 = v[7 * step], t1 = v[5 * step], t2 = v[3 * step], t3 = v[step];
  int64_t z5 = (t0 + t2 + t1 + t3) * 9633;
  int64_t z3 = z5 - (t0 + t2) * 16069, z4 = z5 - (t1 + t3) * 3196, z2 = (t1 + t2) * -20995;
  z1 = (t0 + t3) * -7373;
  int64_t odd[4] = {t3 * 12299 + z1 + z4, t2 * 25172 + z2 + z3, t1 * 16819 + z2 + z4, t0 * 2446 + z1 + z3};
  for (int i = 0; i < 4; i++) {
    v[i * step] = (even[i] + odd[i] + half) >> shift;
    v[(7 - i) * step] = (even[i] - odd[i] + half) >> shift;
  }
}

static uint8_t clamped(int64_t v) { return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v); }

static void jpeg_block(jpeg *j, jpeg_component *part, uint8_t *out) {
  int64_t block[64] = {0};
  const uint16_t *quantiser = j->quantisers[part->table];
  int bits = jpeg_symbol(j, &j->codes[0][part->dc]);
  if (bits > 11) j->failed = true;
  if (j->failed) return;
  part->last += jpeg_signed(j, bits);
  block[0] = (int64_t)(int16_t)part->last * quantiser[0];
  for (int k = 1; k < 64 && !j->failed; k++) {
    int symbol = jpeg_symbol(j, &j->codes[1][part->ac]), size = symbol & 15;
    k += symbol >> 4;
    if (!size && symbol >> 4 != 15) break;
    if (k > 63) {
      j->failed = true;
      return;
    }
    block[ZIGZAG[k]] = (int64_t)jpeg_signed(j, size) * quantiser[k];
  }
  for (int i = 0; i < 8; i++) transform_line(block + i, 8, 11);
  for (int i = 0; i < 8; i++) transform_line(block + 8 * i, 1, 18);
  for (int i = 0; i < 64; i++) out[i / 8 * part->stride + i % 8] = clamped(block[i] + 128);
}

/* Between intervals stands a marker, and the first values start from 0 again. */
static void jpeg_restart(jpeg *j) {
  j->held = 0;
  if (j->in.size - j->at < 2 || j->in.data[j->at] != 0xff || (j->in.data[j->at + 1] & 0xf8) != 0xd0) j->failed = true;
  j->at += 2;
  for (int i = 0; i < j->count; i++) j->parts[i].last = 0;
}

static int jpeg_scan(jpeg *j, const uint8_t *p, size_t size) {
  jpeg_component *chosen[MOST_COMPONENTS];
  int count = size ? p[0] : 0;
  if (count < 1 || count > j->count || size != (size_t)(4 + 2 * count)) return IMAGE_DAMAGED;
  for (int i = 0; i < count; i++) {
    chosen[i] = NULL;
    for (int k = 0; k < j->count; k++)
      if (j->parts[k].id == p[1 + 2 * i]) chosen[i] = &j->parts[k];
    if (!chosen[i]) return IMAGE_DAMAGED;
    chosen[i]->dc = p[2 + 2 * i] >> 4 & 3;
    chosen[i]->ac = p[2 + 2 * i] & 3;
    if (!j->codes[0][chosen[i]->dc].known || !j->codes[1][chosen[i]->ac].known) return IMAGE_DAMAGED;
  }
  bool single = count == 1;
  int64_t columns = single ? (chosen[0]->width + 7) / 8 : j->columns, rows = single ? (chosen[0]->height + 7) / 8 : j->rows;
  j->held = 0;
  for (int i = 0; i < j->count; i++) j->parts[i].last = 0;
  for (int64_t unit = 0; unit < columns * rows; unit++) {
    if (j->restart && unit && unit % j->restart == 0) jpeg_restart(j);
    for (int i = 0; i < count; i++) {
      jpeg_component *part = chosen[i];
      int h = single ? 1 : part->h, v = single ? 1 : part->v;
      for (int b = 0; b < h * v; b++) {
        int64_t x = unit % columns * h + b % h, y = unit / columns * v + b / h;
        jpeg_block(j, part, part->plane + y * 8 * part->stride + x * 8);
        if (j->failed) return IMAGE_DAMAGED;
      }
    }
  }
  return IMAGE_OK;
}

static int jpeg_frame(jpeg *j, const uint8_t *p, size_t size, picture *out) {
  if (size < 6 || j->count) return IMAGE_DAMAGED;
  int count = p[5];
  if (p[0] != 8 || count == 4) return IMAGE_UNSUPPORTED;
  if ((count != 1 && count != 3) || size != (size_t)(6 + 3 * count)) return IMAGE_DAMAGED;
  int status = set_extents(out, big(p + 3, 2), big(p + 1, 2));
  if (status) return status;
  for (int i = 0; i < count; i++) {
    jpeg_component *part = &j->parts[i];
    const uint8_t *q = p + 6 + 3 * i;
    *part = (jpeg_component){.id = q[0], .h = q[1] >> 4, .v = q[1] & 15, .table = q[2] & 3};
    if (part->h < 1 || part->h > 4 || part->v < 1 || part->v > 4) return IMAGE_DAMAGED;
    if (count == 1) part->h = part->v = 1;
    if (part->h > j->most_h) j->most_h = part->h;
    if (part->v > j->most_v) j->most_v = part->v;
  }
  j->count = count;
  j->columns = (out->width + 8 * j->most_h - 1) / (8 * j->most_h);
  j->rows = (out->height + 8 * j->most_v - 1) / (8 * j->most_v);
  for (int i = 0; i < count && out->rgb; i++) {
    jpeg_component *part = &j->parts[i];
    part->width = (out->width * part->h + j->most_h - 1) / j->most_h;
    part->height = (out->height * part->v + j->most_v - 1) / j->most_v;
    part->stride = j->columns * part->h * 8;
    part->plane = calloc((size_t)part->stride, (size_t)(j->rows * part->v * 8));
    if (!part->plane) return IMAGE_MEMORY;
  }
  return IMAGE_OK;
}

static int jpeg_quantisers(jpeg *j, const uint8_t *p, size_t size) {
  while (size) {
    size_t width = p[0] >> 4 ? 2 : 1;
    if (size < 1 + 64 * width || (p[0] & 15) > 3) return IMAGE_DAMAGED;
    for (int i = 0; i < 64; i++) j->quantisers[p[0] & 15][i] = (uint16_t)big(p + 1 + (size_t)i * width, (int)width);
    p += 1 + 64 * width;
    size -= 1 + 64 * width;
  }
  return IMAGE_OK;
}

static int jpeg_codes(jpeg *j, const uint8_t *p, size_t size) {
  while (size) {
    size_t total = 0;
    if (size < 17 || (p[0] & 15) > 3 || p[0] >> 4 > 1) return IMAGE_DAMAGED;
    jpeg_code *code = &j->codes[p[0] >> 4][p[0] & 15];
    for (int i = 1; i <= 16; i++) total += code->counts[i] = p[i];
    if (total > 256 || size < 17 + total) return IMAGE_DAMAGED;
    memcpy(code->symbols, p + 17, total);
    code->known = true;
    p += 17 + total;
    size -= 17 + total;
  }
  return IMAGE_OK;
}

/* Segments up to the end of the image, or up to the frame if only the extents are asked for. */
static int jpeg_segments(jpeg *j, picture *out) {
  bool scanned = false;
  for (;;) {
    while (j->at < j->in.size && j->in.data[j->at] != 0xff) j->at++;
    while (j->at < j->in.size && j->in.data[j->at] == 0xff) j->at++;
    if (j->at >= j->in.size) return scanned ? IMAGE_OK : IMAGE_DAMAGED;
    int marker = j->in.data[j->at++], status = IMAGE_OK;
    if (marker == 0xd9) return scanned ? IMAGE_OK : IMAGE_DAMAGED;
    if (marker == 0 || marker == 1 || (marker >= 0xd0 && marker <= 0xd8)) continue;
    if (j->in.size - j->at < 2) return IMAGE_DAMAGED;
    size_t size = big(j->in.data + j->at, 2);
    if (size < 2 || j->in.size - j->at < size) return IMAGE_DAMAGED;
    const uint8_t *p = j->in.data + j->at + 2;
    j->at += size;
    size -= 2;
    if (marker == 0xc0 || marker == 0xc1) {
      status = jpeg_frame(j, p, size, out);
      if (status || !out->rgb) return status;
    } else if (marker == 0xc4) {
      status = jpeg_codes(j, p, size);
    } else if (marker == 0xdb) {
      status = jpeg_quantisers(j, p, size);
    } else if (marker == 0xdd) {
      j->restart = size >= 2 ? (int)big(p, 2) : 0;
    } else if (marker == 0xda) {
      status = j->count ? jpeg_scan(j, p, size) : IMAGE_DAMAGED;
      scanned = true;
    } else if (marker >= 0xc2 && marker <= 0xcf) {
      return IMAGE_UNSUPPORTED;
    } else if (marker == 0xe0 && size >= 5 && !memcmp(p, "JFIF", 5)) {
      j->jfif = true;
    } else if (marker == 0xee && size >= 12 && !memcmp(p, "Adobe", 5)) {
      j->adobe = p[11];
    }
    if (status) return status;
  }
}

/* The sample of a component at a pixel: between samples a quarter of the farther one is mixed in. */
static int jpeg_sample(const jpeg *j, const jpeg_component *part, int64_t x, int64_t y) {
  bool half_x = part->h * 2 == j->most_h, half_y = part->v * 2 == j->most_v;
  bool same_x = part->h == j->most_h, same_y = part->v == j->most_v;
  int64_t c = x * part->h / j->most_h, r = y * part->v / j->most_v;
  const uint8_t *row = part->plane + r * part->stride;
  int64_t other = r + (y & 1 ? 1 : -1), beside = c + (x & 1 ? 1 : -1);
  if (other < 0 || other >= part->height) other = r;
  const uint8_t *second = part->plane + other * part->stride;
  if (same_x && half_y) return (3 * row[c] + second[c] + (y & 1 ? 2 : 1)) >> 2;
  if (!half_x || part->width <= 2 || !(same_y || half_y)) return row[c];
  bool edge = beside < 0 || beside >= part->width;
  if (same_y) return edge ? row[c] : (3 * row[c] + row[beside] + (x & 1 ? 2 : 1)) >> 2;
  int here = 3 * row[c] + second[c], next = edge ? here : 3 * row[beside] + second[beside];
  return (3 * here + next + (x & 1 ? 7 : 8)) >> 4;
}

static void jpeg_colours(const jpeg *j, picture *out) {
  const jpeg_component *p = j->parts;
  bool plain = p[0].id == 'R' && p[1].id == 'G' && p[2].id == 'B' && j->adobe < 0;
  bool red_green_blue = !j->jfif && (j->adobe == 0 || plain);
  for (int64_t y = 0; y < out->height; y++)
    for (int64_t x = 0; x < out->width; x++) {
      int a = jpeg_sample(j, &p[0], x, y);
      if (j->count == 1) {
        put(out, x, y, a, a, a);
        continue;
      }
      int b = jpeg_sample(j, &p[1], x, y), c = jpeg_sample(j, &p[2], x, y);
      if (red_green_blue) {
        put(out, x, y, a, b, c);
        continue;
      }
      b -= 128, c -= 128;
      int green = a + ((-22554 * b - 46802 * c + 32768) >> 16);
      put(out, x, y, clamped(a + ((91881 * c + 32768) >> 16)), clamped(green), clamped(a + ((116130 * b + 32768) >> 16)));
    }
}

static int decode_jpeg(bytes in, picture *out) {
  jpeg *j = calloc(1, sizeof *j);
  if (!j) return IMAGE_MEMORY;
  j->in = in, j->at = 2, j->adobe = -1;
  int status = jpeg_segments(j, out);
  if (!status && out->rgb) jpeg_colours(j, out);
  for (int i = 0; i < MOST_COMPONENTS; i++) free(j->parts[i].plane);
  free(j);
  return status;
}
