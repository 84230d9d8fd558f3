// The frontend's operators, in TFLM's order, over frames in data.h (board_features.py); prints each feature's bits.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "data.h"
#include "kiss_fft.h"
#include "tools/kiss_fftr.h"

namespace {

float frame[kFft];
float squares[2 * kBins];
kiss_fft_cpx spectrum[kBins];

// Not inlined: operators of TFLM do not share roundings.
__attribute__((noinline)) void Multiply(const float* a, const float* b, float* out, int count) {
  for (int i = 0; i < count; ++i) out[i] = a[i] * b[i];
}

__attribute__((noinline)) float FullyConnected(const float* in, const float* weights, int count, float bias) {
  float total = 0.0f;
  for (int i = 0; i < count; ++i) total += in[i] * weights[i];
  return total + bias;
}

__attribute__((noinline)) float Standardise(float value, float mean, float std) {
  volatile float centred = value - mean;
  return centred / std;
}

}  // namespace

int main() {
  alignas(8) static unsigned char memory[32768];
  std::size_t bytes = sizeof(memory);
  kiss_fftr_cfg transform = kiss_fftr_alloc(kFft, 0, memory, &bytes);
  if (transform == nullptr) return 1;
  for (int f = 0; f < kFrames; ++f) {
    for (int i = 0; i < kFft; ++i) frame[i] = i < kLength ? static_cast<float>(kPcm[f * kLength + i]) : 0.0f;
    Multiply(frame, kWindow, frame, kLength);
    kiss_fftr(transform, frame, spectrum);
    const float* flat = reinterpret_cast<const float*>(spectrum);
    Multiply(flat, flat, squares, 2 * kBins);
    for (int band = 0; band < kBands; ++band) {
      const float power = FullyConnected(squares, kMel + band * 2 * kBins, 2 * kBins, kFloor);
      const float feature = Standardise(std::log(power), kMean[band], kStd[band]);
      std::uint32_t bits;
      std::memcpy(&bits, &feature, sizeof(bits));
      std::printf("%08lx\n", static_cast<unsigned long>(bits));
    }
  }
  return 0;
}
