// Declarations of TFLM's API, as far as the firmware uses it; see micro_common.h.
#ifndef STUBS_MAXIMUM_MINIMUM_H_
#define STUBS_MAXIMUM_MINIMUM_H_

#if !defined(TFLM_2023)
STUBS_NAMESPACE
STUBS_ONE(MAXIMUM, INT8)
STUBS_ONE(MINIMUM, INT8)
STUBS_NAMESPACE_END
#endif

#endif
