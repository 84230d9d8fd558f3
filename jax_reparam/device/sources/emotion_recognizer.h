// Emotions of a stream of speech: PCM of any chunk size in, probabilities of a window every hop out.
//
// Two tasks share one recognizer. The audio task (or an interrupt) calls Feed(), which only copies samples into a queue.
// Another task of lower priority, or the main loop, calls Run(), which computes. Frames of samples become log-mel once
// (frontend.tflite), in steps of 0.1 nat, and the last window of them stays in a ring. Whenever a window is complete, its
// speech is looked for. Where somebody speaks, the speech's level and what is known of the voice are taken off, and the
// model runs. No heap: everything lies inside the object, so make it static.
#ifndef EMOTION_RECOGNIZER_H_
#define EMOTION_RECOGNIZER_H_

#include <cstddef>
#include <cstdint>

#include "model_data.h"
#include "op_resolver.h"
#include "sample_queue.h"
#include "tflm.h"

namespace emotion {

// The decision on one window. `probabilities` are in the order of kLabels.
struct Result {
  std::uint32_t start_frame;  // first frame of the window since the stream began
  int frames;                 // frames of the stream in it; fewer than kWindowFrames if the stream was shorter
  int label;                  // the most probable class; -1: nobody speaks, the model did not run, all below is 0
  Logit logits[kClasses];
  float probabilities[kClasses];
  bool speech;            // somebody speaks
  float speech_share;     // of the window's frames
  bool too_quiet;         // log-mel's floor cuts the speech off
  bool clipping;          // more than one in kClippedOneIn samples of the speech is at full scale
  float learned_seconds;  // of the speaker's speech in the profile, what this window taught it included
  // Samples that Feed() dropped since the result before, because the queue was full; this window or the next has a gap.
  std::uint32_t lost_samples;
};

// What a call of Run() or Finish() did.
enum class Ran {
  kNothing,  // no window was due
  kWindow,   // a window was due, and its result is written
  kFailed,   // a model failed
};

// What is known of one speaker's voice: the mean of the speech so far, without its level. It holds no speech, but it is
// personal data all the same, and it fits one person only: forget it (Reset), or load another, when the user changes.
class Profile {
 public:
  static constexpr std::size_t kBytes = sizeof(kInputDigest) + 4 * (kBands + 2);

  Profile() { Reset(); }

  // Forgets the voice, and learns from now on.
  void Reset();

  // A frozen profile is used, but learns nothing more. It freezes itself at kProfileMostFrames.
  void Freeze(bool frozen = true) { frozen_ = frozen; }
  bool frozen() const { return frozen_ || frames_ >= kProfileMostFrames; }

  float learned_seconds() const;

  // Writes kBytes, the same on every processor, and as in the file of predict --save-profile: the digest, the frames, the
  // sums, and the CRC-32 of all before; 32 bits each, the lowest first.
  void Save(std::uint8_t* bytes) const;

  // Takes what Save() wrote, or that file; learns on unless frozen. False, and nothing changes: not so many bytes, a
  // wrong CRC-32 (half written, or a bit has flipped), of a model with another input, or numbers that no speech gives.
  bool Load(const std::uint8_t* bytes, std::size_t count);

  // What is taken off a window beside its level, kBands numbers in steps: the training speakers' mean, and with a
  // profile the share of this voice's difference that it is sure of.
  void Offset(bool known, float* offset) const;

  // Learns one frame of speech, with its level in parts of a step.
  void Learn(const std::int8_t* codes, int level);

 private:
  std::int32_t sums_[kBands];  // in parts of a step
  std::int32_t frames_;
  bool frozen_;
};

class EmotionRecognizer {
 public:
  EmotionRecognizer();
  EmotionRecognizer(const EmotionRecognizer&) = delete;
  EmotionRecognizer& operator=(const EmotionRecognizer&) = delete;

  // Loads both models; call once, before anything else. False: an operator is missing or an arena too small (TFLM's log
  // says which), a model is not the one that these sources were written for, or they were compiled with other
  // definitions than TFLM (README.md: TF_LITE_STATIC_MEMORY).
  bool Begin();

  // Takes the next samples of the stream (16-bit mono at kSampleRate), any number of them. It copies them and returns: it
  // computes nothing and waits for nobody, so call it from the audio task or an interrupt, always the same one. False:
  // the queue was full and samples are lost, which the next result says (Result::lost_samples).
  bool Feed(const std::int16_t* samples, std::size_t count) { return queue_.Write(samples, count); }

  // How many samples Feed() would take now; for a caller that can wait, as one that reads a file.
  std::size_t room() const { return queue_.room(); }

  // Samples that Feed() dropped since the start; from any task. It wraps around at 2^32.
  std::uint32_t lost_samples() const { return queue_.lost(); }

  // Computes the frames that have come, up to the end of the first window among them: the first window is due after
  // kWindowFrames frames, then one every kWindowHop frames. Call it again at once after kWindow, and else when samples
  // have come. It may take as long as the model does, and Feed() may interrupt it at any time. All calls but Feed() and
  // room() belong to this one task.
  Ran Run(Result* result);

  // Ends the stream, as the end of a recording does, when nobody feeds it any more. Call it until it gives kNothing: it
  // gives the windows that are still due, then the one that ends with the stream, unless that one has come already, and
  // then a new stream starts. Never needed by a device that listens on and on. The profile stays.
  Ran Finish(Result* result);

  // Forgets the stream, and the samples that no window held. The profile stays: it is the speaker's, not the stream's.
  void Reset();

  // The profile of the one who speaks. Nothing but ResetProfile() and Profile's own calls forget it: the next user is
  // heard as the last one unless you call it.
  Profile& profile() { return profile_; }
  void ResetProfile() { profile_.Reset(); }

  // Whether windows teach the profile, and are heard with it; from the start, as the model was trained (kAdapts).
  void set_adapting(bool adapting) { adapting_ = adapting; }
  bool adapting() const { return adapting_; }

  // The two halves, for checking a port against the golden vectors. `samples` are kFrameLength, `codes` kBands: log-mel
  // in steps.
  bool ComputeFrame(const std::int16_t* samples, std::int8_t* codes);
  // `codes` are `frames` times kBands, at most kWindowFrames. Hears them with the profile, if adapting; learns nothing.
  bool ComputeWindow(const std::int8_t* codes, int frames, Result* result);

  // What the interpreters took of their arenas, in bytes; valid after Begin().
  std::size_t model_arena_used() const { return model_.arena_used_bytes(); }
  std::size_t frontend_arena_used() const { return frontend_.arena_used_bytes(); }

 private:
  // A window: frames of a ring of kWindowFrames, from `first` on.
  struct Window {
    const std::int8_t* ring;
    int first;
    int frames;
    int Place(int frame) const { return (first + frame) % kWindowFrames; }
    const std::int8_t* operator[](int frame) const { return ring + Place(frame) * kBands; }
  };
  // What of a window is speech: the frames with at least `least` of energy; all where there is none.
  struct Speech {
    bool there;
    std::int32_t least;
    int count;  // of these frames
    int first;  // first and last of them
    int last;
    int level;  // their mean, in parts of a step
  };

  bool PushFrame();
  Ran Emit(Result* result);
  Speech Detect(const Window& window);
  std::int32_t Percentile(int percent, int first, int last, std::int32_t least);
  bool Classify(const Window& window, const Speech& speech, Result* result);

  alignas(16) std::uint8_t model_arena_[kModelArenaBytes];
  alignas(16) std::uint8_t frontend_arena_[kFrontendArenaBytes];
  ModelOpResolver model_ops_;
  FrontendOpResolver frontend_ops_;
  tflm::MicroInterpreter model_;
  tflm::MicroInterpreter frontend_;

  SampleQueue<kQueueSamples> queue_;
  std::int16_t pcm_[kFrameLength];  // of the frame in hand
  std::int8_t ring_[kWindowFrames * kBands];
  std::uint16_t full_scale_[kWindowFrames];  // samples at full scale in each frame of the ring
  std::int32_t energy_[kWindowFrames];       // of the window in hand
  std::int32_t sorted_[kWindowFrames];
  int next_;            // place of the next frame in the ring
  int filled_;          // frames in the ring, at most kWindowFrames
  int until_window_;    // frames that the next window still needs
  int new_;             // frames that no window held
  bool complete_;       // the last frame completed a window
  std::uint32_t seen_;  // frames since the stream began
  std::uint32_t lost_;  // samples lost so far, as the last result said
  Profile profile_;
  bool adapting_;
};

}  // namespace emotion

#endif  // EMOTION_RECOGNIZER_H_
