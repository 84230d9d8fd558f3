// Declarations of TFLM's API, as far as the firmware uses it: to compile against, not to run.
#ifndef STUBS_SCHEMA_GENERATED_H_
#define STUBS_SCHEMA_GENERATED_H_

namespace tflite {

struct Model;
inline const Model* GetModel(const void* buffer) { return static_cast<const Model*>(buffer); }

}  // namespace tflite

#endif
