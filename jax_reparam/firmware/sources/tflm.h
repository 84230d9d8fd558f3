// TFLM's names as emotion::tflm, wherever its version has them: in tflite, or since 2026 in tflite::micro.
#ifndef EMOTION_TFLM_H_
#define EMOTION_TFLM_H_

#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace tflite {
namespace micro {}
}  // namespace tflite

namespace emotion {
namespace tflm {
using namespace ::tflite;
using namespace ::tflite::micro;
}  // namespace tflm
}  // namespace emotion

#endif  // EMOTION_TFLM_H_
