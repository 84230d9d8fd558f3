// Declarations of TFLM's API, as far as the firmware uses it.
#ifndef STUBS_SCHEMA_GENERATED_H_
#define STUBS_SCHEMA_GENERATED_H_

#include <cstdint>

namespace tflite {

struct Model;
struct Operator;
enum BuiltinOperator : std::int32_t { BuiltinOperator_CUSTOM = 32 };

// The root's place is the first number of the file.
inline const Model* GetModel(const void* buffer) {
  const auto* bytes = static_cast<const unsigned char*>(buffer);
  const std::uint32_t root = bytes[0] | bytes[1] << 8 | bytes[2] << 16 | static_cast<std::uint32_t>(bytes[3]) << 24;
  return reinterpret_cast<const Model*>(bytes + root);
}

}  // namespace tflite

#endif
