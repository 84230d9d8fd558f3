// Declarations of TFLM's API, as far as the firmware uses it: names, types and the layout in memory of the TFLM of
// October 2026 (commit 8f6596d, the one in the Python package), so that what is compiled with it also links with it.
//
// Since 2026 the names are in tflite::micro, with aliases. TFLM_BEFORE_2026 declares them where they were until then: the
// C types in no namespace, classes and functions in tflite. TFLM_2023 is the oldest with SignalRfft: it lacks some
// registrations for one type, and most methods of the resolver take none.
#ifndef STUBS_MICRO_COMMON_H_
#define STUBS_MICRO_COMMON_H_

#include <cstddef>
#include <cstdint>

#if defined(TFLM_2023)
#define TFLM_BEFORE_2026
#endif
#if defined(TFLM_BEFORE_2026)
#define STUBS_C_TYPES
#define STUBS_C_TYPES_END
#define STUBS_NAMESPACE namespace tflite {
#define STUBS_NAMESPACE_END }
#else
#define STUBS_C_TYPES namespace tflite { namespace micro {
#define STUBS_C_TYPES_END } }
#define STUBS_NAMESPACE namespace tflite { namespace micro {
#define STUBS_NAMESPACE_END } }
#endif

STUBS_C_TYPES

typedef enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 } TfLiteStatus;

typedef enum {
  kTfLiteNoType = 0,
  kTfLiteFloat32 = 1,
  kTfLiteInt16 = 7,
  kTfLiteInt8 = 9,
} TfLiteType;

typedef struct TfLiteQuantizationParams {
  float scale;
  std::int32_t zero_point;
} TfLiteQuantizationParams;

typedef struct TfLiteQuantization {
  int type;
  void* params;
} TfLiteQuantization;

typedef union TfLitePtrUnion {
  float* f;
  std::int16_t* i16;
  std::int8_t* int8;
  void* data;
} TfLitePtrUnion;

typedef struct TfLiteTensor {
  TfLiteQuantization quantization;
  TfLiteQuantizationParams params;
  TfLitePtrUnion data;
  void* dims;
  std::size_t bytes;
  TfLiteType type;
  int allocation_type;
  bool is_variable;
} TfLiteTensor;

struct TfLiteContext;
struct TfLiteNode;

typedef struct TFLMRegistration {
  void* (*init)(TfLiteContext* context, const char* buffer, std::size_t length);
  void (*free)(TfLiteContext* context, void* buffer);
  TfLiteStatus (*prepare)(TfLiteContext* context, TfLiteNode* node);
  TfLiteStatus (*invoke)(TfLiteContext* context, TfLiteNode* node);
  void (*reset)(TfLiteContext* context, void* buffer);
  std::int32_t builtin_code;
  const char* custom_name;
} TFLMRegistration;

STUBS_C_TYPES_END

#if !defined(TFLM_BEFORE_2026)
using ::tflite::micro::TFLMRegistration;
#if !defined(TFLM_NO_GLOBAL_C_ALIASES)
using ::tflite::micro::kTfLiteError;
using ::tflite::micro::kTfLiteFloat32;
using ::tflite::micro::kTfLiteInt16;
using ::tflite::micro::kTfLiteInt8;
using ::tflite::micro::kTfLiteOk;
using ::tflite::micro::TfLiteQuantizationParams;
using ::tflite::micro::TfLiteStatus;
using ::tflite::micro::TfLiteTensor;
#endif
#endif

#endif
