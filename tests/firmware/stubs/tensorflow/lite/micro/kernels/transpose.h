// Declarations of TFLM's API, as far as the firmware uses it; see micro_common.h.
#ifndef STUBS_TRANSPOSE_H_
#define STUBS_TRANSPOSE_H_

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

STUBS_NAMESPACE
STUBS_ONE(TRANSPOSE, INT8)
STUBS_NAMESPACE_END

#endif
