// Checks a port against the golden vectors: `GoldenTest()` on the device, or this file as a program on a host or emulator.
//
// Exit code 0 and "golden vectors: passed" when
// - each code of the golden PCM is within one step of Python's, and at most kMostDifferent in a thousand differ (float32
//   may round otherwise on another processor);
// - the logits over Python's codes, of an unknown and of a known speaker, are Python's, bit for bit; where they are not,
//   the largest difference and its place are printed;
// - fed as a stream, in chunks of odd sizes, the windows come where they should, with the golden decisions, "nobody
//   speaks" where nobody does, and none lost; behind the silence the stream is quieter, and the profile is one that was
//   saved, forgotten and loaded again;
// - what that stream teaches of its speaker is what it taught in Python, and can be saved and loaded, but not damaged:
//   half written, or with any bit flipped;
// - a queue that is full loses samples, and says how many.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "emotion_recognizer.h"
#include "golden_data.h"

int GoldenTest();

namespace {

constexpr int kMostDifferent = 1;
// Between two classes whose golden logits are so near, a step in the codes may decide.
constexpr int kNearTie = sizeof(emotion::Logit) == 1 ? 1 : 256;

emotion::EmotionRecognizer recognizer;

struct Stream {
  int windows;
  int wrong;
  bool exact;  // no code differs from Python's
};

// How far logits are from Python's.
struct Difference {
  int wrong;    // of kClasses
  int largest;  // in steps, with its sign
  int where;    // its class
  bool label;   // the decision is Python's
};

int Best(const emotion::Logit* logits) {
  int best = 0;
  for (int c = 1; c < emotion::kClasses; ++c) {
    if (logits[c] > logits[best]) best = c;
  }
  return best;
}

bool Right(const emotion::Result& result, int index, bool exact) {
  if (index >= emotion::kGoldenWindows || result.start_frame != emotion::kGoldenStarts[index]) return false;
  const float learned = result.learned_seconds * emotion::kSampleRate / emotion::kHopLength;
  if (std::abs(learned - static_cast<float>(emotion::kGoldenLearned[index])) > 0.5f) return false;
  const float share = static_cast<float>(emotion::kGoldenSpeech[index]) / static_cast<float>(result.frames);
  if (result.speech_share != share || result.speech != (share > 0.0f)) return false;
  if (result.lost_samples != 0) return false;
  if (!result.speech) return result.label == -1;
  const emotion::Logit* golden = emotion::kGoldenStreamLogits[index];
  return result.label >= 0 && golden[Best(golden)] - golden[result.label] <= (exact ? 0 : kNearTie);
}

void Compare(const emotion::Result& result, Stream* stream) {
  const int index = stream->windows++;
  const bool right = Right(result, index, stream->exact);
  if (!right) ++stream->wrong;
  std::printf("window at frame %u: %s, %s\n", static_cast<unsigned>(result.start_frame),
              result.label < 0 ? "no speech" : emotion::kLabels[result.label], right ? "right" : "wrong");
}

bool Feed(const std::int16_t* samples, int all, Stream* stream) {
  constexpr int kChunk = 399;
  emotion::Result result;
  for (int at = 0; at < all; at += kChunk) {
    const int count = all - at < kChunk ? all - at : kChunk;
    if (!recognizer.Feed(samples + at, static_cast<std::size_t>(count))) return false;
    emotion::Ran ran;
    while ((ran = recognizer.Run(&result)) == emotion::Ran::kWindow) Compare(result, stream);
    if (ran == emotion::Ran::kFailed) return false;
  }
  return true;
}

bool FeedPcm(int divisor, Stream* stream) {
  static std::int16_t hop[emotion::kHopLength];  // as a DMA buffer is: written anew while the queue keeps its own
  for (int repeat = 0; repeat < emotion::kGoldenRepeats; ++repeat) {
    for (int at = 0; at < emotion::kGoldenSamples; at += emotion::kHopLength) {
      for (int i = 0; i < emotion::kHopLength; ++i) {
        hop[i] = static_cast<std::int16_t>(emotion::kGoldenPcm[at + i] / divisor);
      }
      if (!Feed(hop, emotion::kHopLength, stream)) return false;
    }
  }
  return true;
}

// As a device that is switched off and on would.
bool ForgetAndLoad() {
  std::uint8_t bytes[emotion::Profile::kBytes];
  recognizer.profile().Save(bytes);
  recognizer.ResetProfile();
  return recognizer.profile().learned_seconds() == 0.0f && recognizer.profile().Load(bytes, sizeof(bytes));
}

bool FeedGolden(Stream* stream) {
  static const std::int16_t kZeros[emotion::kHopLength] = {};
  if (!FeedPcm(1, stream)) return false;
  for (int at = 0; at < emotion::kGoldenSilence; at += emotion::kHopLength) {
    if (!Feed(kZeros, emotion::kHopLength, stream)) return false;
  }
  if (!ForgetAndLoad() || !FeedPcm(emotion::kGoldenQuieter, stream)) return false;
  emotion::Result result;
  emotion::Ran ran;
  while ((ran = recognizer.Finish(&result)) == emotion::Ran::kWindow) Compare(result, stream);
  return ran == emotion::Ran::kNothing;
}

// The queue takes what it has room for, and the next result says what was lost.
bool Overflows() {
  std::uint32_t lost = 0;
  while (recognizer.Feed(emotion::kGoldenPcm, emotion::kGoldenSamples)) {
  }
  lost = recognizer.lost_samples();
  const bool full = lost > 0 && recognizer.room() == 0 && !recognizer.Feed(emotion::kGoldenPcm, 3);
  const bool counted = recognizer.lost_samples() == lost + 3;
  recognizer.Reset();
  return full && counted && recognizer.room() == emotion::kQueueSamples;
}

Difference Compare(const emotion::Logit* golden) {
  emotion::Result result;
  Difference difference = {emotion::kClasses, 0, 0, false};
  if (!recognizer.ComputeWindow(emotion::kGoldenCodes, emotion::kGoldenFrames, &result)) return difference;
  difference.wrong = 0;
  for (int c = 0; c < emotion::kClasses; ++c) {
    const int apart = result.logits[c] - golden[c];
    difference.wrong += apart != 0;
    if (std::abs(apart) > std::abs(difference.largest)) {
      difference.largest = apart;
      difference.where = c;
    }
  }
  difference.label = result.label == Best(golden);
  return difference;
}

void Print(const char* whose, const Difference& difference) {
  std::printf("logits of %s speaker: ", whose);
  if (difference.wrong == 0) {
    std::printf("all %d equal\n", emotion::kClasses);
    return;
  }
  std::printf("%d of %d differ, most by %d steps, of class %d (%s); the label is %s\n", difference.wrong,
              emotion::kClasses, difference.largest, difference.where, emotion::kLabels[difference.where],
              difference.label ? "right" : "wrong");
}

bool Refuses(const std::uint8_t* bytes, std::size_t count) {
  return !recognizer.profile().Load(bytes, count) && recognizer.profile().learned_seconds() == 0.0f;
}

// Loads what is right, and refuses what is not.
bool Loads() {
  std::uint8_t bytes[emotion::Profile::kBytes];
  const std::uint8_t* const golden = emotion::kGoldenProfile;
  constexpr int kRests[] = {0xFF, 0x00};
  bool right = true;
  for (std::size_t at = 0; at < sizeof(bytes); ++at) {
    right = right && Refuses(golden, at);
    std::memcpy(bytes, golden, sizeof(bytes));
    for (int bit = 0; bit < 8; ++bit) {
      bytes[at] = static_cast<std::uint8_t>(golden[at] ^ (1 << bit));
      right = right && Refuses(bytes, sizeof(bytes));
    }
    // Written up to here, when the power went: the rest is as flash is erased, or zero.
    for (const int rest : kRests) {
      std::memset(bytes + at, rest, sizeof(bytes) - at);
      right = right && (std::memcmp(bytes, golden, sizeof(bytes)) == 0 || Refuses(bytes, sizeof(bytes)));
    }
  }
  return right && recognizer.profile().Load(golden, sizeof(bytes));
}

// A frozen profile learns nothing, until it is freed.
bool Freezes() {
  emotion::Profile profile;
  profile.Freeze();
  profile.Learn(emotion::kGoldenCodes, 0);
  const bool still = profile.learned_seconds() == 0.0f;
  profile.Freeze(false);
  profile.Learn(emotion::kGoldenCodes, 0);
  return still && profile.learned_seconds() > 0.0f;
}

}  // namespace

int GoldenTest() {
  using namespace emotion;
  if (!recognizer.Begin()) {
    std::printf("golden vectors: the models do not load\n");
    return 1;
  }
  const bool adapting = recognizer.adapting();
  recognizer.set_adapting(true);
  int different = 0;
  int far = 0;
  int largest = 0;
  int where = 0;
  for (int frame = 0; frame < kGoldenFrames; ++frame) {
    std::int8_t codes[kBands];
    if (!recognizer.ComputeFrame(kGoldenPcm + frame * kHopLength, codes)) {
      std::printf("golden vectors: the frontend failed\n");
      return 1;
    }
    for (int band = 0; band < kBands; ++band) {
      const int apart = std::abs(codes[band] - kGoldenCodes[frame * kBands + band]);
      if (apart > 0) ++different;
      if (apart > 1) ++far;
      if (apart > largest) {
        largest = apart;
        where = frame * kBands + band;
      }
    }
  }
  const Difference unknown = Compare(kGoldenLogits);
  Stream stream = {0, 0, different == 0};
  if (!FeedGolden(&stream)) ++stream.wrong;
  std::uint8_t profile[Profile::kBytes];
  recognizer.profile().Save(profile);
  int wrong_bytes = 0;
  for (std::size_t at = 0; at < sizeof(profile); ++at) wrong_bytes += profile[at] != kGoldenProfile[at];
  recognizer.ResetProfile();
  const bool loads = Loads();
  const Difference known = Compare(kGoldenKnownLogits);
  recognizer.ResetProfile();
  recognizer.set_adapting(adapting);
  const bool overflows = Overflows();

  const int codes = kGoldenFrames * kBands;
  std::printf("codes: %d of %d differ by one step, %d by more", different - far, codes, far);
  if (different > 0) std::printf(", most by %d steps, in frame %d, band %d", largest, where / kBands, where % kBands);
  std::printf("\n");
  Print("an unknown", unknown);
  Print("the known", known);
  std::printf("stream: %d windows of %d, %d of them wrong\n", stream.windows, kGoldenWindows, stream.wrong);
  std::printf("profile: %d bytes of %d differ, %s\n", wrong_bytes, static_cast<int>(sizeof(profile)),
              loads ? "it loads" : "it does not load, or one does that should not");
  std::printf("queue: %s\n", overflows ? "it says what it lost" : "it does not say what it lost");
  std::printf("arenas: model %u of %u bytes, frontend %u of %u bytes\n",
              static_cast<unsigned>(recognizer.model_arena_used()), static_cast<unsigned>(kModelArenaBytes),
              static_cast<unsigned>(recognizer.frontend_arena_used()), static_cast<unsigned>(kFrontendArenaBytes));
  // Where codes differ at all, other sums are right.
  const bool passed = far == 0 && 1000 * different <= kMostDifferent * codes && unknown.wrong == 0 && known.wrong == 0 &&
                      stream.windows == kGoldenWindows && stream.wrong == 0 && loads && Freezes() && overflows &&
                      (wrong_bytes == 0 || different > 0);
  std::printf("golden vectors: %s\n", passed ? "passed" : "failed");
  return passed ? 0 : 1;
}

#ifndef EMOTION_NO_MAIN
int main() { return GoldenTest(); }
#endif
