// TFLM's names as emotion::tflm, wherever its version has them: in tflite, or since 2026 in tflite::micro.
#ifndef EMOTION_TFLM_H_
#define EMOTION_TFLM_H_

#include <type_traits>

#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#if __has_include("tensorflow/lite/micro/schema/schema_generated.h")  // its place since late 2026
#include "tensorflow/lite/micro/schema/schema_generated.h"
#else
#include "tensorflow/lite/schema/schema_generated.h"
#endif
// Not all that these need they include themselves: they come last. The resolver does not include them in every version.
#if __has_include("tensorflow/lite/micro/kernels/mul.h")
#include "tensorflow/lite/micro/kernels/mul.h"
#endif
#if __has_include("tensorflow/lite/micro/kernels/pad.h")
#include "tensorflow/lite/micro/kernels/pad.h"
#endif
#if __has_include("tensorflow/lite/micro/kernels/transpose.h")
#include "tensorflow/lite/micro/kernels/transpose.h"
#endif

namespace tflite {
namespace tflm_signal {}
namespace micro {
namespace tflm_signal {}
}  // namespace micro
}  // namespace tflite

namespace emotion {
namespace tflm {

// Registrations for one type that TFLM has since August 2024 or later. In an older one these are found in their place;
// else TFLM's function is preferred to a template.
namespace absent {
struct Registration {};
template <int = 0>
Registration Register_BATCH_MATMUL_INT8() { return {}; }
template <int = 0>
Registration Register_BATCH_MATMUL_INT16() { return {}; }
template <int = 0>
Registration Register_MAXIMUM_INT8() { return {}; }
template <int = 0>
Registration Register_MINIMUM_INT8() { return {}; }
template <int = 0>
Registration Register_PAD_INT8() { return {}; }
template <int = 0>
Registration Register_TRANSPOSE_INT8() { return {}; }
}  // namespace absent

using namespace absent;
using namespace ::tflite;
using namespace ::tflite::micro;
using namespace ::tflite::tflm_signal;
using namespace ::tflite::micro::tflm_signal;

// Calls a method of the resolver with a registration, or without where that is absent or the method takes none, as many
// did until August 2025: TFLM's generic kernels are then registered.
template <typename Resolver, typename Registration, typename Method>
auto Add(Resolver& resolver, const Registration& registration, Method method) {
  if constexpr (std::is_invocable_v<Method, Resolver&, const Registration&>) {
    return method(resolver, registration);
  } else {
    return method(resolver);
  }
}

}  // namespace tflm

// TFLM_NO_GLOBAL_C_ALIASES leaves even kTfLiteOk in tflite::micro.
using namespace tflm;

}  // namespace emotion

#endif  // EMOTION_TFLM_H_
