// An example: reads 16-bit mono PCM and prints a line a window, as a device would write to its UART.
//
//   host:   sox clip.wav -t raw -r 16000 -e signed -b 16 -c 1 - | ./emotion
//   device: your microphone's driver (I2S or PDM, by DMA, kSampleRate, 16 bits, one channel) calls recognizer.Feed() from
//           its interrupt or task, and main() calls Run() in a loop of its own, which never ends: see README.md.
#include <cstdio>

#include "emotion_recognizer.h"

namespace {

// Too large for a stack: static, as every buffer here.
emotion::EmotionRecognizer recognizer;
std::int16_t samples[512];

std::size_t ReadSamples(std::int16_t* into, std::size_t count) {
  return std::fread(into, sizeof(*into), count, stdin);
}

// Thousandths, since printf of floats is often left out of a device's C library.
void Print(const emotion::Result& result) {
  if (result.lost_samples > 0) std::printf("%u samples were lost\n", static_cast<unsigned>(result.lost_samples));
  const unsigned milliseconds =
      static_cast<unsigned>(static_cast<std::uint64_t>(result.start_frame) * emotion::kHopLength * 1000 /
                            static_cast<std::uint64_t>(emotion::kSampleRate));
  if (!result.speech) {
    std::printf("%u ms: no speech\n", milliseconds);
    return;
  }
  std::printf("%u ms: %s%s%s", milliseconds, emotion::kLabels[result.label], result.too_quiet ? " (too quiet)" : "",
              result.clipping ? " (clipping)" : "");
  for (int c = 0; c < emotion::kClasses; ++c) {
    std::printf(" %s=%d", emotion::kLabels[c], static_cast<int>(1000.0f * result.probabilities[c] + 0.5f));
  }
  std::printf("\n");
}

}  // namespace

int main() {
  if (!recognizer.Begin()) {
    std::printf("the models do not load\n");
    return 1;
  }
  std::printf("arenas: model %u of %u bytes, frontend %u of %u bytes\n",
              static_cast<unsigned>(recognizer.model_arena_used()), static_cast<unsigned>(emotion::kModelArenaBytes),
              static_cast<unsigned>(recognizer.frontend_arena_used()),
              static_cast<unsigned>(emotion::kFrontendArenaBytes));
  emotion::Result result;
  emotion::Ran ran = emotion::Ran::kNothing;
  while (const std::size_t count = ReadSamples(samples, sizeof(samples) / sizeof(samples[0]))) {
    recognizer.Feed(samples, count);
    while ((ran = recognizer.Run(&result)) == emotion::Ran::kWindow) Print(result);
    if (ran == emotion::Ran::kFailed) return 1;
  }
  while ((ran = recognizer.Finish(&result)) == emotion::Ran::kWindow) Print(result);
  return ran == emotion::Ran::kFailed ? 1 : 0;
}
