/* The whole runtime as one translation unit: compiled once per target and kept as an object. */
#include "internal.h"

#include "bf16.c"
#include "check.c"
#include "context.c"
#include "cpu.c"
#include "images.c"
#include "jpeg.c"
#include "memory.c"
#include "pool.c"
#include "random.c"
#include "text.c"
#include "values.c"
