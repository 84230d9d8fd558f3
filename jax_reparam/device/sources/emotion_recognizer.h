// Emotions of a stream of speech: PCM of any chunk size in, probabilities of a window every hop out.
//
// Frames of samples become features once (frontend.tflite), the features of the last window stay in a ring, and the model
// runs over the ring whenever a window is complete. No heap: everything lies inside the object, so make it static.
#ifndef EMOTION_RECOGNIZER_H_
#define EMOTION_RECOGNIZER_H_

#include <cstddef>
#include <cstdint>

#include "model_data.h"
#include "op_resolver.h"
#include "tflm.h"

namespace emotion {

// The decision on one window. `probabilities` are in the order of kLabels.
struct Result {
  std::uint32_t start_frame;  // first frame of the window since the stream began
  int frames;                 // frames of the stream in it; fewer than kWindowFrames if the stream was shorter
  int label;                  // the most probable class
  Logit logits[kClasses];
  float probabilities[kClasses];
};

class EmotionRecognizer {
 public:
  using OnResult = void (*)(const Result& result, void* context);

  EmotionRecognizer();
  EmotionRecognizer(const EmotionRecognizer&) = delete;
  EmotionRecognizer& operator=(const EmotionRecognizer&) = delete;

  // Loads both models; call once, before anything else. False: an operator is missing or an arena too small (TFLM's log
  // says which), a model is not the one that these sources were written for, or they were compiled with other
  // definitions than TFLM (README.md: TF_LITE_STATIC_MEMORY).
  bool Begin();

  // Takes the next samples of the stream (16-bit mono at kSampleRate) and calls `on_result` for each window that they
  // complete: the first one after kWindowFrames frames, then one every kWindowHop frames. False: a model failed.
  bool Feed(const std::int16_t* samples, std::size_t count, OnResult on_result, void* context);

  // Ends the stream, as the end of a recording does, and starts a new one: gives the window that ends with it, unless
  // that one has come already. A stream shorter than a window is repeated until it fills one. Never needed by a device
  // that listens on and on.
  bool Finish(OnResult on_result, void* context);

  // Forgets the stream.
  void Reset();

  // The two halves, for checking a port against the golden vectors. `samples` are kFrameLength, `features` kBands.
  bool ComputeFrame(const std::int16_t* samples, Feature* features);
  // `features` are `frames` times kBands; fewer than kWindowFrames are repeated.
  bool ComputeWindow(const Feature* features, int frames, Result* result);

  // What the interpreters took of their arenas, in bytes; valid after Begin().
  std::size_t model_arena_used() const { return model_.arena_used_bytes(); }
  std::size_t frontend_arena_used() const { return frontend_.arena_used_bytes(); }

 private:
  bool PushFrame();
  bool Emit(OnResult on_result, void* context);
  bool Classify(const Feature* ring, int first, int frames, Result* result);

  alignas(16) std::uint8_t model_arena_[kModelArenaBytes];
  alignas(16) std::uint8_t frontend_arena_[kFrontendArenaBytes];
  ModelOpResolver model_ops_;
  FrontendOpResolver frontend_ops_;
  tflm::MicroInterpreter model_;
  tflm::MicroInterpreter frontend_;

  std::int16_t pcm_[kFrameLength];
  int pcm_count_;
  Feature ring_[kWindowFrames * kBands];
  int next_;              // place of the next frame in the ring
  int filled_;            // frames in the ring, at most kWindowFrames
  int until_window_;      // frames that the next window still needs
  bool complete_;         // the last frame completed a window
  std::uint32_t seen_;    // frames since the stream began
};

}  // namespace emotion

#endif  // EMOTION_RECOGNIZER_H_
