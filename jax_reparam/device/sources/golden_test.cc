// Checks a port against the golden vectors: `GoldenTest()` on the device, or this file as a program on a host or emulator.
//
// Exit code 0 and "golden vectors: passed" when
// - each feature of the golden PCM is within one step of Python's, and at most kMostDifferent in a thousand differ (float32
//   may round otherwise on another processor; the steps of int16 are finer);
// - the logits over Python's features are Python's, bit for bit (all of it is integer arithmetic);
// - fed as a stream, in chunks of odd sizes, the windows come where they should, with the golden decisions.
#include <cstdio>
#include <cstdlib>

#include "emotion_recognizer.h"
#include "golden_data.h"

int GoldenTest();

namespace {

constexpr int kMostDifferent = sizeof(emotion::Feature) == 1 ? 1 : 20;
// Between two classes whose golden logits are so near, a step in the features may decide.
constexpr int kNearTie = sizeof(emotion::Logit) == 1 ? 1 : 256;

emotion::EmotionRecognizer recognizer;

struct Stream {
  int windows;
  int wrong;
};

void Compare(const emotion::Result& result, void* context) {
  Stream* stream = static_cast<Stream*>(context);
  const int index = stream->windows++;
  if (index >= emotion::kGoldenWindows || result.start_frame != emotion::kGoldenStarts[index]) {
    ++stream->wrong;
    return;
  }
  const emotion::Logit* golden = emotion::kGoldenStreamLogits[index];
  int best = 0;
  for (int c = 1; c < emotion::kClasses; ++c) {
    if (golden[c] > golden[best]) best = c;
  }
  const bool right = golden[best] - golden[result.label] <= kNearTie;
  if (!right) ++stream->wrong;
  std::printf("window at frame %u: %s, golden: %s\n", static_cast<unsigned>(result.start_frame),
              emotion::kLabels[result.label], emotion::kLabels[best]);
}

}  // namespace

int GoldenTest() {
  using namespace emotion;
  if (!recognizer.Begin()) {
    std::printf("golden vectors: the models do not load\n");
    return 1;
  }
  int different = 0;
  int far = 0;
  for (int frame = 0; frame < kGoldenFrames; ++frame) {
    Feature features[kBands];
    if (!recognizer.ComputeFrame(kGoldenPcm + frame * kHopLength, features)) return 1;
    for (int band = 0; band < kBands; ++band) {
      const int apart = std::abs(features[band] - kGoldenFeatures[frame * kBands + band]);
      if (apart > 0) ++different;
      if (apart > 1) ++far;
    }
  }
  Result result;
  if (!recognizer.ComputeWindow(kGoldenFeatures, kGoldenFrames, &result)) return 1;
  int wrong_logits = 0;
  for (int c = 0; c < kClasses; ++c) {
    if (result.logits[c] != kGoldenLogits[c]) ++wrong_logits;
  }
  Stream stream = {0, 0};
  constexpr int kChunk = 399;
  for (int repeat = 0; repeat < kGoldenRepeats; ++repeat) {
    for (int at = 0; at < kGoldenSamples; at += kChunk) {
      const int count = kGoldenSamples - at < kChunk ? kGoldenSamples - at : kChunk;
      if (!recognizer.Feed(kGoldenPcm + at, static_cast<std::size_t>(count), Compare, &stream)) return 1;
    }
  }
  if (!recognizer.Finish(Compare, &stream)) return 1;

  const int features = kGoldenFrames * kBands;
  std::printf("features: %d of %d differ by one step, %d by more\n", different - far, features, far);
  std::printf("logits: %d of %d differ\n", wrong_logits, kClasses);
  std::printf("stream: %d windows of %d, %d of them wrong\n", stream.windows, kGoldenWindows, stream.wrong);
  std::printf("arenas: model %u of %u bytes, frontend %u of %u bytes\n",
              static_cast<unsigned>(recognizer.model_arena_used()), static_cast<unsigned>(kModelArenaBytes),
              static_cast<unsigned>(recognizer.frontend_arena_used()), static_cast<unsigned>(kFrontendArenaBytes));
  const bool passed = far == 0 && 1000 * different <= kMostDifferent * features && wrong_logits == 0 &&
                      stream.windows == kGoldenWindows && stream.wrong == 0;
  std::printf("golden vectors: %s\n", passed ? "passed" : "failed");
  return passed ? 0 : 1;
}

#ifndef EMOTION_NO_MAIN
int main() { return GoldenTest(); }
#endif
