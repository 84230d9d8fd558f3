// The golden test, then a stream: one task takes sound, app_main's own task of lower priority computes.
#include <cstdio>

#include "emotion_recognizer.h"
#include "freertos/FreeRTOS.h"
#include "freertos/task.h"
#include "golden_data.h"

int GoldenTest();

namespace {

emotion::EmotionRecognizer recognizer;
constexpr std::size_t kBlock = emotion::kSampleRate / 100;

// Stands for i2s_channel_read(): it waits for the next 10 ms of sound. Here that is the golden PCM, again and again.
void ReadMicrophone(std::int16_t* block) {
  static std::size_t at = 0;
  static TickType_t woken = xTaskGetTickCount();
  vTaskDelayUntil(&woken, pdMS_TO_TICKS(10));
  for (std::size_t i = 0; i < kBlock; ++i, at = (at + 1) % emotion::kGoldenSamples) block[i] = emotion::kGoldenPcm[at];
}

void Audio(void* reader) {
  static std::int16_t block[kBlock];
  for (;;) {
    ReadMicrophone(block);
    recognizer.Feed(block, kBlock);
    xTaskNotifyGive(static_cast<TaskHandle_t>(reader));
  }
}

}  // namespace

extern "C" void app_main() {
  if (GoldenTest() != 0 || !recognizer.Begin()) return;
  vTaskPrioritySet(nullptr, 1);
  xTaskCreate(Audio, "audio", 3072, xTaskGetCurrentTaskHandle(), 10, nullptr);
  emotion::Result result;
  for (;;) {
    switch (recognizer.Run(&result)) {
      case emotion::Ran::kNothing: ulTaskNotifyTake(pdTRUE, portMAX_DELAY); break;
      case emotion::Ran::kFailed: std::printf("a model failed\n"); return;
      case emotion::Ran::kWindow:
        std::printf("%s, %u samples lost\n", result.label < 0 ? "no speech" : emotion::kLabels[result.label],
                    static_cast<unsigned>(result.lost_samples));
    }
  }
}
