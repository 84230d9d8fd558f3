// Declarations of TFLM's API, as far as the firmware uses it; see micro_common.h. Its functions are those of a TFLM that is
// linked, or of host.cc.
#ifndef STUBS_MICRO_INTERPRETER_H_
#define STUBS_MICRO_INTERPRETER_H_

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

STUBS_NAMESPACE

class MicroContext;
class MicroResourceVariables;
class MicroProfilerInterface;

class MicroAllocator {
 public:
  std::size_t used_bytes() const;
};

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
  std::size_t arena_used_bytes() const { return allocator_.used_bytes(); }

 private:
  const Model* model_;
  const MicroOpResolver& op_resolver_;
  void* context_;
  MicroAllocator& allocator_;
  alignas(8) unsigned char rest_[1024];  // less in TFLM; host.cc has its tensors here
};

STUBS_NAMESPACE_END

#if !defined(TFLM_BEFORE_2026)
namespace tflite {
using micro::MicroInterpreter;
}
#endif

#endif
