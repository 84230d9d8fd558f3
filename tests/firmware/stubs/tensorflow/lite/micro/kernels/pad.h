// Declarations of TFLM's API, as far as the firmware uses it; see micro_common.h.
#ifndef STUBS_PAD_H_
#define STUBS_PAD_H_

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

STUBS_NAMESPACE
STUBS_ONE(PAD, INT8)
STUBS_NAMESPACE_END

#endif
