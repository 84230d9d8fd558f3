// Declarations of TFLM's API, as far as the firmware uses it; see micro_common.h.
#ifndef STUBS_MUL_H_
#define STUBS_MUL_H_

STUBS_NAMESPACE
STUBS_ONE(MUL, INT8)
STUBS_NAMESPACE_END

#endif
