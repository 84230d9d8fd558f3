// The firmware's stream on a host, with made-up models in the interpreters' place.
//
//   host CHUNK WORD... < samples    prints, for each window: start, frames, label or -, share of speech, whether it is too
//                                   quiet, whether it clips, seconds learned, probabilities, its input
//
//   host window < codes             prints the same of one window by ComputeWindow()
//
//   host profiles < profiles        prints for each profile what it saves when it has loaded it, or "refused"
//
// With `finish` the stream comes twice; with `drop`, too, but the first is forgotten rather than finished. With `reset` the
// profile is forgotten between. With `known` a profile comes before the samples and is loaded, with `frozen` into one that
// learns nothing; with `off` the recognizer does not adapt.
//
// The frontend gives log-mel b = (value (7 b) mod kFrameLength of the frame) / 2000 - 5, the model's input has scale 1/16
// and zero point 3 (an int16 one 1/2048 and 0), and logit c is feature c of the window's first frame: enough to see any
// frame that is not where it should be. As in TFLM, a model's input is overwritten while it runs.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "emotion_recognizer.h"

namespace {

emotion::Feature last_input[emotion::kWindowFrames * emotion::kBands];

}  // namespace

STUBS_NAMESPACE

namespace {

MicroAllocator no_allocator;

// Where the stubs leave room for what TFLM keeps.
struct State {
  std::uint8_t* arena;
  TfLiteTensor in, out;
};
static_assert(sizeof(State) <= 1024, "too large for rest_");

State& Of(unsigned char* rest) { return *reinterpret_cast<State*>(rest); }

}  // namespace

MicroInterpreter::MicroInterpreter(const Model* model, const MicroOpResolver& resolver, std::uint8_t* arena,
                                   std::size_t, MicroResourceVariables*, MicroProfilerInterface*, bool)
    : model_(model), op_resolver_(resolver), context_(nullptr), allocator_(no_allocator), rest_() {
  Of(rest_).arena = arena;
}

MicroInterpreter::~MicroInterpreter() {}

TfLiteStatus MicroInterpreter::AllocateTensors() {
  TfLiteTensor& in = Of(rest_).in;
  TfLiteTensor& out = Of(rest_).out;
  in.data.data = Of(rest_).arena;
  if (model_ == tflite::GetModel(emotion::kFrontend)) {
    in.type = kTfLiteFloat32;
    in.bytes = emotion::kFrameLength * sizeof(float);
    out.type = kTfLiteFloat32;
    out.bytes = emotion::kBands * sizeof(float);
  } else {
    in.type = sizeof(emotion::Feature) == 1 ? kTfLiteInt8 : kTfLiteInt16;
    out.type = sizeof(emotion::Logit) == 1 ? kTfLiteInt8 : kTfLiteInt16;
    in.bytes = sizeof(last_input);
    out.bytes = emotion::kClasses * sizeof(emotion::Logit);
    in.params = sizeof(emotion::Feature) == 1 ? TfLiteQuantizationParams{1.0f / 16, 3}
                                              : TfLiteQuantizationParams{1.0f / 2048, 0};
    out.params = {0.125f, -5};
  }
  out.data.data = Of(rest_).arena + (in.bytes + 15) / 16 * 16;
  return kTfLiteOk;
}

TfLiteStatus MicroInterpreter::Invoke() {
  TfLiteTensor& in = Of(rest_).in;
  TfLiteTensor& out = Of(rest_).out;
  if (out.type == kTfLiteFloat32) {
    for (int b = 0; b < emotion::kBands; ++b) {
      out.data.f[b] = in.data.f[7 * b % emotion::kFrameLength] / 2000.0f - 5.0f;
    }
  } else {
    std::memcpy(last_input, in.data.data, sizeof(last_input));
    for (int c = 0; c < emotion::kClasses; ++c) static_cast<emotion::Logit*>(out.data.data)[c] = last_input[c];
  }
  std::memset(in.data.data, 0x55, in.bytes);
  return kTfLiteOk;
}

TfLiteTensor* MicroInterpreter::input(std::size_t) { return &Of(rest_).in; }
TfLiteTensor* MicroInterpreter::output(std::size_t) { return &Of(rest_).out; }

STUBS_NAMESPACE_END

namespace {

emotion::EmotionRecognizer recognizer;

void Print(const emotion::Result& result) {
  std::printf("%u %d %s", static_cast<unsigned>(result.start_frame), result.frames,
              result.label < 0 ? "-" : emotion::kLabels[result.label]);
  std::printf(" %.7f %d %d %.2f", static_cast<double>(result.speech_share), result.too_quiet, result.clipping,
              static_cast<double>(result.learned_seconds));
  for (float p : result.probabilities) std::printf(" %.7f", static_cast<double>(p));
  for (emotion::Feature value : last_input) std::printf(" %d", value);
  std::printf("\n");
  std::memset(last_input, 0, sizeof(last_input));  // the model does not always run
}

// What is due; false: a model failed.
bool Take(emotion::Ran (emotion::EmotionRecognizer::*run)(emotion::Result*)) {
  emotion::Result result;
  std::memset(&result, 0xFF, sizeof(result));  // what is not written is seen
  emotion::Ran ran;
  while ((ran = (recognizer.*run)(&result)) == emotion::Ran::kWindow) {
    if (result.lost_samples != 0) return false;
    Print(result);
  }
  return ran == emotion::Ran::kNothing;
}

// Chunks come whole where the queue has room; else what it holds is computed between.
bool Feed(const std::int16_t* samples, std::size_t count) {
  while (count > 0) {
    const std::size_t taken = recognizer.room() < count ? recognizer.room() : count;
    if (!recognizer.Feed(samples, taken) || !Take(&emotion::EmotionRecognizer::Run)) return false;
    samples += taken;
    count -= taken;
  }
  return true;
}

// Each comes after another voice, which a refusal must leave.
bool Profiles(const std::uint8_t* bytes, std::size_t count) {
  for (std::size_t at = 0; at + emotion::Profile::kBytes <= count; at += emotion::Profile::kBytes) {
    emotion::Profile profile;
    const std::int8_t codes[emotion::kBands] = {1, 2, 3};
    profile.Learn(codes, 0);
    std::uint8_t before[emotion::Profile::kBytes], after[emotion::Profile::kBytes];
    profile.Save(before);
    const bool loads = profile.Load(bytes + at, emotion::Profile::kBytes);
    profile.Save(after);
    if (!loads && std::memcmp(before, after, sizeof(after)) != 0) return false;
    for (std::size_t i = 0; loads && i < sizeof(after); ++i) std::printf("%02x", after[i]);
    std::printf(loads ? "\n" : "refused\n");
  }
  return true;
}

bool Window(const std::int8_t* codes, std::size_t count) {
  emotion::Result result;
  std::memset(&result, 0xFF, sizeof(result));  // what is not written is seen
  if (!recognizer.ComputeWindow(codes, static_cast<int>(count) / emotion::kBands, &result)) return false;
  Print(result);
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  static std::int16_t samples[1 << 20];
  std::size_t all = std::fread(samples, sizeof(*samples), sizeof(samples) / sizeof(*samples), stdin);
  if (std::strcmp(arguments[1], "profiles") == 0) {
    return Profiles(reinterpret_cast<const std::uint8_t*>(samples), all * sizeof(*samples)) ? 0 : 1;
  }
  if (!recognizer.Begin()) return 1;
  if (std::strcmp(arguments[1], "window") == 0) {
    return Window(reinterpret_cast<const std::int8_t*>(samples), all * sizeof(*samples)) ? 0 : 1;
  }
  const std::size_t chunk = static_cast<std::size_t>(std::atoi(arguments[1]));
  const auto has = [&](const char* word) {
    for (int i = 2; i < count; ++i) {
      if (std::strcmp(arguments[i], word) == 0) return true;
    }
    return false;
  };
  if (has("off")) recognizer.set_adapting(false);
  if (has("frozen")) recognizer.profile().Freeze();
  const std::int16_t* pcm = samples;
  if (has("known")) {
    constexpr std::size_t kBytes = emotion::Profile::kBytes;
    if (!recognizer.profile().Load(reinterpret_cast<const std::uint8_t*>(samples), kBytes)) return 1;
    pcm += kBytes / sizeof(*pcm);
    all -= kBytes / sizeof(*pcm);
  }
  // Twice: what the first stream leaves behind must not be seen in the second, but for the profile.
  const bool twice = has("finish") || has("drop");
  for (int stream = 0; stream < (twice ? 2 : 1); ++stream) {
    for (std::size_t at = 0; at < all; at += chunk) {
      if (!Feed(pcm + at, all - at < chunk ? all - at : chunk)) return 1;
    }
    if (stream == 0 && has("drop")) {
      recognizer.Reset();
    } else if (twice && !Take(&emotion::EmotionRecognizer::Finish)) {
      return 1;
    }
    if (has("reset")) recognizer.ResetProfile();
  }
  return 0;
}
