// The golden test, then a stream: one thread takes sound, the main thread of lower priority computes.
#include <zephyr/kernel.h>

#include <cstdio>

#include "emotion_recognizer.h"
#include "golden_data.h"

int GoldenTest();

namespace {

emotion::EmotionRecognizer recognizer;
constexpr std::size_t kBlock = emotion::kSampleRate / 100;

K_SEM_DEFINE(sound, 0, 1);
K_THREAD_STACK_DEFINE(audio_stack, 1024);
k_thread audio_thread;

// Stands for dmic_read(): it waits for the next 10 ms of sound. Here that is the golden PCM, again and again.
void ReadMicrophone(std::int16_t* block) {
  static std::size_t at = 0;
  k_msleep(10);
  for (std::size_t i = 0; i < kBlock; ++i, at = (at + 1) % emotion::kGoldenSamples) block[i] = emotion::kGoldenPcm[at];
}

void Audio(void*, void*, void*) {
  static std::int16_t block[kBlock];
  for (;;) {
    ReadMicrophone(block);
    recognizer.Feed(block, kBlock);
    k_sem_give(&sound);
  }
}

}  // namespace

int main() {
  if (GoldenTest() != 0 || !recognizer.Begin()) return 1;
  k_thread_priority_set(k_current_get(), K_PRIO_PREEMPT(10));
  k_thread_create(&audio_thread, audio_stack, K_THREAD_STACK_SIZEOF(audio_stack), Audio, nullptr, nullptr, nullptr,
                  K_PRIO_PREEMPT(1), 0, K_NO_WAIT);
  emotion::Result result;
  for (;;) {
    switch (recognizer.Run(&result)) {
      case emotion::Ran::kNothing: k_sem_take(&sound, K_FOREVER); break;
      case emotion::Ran::kFailed: std::printf("a model failed\n"); return 1;
      case emotion::Ran::kWindow:
        std::printf("%s, %u samples lost\n", result.label < 0 ? "no speech" : emotion::kLabels[result.label],
                    static_cast<unsigned>(result.lost_samples));
    }
  }
}
