// Declarations of TFLM's API, as far as the firmware uses it; see micro_common.h.
#ifndef STUBS_PAD_H_
#define STUBS_PAD_H_

#if !defined(TFLM_2023)
STUBS_NAMESPACE
STUBS_ONE(PAD, INT8)
STUBS_NAMESPACE_END
#endif

#endif
