// Declarations of TFLM's API, as far as the firmware uses it; see micro_common.h.
//
// TFLM_LINKED: kernels are those of a TFLM that is linked. Without it they are none, and nothing is to be linked.
#ifndef STUBS_MICRO_MUTABLE_OP_RESOLVER_H_
#define STUBS_MICRO_MUTABLE_OP_RESOLVER_H_

#include <cstring>

#include "tensorflow/lite/micro/micro_common.h"
#include "tensorflow/lite/schema/schema_generated.h"

// Registration, its number in the schema, name of the method, name of the parser of its options. LATER: a method that takes
// a registration since August 2025.
#define STUBS_OPERATORS(OP, LATER)                                       \
  OP(ADD, 0, Add, Add)                                                   \
  OP(AVERAGE_POOL_2D, 1, AveragePool2D, Pool)                            \
  LATER(BATCH_MATMUL, 126, BatchMatMul, BatchMatMul)                     \
  LATER(CAST, 53, Cast, Cast)                                            \
  LATER(CONCATENATION, 2, Concatenation, Concatenation)                  \
  OP(CONV_2D, 3, Conv2D, Conv2D)                                         \
  OP(DEPTHWISE_CONV_2D, 4, DepthwiseConv2D, DepthwiseConv2D)             \
  LATER(DEQUANTIZE, 6, Dequantize, Dequantize)                           \
  LATER(DIV, 42, Div, Div)                                               \
  LATER(EXPAND_DIMS, 70, ExpandDims, ExpandDims)                         \
  OP(FULLY_CONNECTED, 9, FullyConnected, FullyConnected)                 \
  LATER(GATHER, 36, Gather, Gather)                                      \
  LATER(HARD_SWISH, 117, HardSwish, HardSwish)                           \
  LATER(L2_NORMALIZATION, 11, L2Normalization, L2Normalization)          \
  LATER(LOG, 73, Log, Log)                                               \
  LATER(LOGISTIC, 14, Logistic, Logistic)                                \
  OP(MAX_POOL_2D, 17, MaxPool2D, Pool)                                   \
  LATER(MAXIMUM, 55, Maximum, Maximum)                                   \
  LATER(MEAN, 40, Mean, Reducer)                                         \
  LATER(MINIMUM, 57, Minimum, Minimum)                                   \
  OP(MUL, 18, Mul, Mul)                                                  \
  LATER(PACK, 83, Pack, Pack)                                            \
  OP(PAD, 34, Pad, Pad)                                                  \
  LATER(PADV2, 60, PadV2, PadV2)                                         \
  LATER(QUANTIZE, 114, Quantize, Quantize)                               \
  LATER(REDUCE_MAX, 82, ReduceMax, Reducer)                              \
  LATER(RELU, 19, Relu, Relu)                                            \
  LATER(RESHAPE, 22, Reshape, Reshape)                                   \
  LATER(RSQRT, 76, Rsqrt, Rsqrt)                                         \
  LATER(SLICE, 65, Slice, Slice)                                         \
  OP(SOFTMAX, 25, Softmax, Softmax)                                      \
  LATER(SPLIT, 49, Split, Split)                                         \
  LATER(SPLIT_V, 102, SplitV, SplitV)                                    \
  LATER(SQUARED_DIFFERENCE, 99, SquaredDifference, SquaredDifference)    \
  LATER(SQUEEZE, 43, Squeeze, Squeeze)                                   \
  LATER(STRIDED_SLICE, 45, StridedSlice, StridedSlice)                   \
  LATER(SUB, 41, Sub, Sub)                                               \
  LATER(SUM, 74, Sum, Reducer)                                           \
  LATER(TANH, 28, Tanh, Tanh)                                            \
  LATER(TRANSPOSE, 39, Transpose, Transpose)                             \
  LATER(UNPACK, 88, Unpack, Unpack)

// Registrations for one type; with CMSIS-NN they are functions of their own, else the generic ones. TFLM_2023 has fewer.
#if defined(TFLM_2023)
#define STUBS_SINCE_2024(ONE)
#else
#define STUBS_SINCE_2024(ONE) ONE(BATCH_MATMUL, INT8) ONE(BATCH_MATMUL, INT16)
#endif
#define STUBS_INT8(ONE) \
  ONE(ADD, INT8) ONE(AVERAGE_POOL_2D, INT8) ONE(CONV_2D, INT8) ONE(DEPTHWISE_CONV_2D, INT8) \
  ONE(FULLY_CONNECTED, INT8) ONE(MAX_POOL_2D, INT8) ONE(SOFTMAX, INT8)
#define STUBS_INT16(ONE) \
  ONE(ADD, INT16) ONE(AVERAGE_POOL_2D, INT16) ONE(CONV_2D, INT16) \
  ONE(DEPTHWISE_CONV_2D, INT16) ONE(FULLY_CONNECTED, INT16) ONE(MAX_POOL_2D, INT16) ONE(SOFTMAX, INT16)
#if defined(CMSIS_NN)
#define STUBS_ONE(op, type) TFLMRegistration Register_##op##_##type();
#else
#define STUBS_ONE(op, type) inline TFLMRegistration Register_##op##_##type() { return Register_##op(); }
#endif

STUBS_NAMESPACE

class BuiltinDataAllocator;
typedef TfLiteStatus (*TfLiteBridgeBuiltinParseFunction)(const Operator* op, BuiltinDataAllocator* allocator,
                                                         void** builtin_data);

#if defined(TFLM_LINKED)
#define OP(op, code, method, parser)  \
  TFLMRegistration Register_##op();   \
  TfLiteStatus Parse##parser(const Operator* op, BuiltinDataAllocator* allocator, void** builtin_data);
#define STUBS_PARSER(parser) Parse##parser
namespace tflm_signal {
TFLMRegistration* Register_RFFT();
TFLMRegistration* Register_RFFT_FLOAT();
}
#else
#define OP(op, code, method, parser) \
  inline TFLMRegistration Register_##op() { return {}; }
#define STUBS_PARSER(parser) nullptr
namespace tflm_signal {
inline TFLMRegistration* Register_RFFT() {
  static TFLMRegistration none = {};
  return &none;
}
inline TFLMRegistration* Register_RFFT_FLOAT() { return Register_RFFT(); }
}  // namespace tflm_signal
#endif
STUBS_OPERATORS(OP, OP)
#undef OP
STUBS_INT8(STUBS_ONE)
STUBS_INT16(STUBS_ONE)
STUBS_SINCE_2024(STUBS_ONE)

class MicroOpResolver {
 public:
  virtual const TFLMRegistration* FindOp(BuiltinOperator op) const = 0;
  virtual const TFLMRegistration* FindOp(const char* op) const = 0;
  virtual TfLiteBridgeBuiltinParseFunction GetOpDataParser(BuiltinOperator op) const = 0;
  virtual ~MicroOpResolver() {}
};

template <unsigned int tOpCount>
class MicroMutableOpResolver : public MicroOpResolver {
 public:
  explicit MicroMutableOpResolver() {}

#define OP(op, code, method, parser)                                               \
  TfLiteStatus Add##method(const TFLMRegistration& registration = Register_##op()) { \
    return Add(code, nullptr, registration, STUBS_PARSER(parser));                  \
  }
#if defined(TFLM_2023)
#define LATER(op, code, method, parser) \
  TfLiteStatus Add##method() { return Add(code, nullptr, Register_##op(), STUBS_PARSER(parser)); }
#else
#define LATER OP
#endif
  STUBS_OPERATORS(OP, LATER)
#undef OP
#undef LATER
  TfLiteStatus AddRfft(const TFLMRegistration* registration = tflm_signal::Register_RFFT()) {
    return Add(BuiltinOperator_CUSTOM, "SignalRfft", *registration, nullptr);
  }

  const TFLMRegistration* FindOp(BuiltinOperator op) const override {
    for (unsigned int i = 0; i < length_; ++i) {
      if (op != BuiltinOperator_CUSTOM && registrations_[i].builtin_code == op) return &registrations_[i];
    }
    return nullptr;
  }
  const TFLMRegistration* FindOp(const char* op) const override {
    for (unsigned int i = 0; i < length_; ++i) {
      const char* name = registrations_[i].custom_name;
      if (name != nullptr && std::strcmp(name, op) == 0) return &registrations_[i];
    }
    return nullptr;
  }
  TfLiteBridgeBuiltinParseFunction GetOpDataParser(BuiltinOperator op) const override {
    const TFLMRegistration* found = FindOp(op);
    return found == nullptr ? nullptr : parsers_[found - registrations_];
  }

 private:
  TfLiteStatus Add(int code, const char* name, const TFLMRegistration& registration,
                   TfLiteBridgeBuiltinParseFunction parser) {
    if (length_ >= tOpCount) return kTfLiteError;
    registrations_[length_] = registration;
    registrations_[length_].builtin_code = code;
    registrations_[length_].custom_name = name;
    parsers_[length_++] = parser;
    return kTfLiteOk;
  }

  TFLMRegistration registrations_[tOpCount];
  TfLiteBridgeBuiltinParseFunction parsers_[tOpCount];
  unsigned int length_ = 0;
  void operator delete(void*) {}  // TF_LITE_REMOVE_VIRTUAL_DELETE
};

STUBS_NAMESPACE_END

#if !defined(TFLM_BEFORE_2026)
namespace tflite {
using micro::MicroMutableOpResolver;
}
#endif

#if !defined(TFLM_2023)
#include "tensorflow/lite/micro/kernels/maximum_minimum.h"
#include "tensorflow/lite/micro/kernels/mul.h"
#endif

#endif
