// One run of a model on one of QEMU's boards: the instructions of each node, and what TFLM took of the arena.
// benchmarks/boards.py builds and runs it.
//
// QEMU with `-icount shift=0` takes one nanosecond for each instruction, so SysTick counts instructions: a loop of known
// length says how many a tick is.
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "boards_data.h"
#include "op_resolver.h"
#include "tensorflow/lite/micro/micro_profiler_interface.h"

// Only a TFLM that was made for cortex_m_generic has it.
extern "C" __attribute__((weak)) void RegisterDebugLogCallback(void (*callback)(const char* text));
extern "C" void SysTick_Handler();

namespace {

volatile std::uint32_t* const kControl = reinterpret_cast<volatile std::uint32_t*>(0xE000E010);
volatile std::uint32_t* const kReload = kControl + 1;
volatile std::uint32_t* const kValue = kControl + 2;
constexpr std::uint32_t kPeriod = 0x1000000;
volatile std::uint32_t reloads = 0;

std::uint64_t Now() {
  for (;;) {
    const std::uint32_t before = reloads;
    const std::uint32_t left = *kValue;
    if (before == reloads) return std::uint64_t{before} * kPeriod + (kPeriod - 1 - left);
  }
}

__attribute__((noinline)) void Loop(std::uint32_t count) {
  __asm volatile("1: subs %0, #1\n bne 1b" : "+r"(count) : : "cc");
}

class Profiler : public emotion::tflm::MicroProfilerInterface {
 public:
  std::uint32_t BeginEvent(const char* tag) override {
    tags[count] = tag;
    ticks[count] = Now();
    return count++;
  }
  void EndEvent(std::uint32_t event) override { ticks[event] = Now() - ticks[event]; }

  const char* tags[emotion::kNodes];
  std::uint64_t ticks[emotion::kNodes];
  std::uint32_t count = 0;
};

Profiler profiler;
alignas(16) std::uint8_t arena[emotion::kArenaBytes];

}  // namespace

extern "C" void SysTick_Handler() { reloads = reloads + 1; }

int main() {
  using namespace emotion;
  if (RegisterDebugLogCallback != nullptr) {
    RegisterDebugLogCallback([](const char* text) { std::printf("%s", text); });
  }
  *kControl = 0;
  *kReload = kPeriod - 1;
  *kValue = 0;
  *kControl = 7;  // on, with its interrupt, at the processor's clock
  while (*kValue == 0) {
  }
  constexpr std::uint32_t kTimes = 4000000;
  const std::uint64_t before = Now();
  Loop(kTimes);
  const double tick = 2.0 * kTimes / static_cast<double>(Now() - before);

  static ModelOpResolver ops;
  if (!AddModelOps(ops)) return 1;
  static tflm::MicroInterpreter interpreter(tflm::GetModel(kModel), ops, arena, sizeof(arena), nullptr, &profiler);
  if (interpreter.AllocateTensors() != kTfLiteOk) return 1;
  std::printf("arena %u\n", static_cast<unsigned>(interpreter.arena_used_bytes()));
  profiler.count = 0;
  std::memcpy(interpreter.input(0)->data.data, kInput, interpreter.input(0)->bytes);
  if (interpreter.Invoke() != kTfLiteOk) return 1;
  for (std::uint32_t node = 0; node < profiler.count; ++node) {
    std::printf("node %s %u\n", profiler.tags[node], static_cast<unsigned>(tick * profiler.ticks[node]));
  }
  return 0;
}
