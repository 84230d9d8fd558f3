// Samples on their way from the audio task to the one that computes: a queue for one writer and one reader.
//
// Neither waits for the other. Each has an index that it alone writes, so plain loads and stores of 32 bits are enough,
// which every Cortex-M and ESP32 has: no lock, no compare-and-swap, no interrupt switched off.
#ifndef EMOTION_SAMPLE_QUEUE_H_
#define EMOTION_SAMPLE_QUEUE_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace emotion {

template <std::size_t kCapacity>
class SampleQueue {
 public:
  // The writer's: takes as many samples as there is room for. False: there was no room for all, and the last ones are
  // lost. It copies at most `count` samples, so its time is bounded.
  bool Write(const std::int16_t* samples, std::size_t count) {
    const std::size_t taken = std::min(count, room());
    const std::size_t end = end_.load(std::memory_order_relaxed);
    const std::size_t first = std::min(taken, kSize - end);
    if (taken > 0) {
      std::memcpy(samples_ + end, samples, first * sizeof(*samples));
      std::memcpy(samples_, samples + first, (taken - first) * sizeof(*samples));
    }
    // Last, and released: a reader that sees the index sees the samples.
    end_.store(After(end, taken), std::memory_order_release);
    if (taken == count) return true;
    lost_.store(lost_.load(std::memory_order_relaxed) + static_cast<std::uint32_t>(count - taken),
                std::memory_order_release);
    return false;
  }

  // The writer's: how many samples Write() takes.
  std::size_t room() const {
    return kCapacity - Between(begin_.load(std::memory_order_acquire), end_.load(std::memory_order_relaxed));
  }

  // The reader's: how many samples there are.
  std::size_t available() const {
    return Between(begin_.load(std::memory_order_relaxed), end_.load(std::memory_order_acquire));
  }

  // The reader's: copies the oldest `count` samples, and leaves them there; at most available().
  void Peek(std::int16_t* into, std::size_t count) const {
    const std::size_t begin = begin_.load(std::memory_order_relaxed);
    const std::size_t first = std::min(count, kSize - begin);
    std::memcpy(into, samples_ + begin, first * sizeof(*into));
    std::memcpy(into + first, samples_, (count - first) * sizeof(*into));
  }

  // The reader's: removes the oldest `count` samples; at most available().
  void Skip(std::size_t count) {
    begin_.store(After(begin_.load(std::memory_order_relaxed), count), std::memory_order_release);
  }

  // Samples lost since the start; it wraps around.
  std::uint32_t lost() const { return lost_.load(std::memory_order_acquire); }

 private:
  // One place stays empty: full and empty would look alike else.
  static constexpr std::size_t kSize = kCapacity + 1;

  static std::size_t After(std::size_t index, std::size_t count) { return (index + count) % kSize; }
  static std::size_t Between(std::size_t begin, std::size_t end) { return (end + kSize - begin) % kSize; }

  std::int16_t samples_[kSize];
  std::atomic<std::uint32_t> begin_{0};
  std::atomic<std::uint32_t> end_{0};
  std::atomic<std::uint32_t> lost_{0};
};

}  // namespace emotion

#endif  // EMOTION_SAMPLE_QUEUE_H_
