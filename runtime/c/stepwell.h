/* stepwell.h: how a C program calls a compiled model. The one public header; ABI version 1.
 *
 * A compiled model is a shared library that holds its code, its weights and its signature. Tensors are
 * DLPack tensors (DLPack 1.1, https://github.com/dmlc/dlpack). Every function may be called from any thread. */
#ifndef STEPWELL_H
#define STEPWELL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* DLPack's own header is used where it was included first; these declarations are the same, word for word. */
#ifndef DLPACK_DLPACK_H_
#define DLPACK_DLPACK_H_
#define DLPACK_MAJOR_VERSION 1
#define DLPACK_MINOR_VERSION 1
#ifdef __cplusplus
typedef enum : int32_t {
#else
typedef enum {
#endif
  kDLCPU = 1,
  kDLCUDA = 2,
  kDLCUDAHost = 3,
  kDLOpenCL = 4,
  kDLVulkan = 7,
  kDLMetal = 8,
  kDLVPI = 9,
  kDLROCM = 10,
  kDLROCMHost = 11,
  kDLExtDev = 12,
  kDLCUDAManaged = 13,
  kDLOneAPI = 14,
  kDLWebGPU = 15,
  kDLHexagon = 16,
  kDLMAIA = 17,
} DLDeviceType;

typedef struct {
  DLDeviceType device_type;
  int32_t device_id;
} DLDevice;

typedef enum {
  kDLInt = 0U,
  kDLUInt = 1U,
  kDLFloat = 2U,
  kDLOpaqueHandle = 3U,
  kDLBfloat = 4U,
  kDLComplex = 5U,
  kDLBool = 6U,
  kDLFloat8_e3m4 = 7U,
  kDLFloat8_e4m3 = 8U,
  kDLFloat8_e4m3b11fnuz = 9U,
  kDLFloat8_e4m3fn = 10U,
  kDLFloat8_e4m3fnuz = 11U,
  kDLFloat8_e5m2 = 12U,
  kDLFloat8_e5m2fnuz = 13U,
  kDLFloat8_e8m0fnu = 14U,
  kDLFloat6_e2m3fn = 15U,
  kDLFloat6_e3m2fn = 16U,
  kDLFloat4_e2m1fn = 17U,
} DLDataTypeCode;

typedef struct {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
} DLDataType;

typedef struct {
  void *data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape;
  int64_t *strides; /* in elements; NULL: row-major and contiguous */
  uint64_t byte_offset;
} DLTensor;
#endif /* DLPACK_DLPACK_H_ */

#define STEPWELL_ABI_VERSION 1

#if defined(__GNUC__)
#define STEPWELL_API __attribute__((visibility("default")))
#else
#define STEPWELL_API
#endif

/* What a value is. Zero is "absent", so a zeroed output asks the context to allocate it. */
typedef enum {
  STEPWELL_ABSENT = 0,
  STEPWELL_TENSOR = 1,
  STEPWELL_STRINGS = 2,
  STEPWELL_SEQUENCE = 3,
  STEPWELL_MAP = 4,
} stepwell_kind;

typedef struct {
  const char *data; /* UTF-8, not necessarily terminated; may hold NUL */
  size_t length;    /* in bytes */
} stepwell_string;

/* Row-major. The bytes of an output's strings are the context's until its next run, or those of an input: keep the bytes
 * of inputs until the outputs were read. */
typedef struct {
  stepwell_string *data;
  int64_t *shape;
  int32_t ndim;
} stepwell_string_tensor;

typedef struct stepwell_value stepwell_value;

typedef struct {
  stepwell_value *values;
  size_t count;
} stepwell_sequence;

/* Two tensors of rank 1 and of one length, perhaps of strings: value i belongs to key i. Of equal keys the last counts.
 * Maps of one sequence may share their keys: equal pointers, equal keys. */
typedef struct {
  stepwell_value *keys;
  stepwell_value *values;
} stepwell_map;

struct stepwell_value {
  int32_t kind; /* a stepwell_kind */
  int32_t reserved;
  union {
    DLTensor tensor;
    stepwell_string_tensor strings;
    stepwell_sequence sequence;
    stepwell_map map;
  } as;
};

typedef struct stepwell_context stepwell_context;

enum {
  STEPWELL_NO_SPIN = 1, /* idle threads sleep at once: kinder to other programs, slower between kernels */
  STEPWELL_POISON = 2,  /* fill the arena with 0xff before each run: finds code that reads what it never wrote */
  STEPWELL_PROFILE = 4, /* note when each kernel runs, for stepwell_events; about 0.1 us a launch */
};

/* Zero it, set `struct_size`, then what you need; fields are only ever added at the end. */
typedef struct {
  uint32_t struct_size; /* sizeof(stepwell_options) */
  int32_t threads;      /* 0: the model's default; 1: no thread is ever started */
  uint64_t flags;
} stepwell_options;

/* The version of this interface that the library was built with; compare with STEPWELL_ABI_VERSION. */
STEPWELL_API int stepwell_abi_version(void);

/* The model's signature: names, dtypes, shapes with symbols, target, default threads, metadata. */
STEPWELL_API const char *stepwell_signature_json(void);

/* A context holds the working memory and the threads of one run at a time. NULL options: the defaults.
 * Returns NULL when it fails (stepwell_last_error(NULL)). */
STEPWELL_API stepwell_context *stepwell_create(const stepwell_options *options);

/* Run the model; 0 on success. Several contexts may run at once; one context serialises its calls.
 * An input is checked against the signature, and copied where it is strided or misaligned.
 * An output that is absent, or a tensor whose data is NULL, is allocated by the context, with its shape and
 * strides, and valid until the next run or destroy; so is every sequence, optional and map, with all that it is made of.
 * Any other output is written where it points to: it must be contiguous, of the right shape, and overlap no input and
 * no other output. */
STEPWELL_API int stepwell_run(stepwell_context *context, const stepwell_value *inputs, size_t n_inputs,
                              stepwell_value *outputs, size_t n_outputs);

/* What went wrong in the last call on `context`, or "" ; NULL: in this thread's last call without a context. */
STEPWELL_API const char *stepwell_last_error(const stepwell_context *context);

/* One thread's part in one launch of a kernel, or a whole run. */
typedef struct {
  int64_t begin_ns, end_ns; /* of CLOCK_MONOTONIC */
  int64_t tiles;            /* iterations that this thread ran */
  int32_t site;             /* the launch, as the library's manifest numbers them; -1: the run */
  int32_t thread;           /* 0: the caller, whose part lasts until the launch is done */
} stepwell_event;

/* What happened in the last run of a context with STEPWELL_PROFILE, in order of launches; the run itself comes first.
 * Valid until the next run or destroy. */
STEPWELL_API const stepwell_event *stepwell_events(stepwell_context *context, size_t *count);

/* Free the context, its threads and the outputs it allocated. NULL does nothing. */
STEPWELL_API void stepwell_destroy(stepwell_context *context);

/* The same functions under a model's own prefix, for a program that links two models: STEPWELL_DECLARE(mnist)
 * declares mnist_create, mnist_run, ... */
#define STEPWELL_DECLARE(prefix)                                                                               \
  int prefix##_abi_version(void);                                                                              \
  const char *prefix##_signature_json(void);                                                                   \
  stepwell_context *prefix##_create(const stepwell_options *options);                                          \
  int prefix##_run(stepwell_context *context, const stepwell_value *inputs, size_t n_inputs,                   \
                   stepwell_value *outputs, size_t n_outputs);                                                 \
  const char *prefix##_last_error(const stepwell_context *context);                                            \
  const stepwell_event *prefix##_events(stepwell_context *context, size_t *count);                             \
  void prefix##_destroy(stepwell_context *context);

#ifdef __cplusplus
}
#endif
#endif /* STEPWELL_H */
