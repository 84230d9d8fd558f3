// Declarations of the API of TFLM, as far as the firmware uses it. Built with CMSIS_NN the registrations for int8 are
// functions of their own, as in TFLM.
#ifndef STUBS_MICRO_MUTABLE_OP_RESOLVER_H_
#define STUBS_MICRO_MUTABLE_OP_RESOLVER_H_

namespace tflite {

typedef enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 } TfLiteStatus;

struct TFLMRegistration {
  const char* name;
};

#if defined(CMSIS_NN)
#define STUB_REGISTRATION(name)                                               \
  inline TFLMRegistration Register_##name() { return {#name}; }               \
  inline TFLMRegistration Register_##name##_INT8() { return {#name "_INT8"}; }
#else
#define STUB_REGISTRATION(name)                                               \
  inline TFLMRegistration Register_##name() { return {#name}; }               \
  inline TFLMRegistration Register_##name##_INT8() { return Register_##name(); }
#endif
STUB_REGISTRATION(ADD)
STUB_REGISTRATION(BATCH_MATMUL)
STUB_REGISTRATION(CONV_2D)
STUB_REGISTRATION(DEPTHWISE_CONV_2D)
STUB_REGISTRATION(FULLY_CONNECTED)
STUB_REGISTRATION(MUL)
STUB_REGISTRATION(SOFTMAX)
#undef STUB_REGISTRATION

class MicroOpResolver {
 public:
  virtual ~MicroOpResolver() {}

 private:
  void operator delete(void*) {}  // TF_LITE_REMOVE_VIRTUAL_DELETE
};

template <unsigned int tOpCount>
class MicroMutableOpResolver : public MicroOpResolver {
 public:
  explicit MicroMutableOpResolver() {}

#define STUB_ADD(op, method) \
  TfLiteStatus Add##method(const TFLMRegistration& registration = Register_##op()) { return Add(registration.name); }
  STUB_ADD(ADD, Add)
  STUB_ADD(BATCH_MATMUL, BatchMatMul)
  STUB_ADD(CONV_2D, Conv2D)
  STUB_ADD(DEPTHWISE_CONV_2D, DepthwiseConv2D)
  STUB_ADD(FULLY_CONNECTED, FullyConnected)
  STUB_ADD(MUL, Mul)
  STUB_ADD(SOFTMAX, Softmax)
#undef STUB_ADD
#define STUB_ADD(method) \
  TfLiteStatus Add##method() { return Add(#method); }
  STUB_ADD(Cast)
  STUB_ADD(Concatenation)
  STUB_ADD(Div)
  STUB_ADD(L2Normalization)
  STUB_ADD(Log)
  STUB_ADD(Logistic)
  STUB_ADD(Pad)
  STUB_ADD(PadV2)
  STUB_ADD(Reshape)
  STUB_ADD(Rfft)
  STUB_ADD(Slice)
  STUB_ADD(Sub)
  STUB_ADD(Transpose)
#undef STUB_ADD

  unsigned int GetRegistrationLength() { return length_; }

 private:
  TfLiteStatus Add(const char* name) {
    if (length_ >= tOpCount) return kTfLiteError;
    names_[length_++] = name;
    return kTfLiteOk;
  }

  const char* names_[tOpCount];
  unsigned int length_ = 0;
  void operator delete(void*) {}
};

}  // namespace tflite

using ::tflite::kTfLiteError;
using ::tflite::kTfLiteOk;
using ::tflite::TfLiteStatus;

#endif
