// Declarations of TFLM's API, as far as the firmware uses it; see micro_common.h.
#ifndef STUBS_TRANSPOSE_H_
#define STUBS_TRANSPOSE_H_

#if !defined(TFLM_2023)
STUBS_NAMESPACE
// As in TFLM, this header does not include what declares MicroContext.
struct TransposeContext {
  MicroContext* micro_context;
};
STUBS_ONE(TRANSPOSE, INT8)
STUBS_NAMESPACE_END
#endif

#endif
