// The firmware's stream on a host, with made-up models in the interpreters' place.
//
//   host CHUNK [finish] < samples      prints, for each window: start, frames, label, probabilities, and its frames
//
// The frontend gives feature b = (sample (7 b) mod kFrameLength of the frame) / 1000, the model's input has scale 0.25
// and zero point 3, and logit c is feature c of the window's first frame: enough to see any frame that is not where it
// should be. As in TFLM, a model's input is overwritten while it runs.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "emotion_recognizer.h"

namespace {

const void* frontend_model = emotion::kFrontend;
std::int8_t last_input[emotion::kWindowFrames * emotion::kBands];

}  // namespace

namespace tflite {

MicroInterpreter::MicroInterpreter(const Model* model, const MicroOpResolver&, std::uint8_t* arena, std::size_t,
                                   MicroResourceVariables*, MicroProfilerInterface*, bool)
    : model_(model), arena_(arena), tensors_() {}

MicroInterpreter::~MicroInterpreter() {}

TfLiteStatus MicroInterpreter::AllocateTensors() {
  TfLiteTensor& in = tensors_[0];
  TfLiteTensor& out = tensors_[1];
  in.data.data = arena_;
  if (model_ == frontend_model) {
    in.type = kTfLiteInt16;
    in.bytes = emotion::kFrameLength * sizeof(std::int16_t);
    out.type = kTfLiteFloat32;
    out.bytes = emotion::kBands * sizeof(float);
  } else {
    in.type = out.type = kTfLiteInt8;
    in.bytes = sizeof(last_input);
    out.bytes = emotion::kClasses;
    in.params = {0.25f, 3};
    out.params = {0.125f, -5};
  }
  out.data.data = arena_ + (in.bytes + 15) / 16 * 16;
  return kTfLiteOk;
}

TfLiteStatus MicroInterpreter::Invoke() {
  if (model_ == frontend_model) {
    for (int b = 0; b < emotion::kBands; ++b) {
      tensors_[1].data.f[b] = static_cast<float>(tensors_[0].data.i16[7 * b % emotion::kFrameLength]) / 1000.0f;
    }
  } else {
    std::memcpy(last_input, tensors_[0].data.int8, sizeof(last_input));
    std::memcpy(tensors_[1].data.int8, last_input, emotion::kClasses);
  }
  std::memset(tensors_[0].data.data, 0x55, tensors_[0].bytes);
  return kTfLiteOk;
}

TfLiteTensor* MicroInterpreter::input(std::size_t) { return &tensors_[0]; }
TfLiteTensor* MicroInterpreter::output(std::size_t) { return &tensors_[1]; }
std::size_t MicroInterpreter::arena_used_bytes() const { return 0; }

}  // namespace tflite

namespace {

emotion::EmotionRecognizer recognizer;

void Print(const emotion::Result& result, void*) {
  std::printf("%u %d %s", static_cast<unsigned>(result.start_frame), result.frames, emotion::kLabels[result.label]);
  for (float p : result.probabilities) std::printf(" %.7f", static_cast<double>(p));
  for (std::int8_t value : last_input) std::printf(" %d", value);
  std::printf("\n");
}

}  // namespace

int main(int count, char** arguments) {
  static std::int16_t samples[1 << 20];
  const std::size_t all = std::fread(samples, sizeof(*samples), sizeof(samples) / sizeof(*samples), stdin);
  const std::size_t chunk = static_cast<std::size_t>(std::atoi(arguments[1]));
  if (!recognizer.Begin()) return 1;
  // Twice: what the first stream leaves behind must not be seen in the second.
  for (int stream = 0; stream < (count > 2 ? 2 : 1); ++stream) {
    for (std::size_t at = 0; at < all; at += chunk) {
      if (!recognizer.Feed(samples + at, all - at < chunk ? all - at : chunk, Print, nullptr)) return 1;
    }
    if (count > 2 && !recognizer.Finish(Print, nullptr)) return 1;
  }
  return 0;
}
