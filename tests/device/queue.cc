// SampleQueue between two threads: the writer counts, and the reader checks that it counts on.
//
//   queue SAMPLES SEED [patient]    prints what was read and what was lost; exit code 1 where a sample is not the next one
//
// `patient`: the writer waits for room, so nothing is lost.
#include <pthread.h>
#include <sched.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "sample_queue.h"

namespace {

emotion::SampleQueue<61> queue;
std::uint32_t all, seed;
bool patient;
std::atomic<bool> done{false};

std::uint32_t Random(std::uint32_t* state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 16;
}

void* Write(void*) {
  std::uint32_t state = seed, next = 0;
  std::int16_t chunk[100];
  while (next < all) {
    std::uint32_t count = Random(&state) % 100;
    if (patient) count = std::min<std::uint32_t>(count, static_cast<std::uint32_t>(queue.room()));
    count = std::min(count, all - next);
    for (std::uint32_t i = 0; i < count; ++i) chunk[i] = static_cast<std::int16_t>(next + i);
    next += count;
    if (!queue.Write(chunk, count) || count == 0) sched_yield();
  }
  done.store(true);
  return nullptr;
}

}  // namespace

int main(int count, char** arguments) {
  all = static_cast<std::uint32_t>(std::atol(arguments[1]));
  seed = static_cast<std::uint32_t>(std::atol(arguments[2]));
  patient = count > 3;
  pthread_t writer;
  pthread_create(&writer, nullptr, Write, nullptr);
  std::uint32_t state = seed + 1, read = 0, skipped = 0, next = 0;
  std::int16_t chunk[61];
  for (;;) {
    const bool last = done.load();
    const std::size_t ready = std::min<std::size_t>(queue.available(), Random(&state) % 62);
    queue.Peek(chunk, ready);
    for (std::size_t i = 0; i < ready; ++i, ++next, ++read) {
      const std::uint16_t gap = static_cast<std::uint16_t>(static_cast<std::uint32_t>(chunk[i]) - next);
      if (patient && gap != 0) return 1;
      skipped += gap;
      next += gap;
    }
    queue.Skip(ready);
    if (last && queue.available() == 0) break;
    if (ready == 0) sched_yield();
  }
  pthread_join(writer, nullptr);
  skipped += all - next;  // but for whole turns of the samples' 16 bits
  std::printf("%u read, %u lost\n", read, queue.lost());
  return (queue.lost() - skipped) % 65536 == 0 && read + queue.lost() == all && queue.room() == 61 ? 0 : 1;
}
