// Declarations of TFLM's API, as far as the firmware uses it. Its functions are defined by host.cc, or nowhere.
#ifndef STUBS_MICRO_INTERPRETER_H_
#define STUBS_MICRO_INTERPRETER_H_

#include <cstddef>
#include <cstdint>

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace tflite {

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

typedef union TfLitePtrUnion {
  float* f;
  std::int16_t* i16;
  std::int8_t* int8;
  void* data;
} TfLitePtrUnion;

typedef struct TfLiteTensor {
  TfLiteQuantizationParams params;
  TfLitePtrUnion data;
  std::size_t bytes;
  TfLiteType type;
} TfLiteTensor;

class MicroResourceVariables;
class MicroProfilerInterface;

class MicroInterpreter {
 public:
  MicroInterpreter(const Model* model, const MicroOpResolver& op_resolver, std::uint8_t* tensor_arena,
                   std::size_t tensor_arena_size, MicroResourceVariables* resource_variables = nullptr,
                   MicroProfilerInterface* profiler = nullptr, bool preserve_all_tensors = false);
  ~MicroInterpreter();
  TfLiteStatus AllocateTensors();
  TfLiteStatus Invoke();
  TfLiteTensor* input(std::size_t index);
  TfLiteTensor* output(std::size_t index);
  std::size_t arena_used_bytes() const;

 private:
  const Model* model_;
  std::uint8_t* arena_;
  TfLiteTensor tensors_[2];
};

}  // namespace tflite

using ::tflite::kTfLiteFloat32;
using ::tflite::kTfLiteInt16;
using ::tflite::kTfLiteInt8;
using ::tflite::TfLiteQuantizationParams;
using ::tflite::TfLiteTensor;

#endif
