#include "emotion_recognizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace emotion {
namespace {

static_assert(kHopLength <= kFrameLength, "frames are neighbours or overlap");
static_assert(kQueueSamples >= kFrameLength, "the queue must hold a frame");
#if defined(ESP_PLATFORM)
static_assert(kFitsEspNn, "ESP-NN's softmax would write past its buffer with this model: README.md, \"ESP-IDF\"");
#endif

template <typename Value>
constexpr TfLiteType kTypeOf = sizeof(Value) == 1 ? kTfLiteInt8 : kTfLiteInt16;

template <typename Value>
Value* Data(TfLiteTensor* tensor) {
  return static_cast<Value*>(tensor->data.data);
}

// Sums of a profile, and of a window's samples at full scale, stay within 32 bits.
static_assert(kProfileMostFrames <= (1 << 30) / (256 * kParts), "too much speech for a profile");
static_assert(std::int64_t{kWindowFrames} * kFrameLength * kClippedOneIn <= std::numeric_limits<std::int32_t>::max(),
              "too long a window to count its samples");

std::int32_t Sum(const std::int8_t* codes, int first, int end) {
  std::int32_t sum = 0;
  for (int band = first; band < end; ++band) sum += codes[band];
  return sum;
}

// A code without the level, in parts of a step, not below the clamp.
int LevelOff(int code, int level) { return std::max(kParts * code - level, -kParts * kClamp); }

void Put(std::int32_t value, std::uint8_t* bytes) {
  for (int i = 0; i < 4; ++i) bytes[i] = static_cast<std::uint8_t>(static_cast<std::uint32_t>(value) >> (8 * i));
}

std::int32_t Get(const std::uint8_t* bytes) {
  std::uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value |= static_cast<std::uint32_t>(bytes[i]) << (8 * i);
  return static_cast<std::int32_t>(value);
}

// CRC-32 as in zlib; without its table, which would take 1 KB.
std::uint32_t Crc(const std::uint8_t* bytes, std::size_t count) {
  std::uint32_t crc = 0xFFFFFFFFu;
  for (std::size_t at = 0; at < count; ++at) {
    crc ^= bytes[at];
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1u) != 0 ? 0xEDB88320u : 0u);
  }
  return ~crc;
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

void Profile::Reset() {
  std::memset(sums_, 0, sizeof(sums_));
  frames_ = 0;
  frozen_ = false;
}

float Profile::learned_seconds() const {
  return static_cast<float>(frames_) * (static_cast<float>(kHopLength) / static_cast<float>(kSampleRate));
}

void Profile::Save(std::uint8_t* bytes) const {
  std::memcpy(bytes, kInputDigest, sizeof(kInputDigest));
  Put(frames_, bytes + sizeof(kInputDigest));
  for (int band = 0; band < kBands; ++band) Put(sums_[band], bytes + sizeof(kInputDigest) + 4 * (band + 1));
  Put(static_cast<std::int32_t>(Crc(bytes, kBytes - 4)), bytes + kBytes - 4);
}

bool Profile::Load(const std::uint8_t* bytes, std::size_t count) {
  if (count != kBytes || std::memcmp(bytes, kInputDigest, sizeof(kInputDigest)) != 0) return false;
  if (static_cast<std::uint32_t>(Get(bytes + kBytes - 4)) != Crc(bytes, kBytes - 4)) return false;
  bytes += sizeof(kInputDigest);
  const std::int32_t frames = Get(bytes);
  if (frames < 0 || frames > kProfileMostFrames) return false;
  for (int band = 0; band < kBands; ++band) {
    const std::int32_t sum = Get(bytes + 4 * (band + 1));
    if (sum < -kParts * kClamp * frames || sum > kParts * 255 * frames) return false;
  }
  frames_ = frames;
  for (int band = 0; band < kBands; ++band) sums_[band] = Get(bytes + 4 * (band + 1));
  return true;
}

void Profile::Learn(const std::int8_t* codes, int level) {
  if (frozen()) return;
  for (int band = 0; band < kBands; ++band) sums_[band] += LevelOff(codes[band], level);
  ++frames_;
}

void Profile::Offset(bool known, float* offset) const {
  known = known && frames_ > 0 && frames_ >= kProfileAfterFrames;
  const float count = static_cast<float>(kParts * std::max<std::int32_t>(1, frames_));
  const float share = static_cast<float>(frames_) / static_cast<float>(frames_ + kProfileHalfFrames);
  for (int band = 0; band < kBands; ++band) {
    const float voice = static_cast<float>(sums_[band]) / count;
    // Rounded before it is added, whatever the compiler: a fused sum would differ from Python's in the last bit.
    volatile float off = known ? share * (voice - kVoiceMean[band]) : 0.0f;
    offset[band] = kMean[band] + off;
  }
}

EmotionRecognizer::EmotionRecognizer()
    : model_(tflm::GetModel(kModel), model_ops_, model_arena_, sizeof(model_arena_)),
      frontend_(tflm::GetModel(kFrontend), frontend_ops_, frontend_arena_, sizeof(frontend_arena_)),
      lost_(0),
      adapting_(kAdapts) {
  Reset();
}

bool EmotionRecognizer::Begin() {
  if (!AddModelOps(model_ops_) || !AddFrontendOps(frontend_ops_)) return false;
  if (model_.AllocateTensors() != kTfLiteOk || frontend_.AllocateTensors() != kTfLiteOk) return false;
  return model_.input(0)->type == kTypeOf<Feature> && model_.input(0)->bytes == kWindowFrames * kBands * sizeof(Feature) &&
         model_.output(0)->type == kTypeOf<Logit> && model_.output(0)->bytes == kClasses * sizeof(Logit) &&
         frontend_.input(0)->type == kTfLiteFloat32 && frontend_.input(0)->bytes == kFrameLength * sizeof(float) &&
         frontend_.output(0)->type == kTfLiteFloat32 && frontend_.output(0)->bytes == kBands * sizeof(float);
}

void EmotionRecognizer::Reset() {
  queue_.Skip(queue_.available());
  next_ = 0;
  filled_ = 0;
  until_window_ = kWindowFrames;
  new_ = 0;
  complete_ = false;
  seen_ = 0;
}

Ran EmotionRecognizer::Run(Result* result) {
  while (queue_.available() >= kFrameLength) {
    queue_.Peek(pcm_, kFrameLength);
    queue_.Skip(kHopLength);
    if (!PushFrame()) return Ran::kFailed;
    if (complete_) return Emit(result);
  }
  return Ran::kNothing;
}

Ran EmotionRecognizer::Finish(Result* result) {
  const Ran ran = Run(result);
  if (ran != Ran::kNothing) return ran;
  // A stream that is shorter than a frame is heard as one that ends with zeros.
  const std::size_t rest = queue_.available();
  if (filled_ == 0 && rest > 0) {
    std::fill_n(pcm_, kFrameLength, std::int16_t{0});
    queue_.Peek(pcm_, rest);
    if (!PushFrame()) return Ran::kFailed;
  }
  // A window that the last frame completed has come already.
  const Ran last = new_ > 0 ? Emit(result) : Ran::kNothing;
  Reset();
  return last;
}

bool EmotionRecognizer::PushFrame() {
  if (!ComputeFrame(pcm_, ring_ + next_ * kBands)) return false;
  int full = 0;
  for (const std::int16_t sample : pcm_) full += sample >= kFullScale || sample <= -kFullScale;
  full_scale_[next_] = static_cast<std::uint16_t>(full);
  next_ = (next_ + 1) % kWindowFrames;
  if (filled_ < kWindowFrames) ++filled_;
  ++seen_;
  ++new_;
  complete_ = --until_window_ == 0;
  if (complete_) until_window_ = kWindowHop;
  return true;
}

// Decides, then learns: what a window teaches is used from the next one on. Each frame is learned once, in the first
// window that holds it.
Ran EmotionRecognizer::Emit(Result* result) {
  const Window window = {ring_, (next_ + kWindowFrames - filled_) % kWindowFrames, filled_};
  const Speech speech = Detect(window);
  if (!Classify(window, speech, result)) return Ran::kFailed;
  result->start_frame = seen_ - static_cast<std::uint32_t>(filled_);
  std::int32_t full = 0;
  for (int frame = 0; frame < filled_; ++frame) {
    if (energy_[frame] >= speech.least) full += full_scale_[window.Place(frame)];
  }
  result->clipping = kClippedOneIn * full > speech.count * kFrameLength;
  if (adapting_ && speech.there) {
    for (int frame = filled_ - new_; frame < filled_; ++frame) {
      if (energy_[frame] >= speech.least) profile_.Learn(window[frame], speech.level);
    }
  }
  new_ = 0;
  result->learned_seconds = profile_.learned_seconds();
  const std::uint32_t lost = queue_.lost();
  result->lost_samples = lost - lost_;
  lost_ = lost;
  return Ran::kWindow;
}

bool EmotionRecognizer::ComputeFrame(const std::int16_t* samples, std::int8_t* codes) {
  std::int32_t sum = 0;
  for (int i = 0; i < kFrameLength; ++i) sum += samples[i];
  // A microphone's DC.
  const float mean = static_cast<float>(sum) / static_cast<float>(kFrameLength);
  float* input = Data<float>(frontend_.input(0));
  for (int i = 0; i < kFrameLength; ++i) input[i] = static_cast<float>(samples[i]) - mean;
  if (frontend_.Invoke() != kTfLiteOk) return false;
  const float* values = Data<float>(frontend_.output(0));
  for (int band = 0; band < kBands; ++band) {
    const float step = std::nearbyint(values[band] * kStepsPerNat) + static_cast<float>(kZeroCode);
    codes[band] = static_cast<std::int8_t>(step > -128.0f ? std::min(step, 127.0f) : -128.0f);  // NaN: the lowest
  }
  return true;
}

bool EmotionRecognizer::ComputeWindow(const std::int8_t* codes, int frames, Result* result) {
  if (frames < 1 || frames > kWindowFrames) return false;
  const Window window = {codes, 0, frames};
  result->start_frame = 0;
  result->clipping = false;
  result->learned_seconds = profile_.learned_seconds();
  result->lost_samples = 0;
  return Classify(window, Detect(window), result);
}

// Of the energies of frames `first` to `last` that are at least `least`.
std::int32_t EmotionRecognizer::Percentile(int percent, int first, int last, std::int32_t least) {
  int count = 0;
  for (int frame = first; frame <= last; ++frame) {
    if (energy_[frame] >= least) sorted_[count++] = energy_[frame];
  }
  std::int32_t* place = sorted_ + (count - 1) * percent / 100;
  std::nth_element(sorted_, place, sorted_ + count);
  return *place;
}

// What jax_reparam/frontend/speech.py does, in the same integers.
EmotionRecognizer::Speech EmotionRecognizer::Detect(const Window& window) {
  constexpr std::int32_t kAll = std::numeric_limits<std::int32_t>::min();
  const int end = window.frames - 1;
  for (int frame = 0; frame <= end; ++frame) energy_[frame] = Sum(window[frame], kEnergyFirst, kEnergyEnd);
  Speech speech = {false, kAll, window.frames, 0, end, 0};
  const std::int32_t quiet = Percentile(kQuietPercent, 0, end, kAll);
  const std::int32_t loud = Percentile(kLoudPercent, 0, end, kAll);
  if (loud - quiet < kRise) return speech;
  // The loud part once more, in the span of what is speech by the first: silence around it would else move it.
  int first = 0;
  int last = end;
  const std::int32_t rough = std::max(quiet + kRise, loud - kBelow);
  while (energy_[first] < rough) ++first;
  while (energy_[last] < rough) --last;
  const std::int32_t least = std::max(quiet + kRise, Percentile(kLoudPercent, first, last, kAll) - kBelow);
  if (Percentile(kLoudPercent, 0, end, least) - Percentile(kQuietPercent, 0, end, least) < kSpread) return speech;
  first = end;
  last = 0;
  int count = 0;
  std::int32_t loudness = 0;
  for (int frame = 0; frame <= end; ++frame) {
    if (energy_[frame] < least) continue;
    loudness += Sum(window[frame], kLevelFirst, kLevelEnd);
    if (count++ == 0) first = frame;
    last = frame;
  }
  if (count < kShortestSpeech) return speech;
  const float mean = static_cast<float>(loudness) / static_cast<float>(count * (kLevelEnd - kLevelFirst));
  return {true, least, count, first, last, static_cast<int>(std::nearbyint(static_cast<float>(kParts) * mean))};
}

// The window is its active span, repeated. The model's input is written anew every time: TFLM may use its memory while
// it runs.
bool EmotionRecognizer::Classify(const Window& window, const Speech& speech, Result* result) {
  result->frames = window.frames;
  result->label = -1;
  std::fill_n(result->logits, kClasses, Logit{0});
  std::fill_n(result->probabilities, kClasses, 0.0f);
  result->speech = speech.there;
  result->speech_share = 0.0f;
  result->too_quiet = false;
  if (!speech.there) return true;
  result->speech_share = static_cast<float>(speech.count) / static_cast<float>(window.frames);
  result->too_quiet = speech.level < kParts * kQuietestLevel;
  float offset[kBands];
  profile_.Offset(adapting_, offset);
  const TfLiteQuantizationParams& params = model_.input(0)->params;
  Feature* input = Data<Feature>(model_.input(0));
  const int span = speech.last + 1 - speech.first;
  for (int frame = 0; frame < span; ++frame) {
    const std::int8_t* codes = window[speech.first + frame];
    for (int band = 0; band < kBands; ++band) {
      // In steps; exact, so that the difference is rounded once, fused or not.
      const float off = static_cast<float>(LevelOff(codes[band], speech.level)) / static_cast<float>(kParts);
      *input++ = Quantize((off - offset[band]) / kStd[band], params);
    }
  }
  for (int frame = span; frame < kWindowFrames; ++frame, input += kBands) {
    std::memcpy(input, input - span * kBands, kBands * sizeof(Feature));
  }
  if (model_.Invoke() != kTfLiteOk) return false;
  Softmax(Data<Logit>(model_.output(0)), model_.output(0)->params, result);
  return true;
}

}  // namespace emotion
