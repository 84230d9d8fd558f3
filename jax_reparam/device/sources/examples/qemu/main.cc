// On an emulated board: the golden test, the instructions of a frame and of a window, and a stream in real time.
//
// QEMU with `-icount shift=0` takes one nanosecond for each instruction, so SysTick counts instructions: a loop of known
// length says how many a tick is. In the third part SysTick's interrupt is the microphone. Every 10 ms of a processor of
// EMOTION_CLOCK_MHZ, at one cycle an instruction, it hands a block of the golden PCM to Feed(), whatever Run() is doing.
// The exit code is 0 where the golden vectors pass, no sample is lost and the windows are those of the golden test.
#include <cstdint>
#include <cstdio>

#include "emotion_recognizer.h"
#include "golden_data.h"

// Only a TFLM that was made for cortex_m_generic has it; without it that TFLM's log is silent.
extern "C" __attribute__((weak)) void RegisterDebugLogCallback(void (*callback)(const char* text));

int GoldenTest();
extern "C" void SysTick_Handler();

namespace {

emotion::EmotionRecognizer recognizer;

volatile std::uint32_t* const kControl = reinterpret_cast<volatile std::uint32_t*>(0xE000E010);
volatile std::uint32_t* const kReload = kControl + 1;
volatile std::uint32_t* const kValue = kControl + 2;

volatile std::uint32_t reloads = 0;  // of SysTick since it was started
std::uint32_t period = 0xFFFFFF;     // ticks between them
double tick = 0;                     // instructions of a tick

// The audio "driver": the position in the stream, which goes on in the interrupt.
volatile bool recording = false;
volatile std::uint32_t position = 0;
volatile std::uint32_t longest = 0;  // ticks that Feed() took at most
constexpr std::uint32_t kBlock = emotion::kSampleRate / 100;
constexpr std::uint32_t kPart = emotion::kGoldenRepeats * emotion::kGoldenSamples;
constexpr std::uint32_t kAll = 2 * kPart + emotion::kGoldenSilence;

std::int16_t Sample(std::uint32_t at) {
  if (at < kPart) return emotion::kGoldenPcm[at % emotion::kGoldenSamples];
  if (at < kPart + emotion::kGoldenSilence) return 0;
  const std::uint32_t place = (at - kPart - emotion::kGoldenSilence) % emotion::kGoldenSamples;
  return static_cast<std::int16_t>(emotion::kGoldenPcm[place] / emotion::kGoldenQuieter);
}

void Start(std::uint32_t ticks) {
  *kControl = 0;
  period = ticks;
  reloads = 0;
  *kReload = ticks - 1;
  *kValue = 0;
  *kControl = 7;  // on, with its interrupt, at the processor's clock
  while (*kValue == 0) {
  }
}

// Ticks since Start().
std::uint64_t Now() {
  for (;;) {
    const std::uint32_t before = reloads;
    const std::uint32_t left = *kValue;
    if (before == reloads) return std::uint64_t{before} * period + (period - 1 - left);
  }
}

template <typename Work>
std::uint32_t Instructions(Work work) {
  const std::uint64_t before = Now();
  work();
  return static_cast<std::uint32_t>(static_cast<double>(Now() - before) * tick);
}

__attribute__((noinline)) void Loop(std::uint32_t count) {
  __asm volatile("1: subs %0, #1\n bne 1b" : "+r"(count) : : "cc");
}

void Calibrate() {
  constexpr std::uint32_t kTimes = 4000000;
  Start(0xFFFFFF);
  const std::uint64_t before = Now();
  Loop(kTimes);
  tick = 2.0 * kTimes / static_cast<double>(Now() - before);
}

bool Stream() {
  const std::uint64_t wanted = static_cast<std::uint64_t>(EMOTION_CLOCK_MHZ * 10000.0 / tick);
  if (wanted < 2 || wanted > 0xFFFFFF) return false;
  recognizer.Reset();
  recognizer.ResetProfile();
  recognizer.set_adapting(true);
  emotion::Result result;
  int windows = 0, wrong = 0;
  recording = true;
  Start(static_cast<std::uint32_t>(wanted));
  emotion::Ran ran = emotion::Ran::kNothing;
  while (ran != emotion::Ran::kFailed) {
    const bool over = position >= kAll;
    ran = over ? recognizer.Finish(&result) : recognizer.Run(&result);
    if (over && ran == emotion::Ran::kNothing) break;
    if (ran != emotion::Ran::kWindow) continue;
    wrong += windows >= emotion::kGoldenWindows || result.start_frame != emotion::kGoldenStarts[windows] ||
             result.speech != (emotion::kGoldenSpeech[windows] > 0) || result.lost_samples != 0;
    ++windows;
  }
  recording = false;
  const bool passed = ran == emotion::Ran::kNothing && wrong == 0 && windows == emotion::kGoldenWindows &&
                      recognizer.lost_samples() == 0;
  std::printf("stream at %d MHz, one cycle an instruction: %d windows, %d wrong, %u samples lost\n",
              static_cast<int>(EMOTION_CLOCK_MHZ), windows, wrong, static_cast<unsigned>(recognizer.lost_samples()));
  std::printf("audio interrupt: at most %u instructions in Feed() of %d samples\n",
              static_cast<unsigned>(longest * tick), static_cast<int>(kBlock));
  return passed;
}

}  // namespace

extern "C" void SysTick_Handler() {
  reloads = reloads + 1;
  if (!recording || position >= kAll) return;
  static std::int16_t block[kBlock];
  const std::uint32_t count = kAll - position < kBlock ? kAll - position : kBlock;
  for (std::uint32_t i = 0; i < count; ++i) block[i] = Sample(position + i);
  const std::uint32_t before = *kValue;
  recognizer.Feed(block, count);
  const std::uint32_t took = before - *kValue;
  if (took > longest) longest = took;
  position = position + count;
}

int main() {
  if (RegisterDebugLogCallback != nullptr) {
    RegisterDebugLogCallback([](const char* text) { std::printf("%s", text); });
  }
  const bool golden = GoldenTest() == 0;
  if (!recognizer.Begin()) return 1;
  Calibrate();
  static std::int8_t codes[emotion::kWindowFrames * emotion::kBands];
  for (int i = 0; i < emotion::kWindowFrames * emotion::kBands; ++i) {
    codes[i] = emotion::kGoldenCodes[i % (emotion::kGoldenFrames * emotion::kBands)];
  }
  emotion::Result result;
  const std::uint32_t window =
      Instructions([&] { recognizer.ComputeWindow(codes, emotion::kWindowFrames, &result); });
  const std::uint32_t frame = Instructions([&] { recognizer.ComputeFrame(emotion::kGoldenPcm, codes); });
  std::printf("instructions: frame %u, window %u; estimated %u and %u\n", static_cast<unsigned>(frame),
              static_cast<unsigned>(window), static_cast<unsigned>(emotion::kFrameInstructions),
              static_cast<unsigned>(emotion::kWindowInstructions));
  const bool stream = Stream();
  std::printf("%s\n", golden && stream ? "PASS" : "FAIL");
  return golden && stream ? 0 : 1;
}
