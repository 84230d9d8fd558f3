#include "emotion_recognizer.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace emotion {
namespace {

static_assert(kHopLength <= kFrameLength, "frames are cut from a buffer of one frame");

template <typename Value>
constexpr TfLiteType kTypeOf = sizeof(Value) == 1 ? kTfLiteInt8 : kTfLiteInt16;

template <typename Value>
Value* Data(TfLiteTensor* tensor) {
  return static_cast<Value*>(tensor->data.data);
}

// A real value as the model's input holds it: the nearest step, ties to even as in Python, clipped.
Feature Quantize(float value, const TfLiteQuantizationParams& params) {
  const float step = std::nearbyint(value / params.scale) + static_cast<float>(params.zero_point);
  constexpr float kLow = std::numeric_limits<Feature>::min();
  constexpr float kHigh = std::numeric_limits<Feature>::max();
  if (!(step > kLow)) return std::numeric_limits<Feature>::min();  // NaN too
  if (step > kHigh) return std::numeric_limits<Feature>::max();
  return static_cast<Feature>(step);
}

void Softmax(const Logit* logits, const TfLiteQuantizationParams& params, Result* result) {
  int best = 0;
  for (int c = 1; c < kClasses; ++c) {
    if (logits[c] > logits[best]) best = c;
  }
  float sum = 0.0f;
  for (int c = 0; c < kClasses; ++c) {
    const float below = static_cast<float>(logits[c] - logits[best]) * params.scale;
    result->logits[c] = logits[c];
    result->probabilities[c] = std::exp(below);
    sum += result->probabilities[c];
  }
  for (int c = 0; c < kClasses; ++c) result->probabilities[c] /= sum;
  result->label = best;
}

}  // namespace

EmotionRecognizer::EmotionRecognizer()
    : model_(tflm::GetModel(kModel), model_ops_, model_arena_, sizeof(model_arena_)),
      frontend_(tflm::GetModel(kFrontend), frontend_ops_, frontend_arena_, sizeof(frontend_arena_)) {
  Reset();
}

bool EmotionRecognizer::Begin() {
  if (!AddModelOps(model_ops_) || !AddFrontendOps(frontend_ops_)) return false;
  if (model_.AllocateTensors() != kTfLiteOk || frontend_.AllocateTensors() != kTfLiteOk) return false;
  return model_.input(0)->type == kTypeOf<Feature> && model_.input(0)->bytes == sizeof(ring_) &&
         model_.output(0)->type == kTypeOf<Logit> && model_.output(0)->bytes == kClasses * sizeof(Logit) &&
         frontend_.input(0)->type == kTfLiteInt16 && frontend_.input(0)->bytes == sizeof(pcm_) &&
         frontend_.output(0)->type == kTfLiteFloat32 && frontend_.output(0)->bytes == kBands * sizeof(float);
}

void EmotionRecognizer::Reset() {
  pcm_count_ = 0;
  next_ = 0;
  filled_ = 0;
  until_window_ = kWindowFrames;
  complete_ = false;
  seen_ = 0;
}

bool EmotionRecognizer::Feed(const std::int16_t* samples, std::size_t count, OnResult on_result, void* context) {
  while (count > 0) {
    const std::size_t room = static_cast<std::size_t>(kFrameLength - pcm_count_);
    const std::size_t taken = count < room ? count : room;
    std::memcpy(pcm_ + pcm_count_, samples, taken * sizeof(*samples));
    pcm_count_ += static_cast<int>(taken);
    samples += taken;
    count -= taken;
    if (pcm_count_ < kFrameLength) return true;
    if (!PushFrame()) return false;
    pcm_count_ = kFrameLength - kHopLength;
    std::memmove(pcm_, pcm_ + kHopLength, static_cast<std::size_t>(pcm_count_) * sizeof(*pcm_));
    if (complete_ && !Emit(on_result, context)) return false;
  }
  return true;
}

bool EmotionRecognizer::Finish(OnResult on_result, void* context) {
  bool done = true;
  if (filled_ == 0 && pcm_count_ > 0) {
    std::memset(pcm_ + pcm_count_, 0, static_cast<std::size_t>(kFrameLength - pcm_count_) * sizeof(*pcm_));
    done = PushFrame();
  }
  // A window that the last frame completed has come already.
  if (done && filled_ > 0 && !complete_) done = Emit(on_result, context);
  Reset();
  return done;
}

bool EmotionRecognizer::PushFrame() {
  if (!ComputeFrame(pcm_, ring_ + next_ * kBands)) return false;
  next_ = (next_ + 1) % kWindowFrames;
  if (filled_ < kWindowFrames) ++filled_;
  ++seen_;
  complete_ = --until_window_ == 0;
  if (complete_) until_window_ = kWindowHop;
  return true;
}

bool EmotionRecognizer::Emit(OnResult on_result, void* context) {
  Result result;
  const int first = (next_ + kWindowFrames - filled_) % kWindowFrames;
  if (!Classify(ring_, first, filled_, &result)) return false;
  result.start_frame = seen_ - static_cast<std::uint32_t>(filled_);
  if (on_result != nullptr) on_result(result, context);
  return true;
}

bool EmotionRecognizer::ComputeFrame(const std::int16_t* samples, Feature* features) {
  std::memcpy(frontend_.input(0)->data.data, samples, sizeof(pcm_));
  if (frontend_.Invoke() != kTfLiteOk) return false;
  const float* values = Data<float>(frontend_.output(0));
  for (int band = 0; band < kBands; ++band) features[band] = Quantize(values[band], model_.input(0)->params);
  return true;
}

bool EmotionRecognizer::ComputeWindow(const Feature* features, int frames, Result* result) {
  if (frames < 1 || frames > kWindowFrames) return false;
  result->start_frame = 0;
  return Classify(features, 0, frames, result);
}

// `ring` holds kWindowFrames frames when `first` is not 0. The model's input is written anew every time: TFLM may use
// its memory while it runs.
bool EmotionRecognizer::Classify(const Feature* ring, int first, int frames, Result* result) {
  Feature* input = Data<Feature>(model_.input(0));
  for (int frame = 0; frame < kWindowFrames; ++frame) {
    const int place = (first + frame % frames) % kWindowFrames;
    std::memcpy(input + frame * kBands, ring + place * kBands, kBands * sizeof(Feature));
  }
  if (model_.Invoke() != kTfLiteOk) return false;
  Softmax(Data<Logit>(model_.output(0)), model_.output(0)->params, result);
  result->frames = frames;
  return true;
}

}  // namespace emotion
