// Fences: how the worker learns, by reading memory, that a stream has come to a certain point.
//
// Behind the work in question the stream writes a number into a pinned word (cuStreamWriteValue64). Reading the word is
// legal from any thread, also inside a host function, where the driver may not be asked. Where the driver has no stream
// memory operations a host function writes the word.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "proto/api/cuda_api.h"

namespace bf {
struct DriverApi;
}

namespace bf::server {

// Host memory of our own that the driver knows as pinned, if it agrees to that. Mapped rather than taken from
// cuMemHostAlloc, so that it outlives contexts: after a context reset it is only registered again.
class PinnedRegion {
 public:
  PinnedRegion() = default;
  PinnedRegion(PinnedRegion&& other) noexcept;
  PinnedRegion& operator=(PinnedRegion&&) = delete;
  ~PinnedRegion();

  // Maps `bytes` zeroed bytes. False: no memory.
  bool map(size_t bytes);
  // Memory of somebody else, which outlives this object.
  void adopt(std::byte* data, size_t bytes);
  // Registers with the current context; legal while a stream captures. False: it stays pageable.
  bool pin(const DriverApi& driver);
  // The context that knew it is gone.
  void forget_pin() { pinned_ = false; }
  void unpin(const DriverApi& driver);

  bool pinned() const { return pinned_; }
  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  bool owned_ = false;
  bool pinned_ = false;
};

class Fences {
 public:
  struct Fence {
    uint32_t word = 0;
    uint64_t value = 0;  // 0: done already
  };

  explicit Fences(const DriverApi& driver) : driver_(driver) {}

  // `stream_memory`: the devices have stream memory operations. They are used once renew() has registered the words.
  bool start(bool stream_memory);
  // The word becomes `value` when all that is in `stream` now is done. On failure `fence` is done, so that nobody waits
  // for it. OUT_OF_MEMORY when kWords fences are open.
  CUresult record(CUstream stream, Fence& fence);
  bool done(const Fence& fence) const {
    return fence.value == 0 || words_[fence.word].load(std::memory_order_acquire) == fence.value;
  }
  // The reverse: what comes behind it in `stream` waits until open(gate), by whatever thread. NOT_SUPPORTED where the driver has
  // no stream memory operations; else as record().
  CUresult hold(CUstream stream, Fence& gate);
  void open(const Fence& gate) {
    if (gate.value != 0) words_[gate.word].store(gate.value, std::memory_order_release);
  }
  // A fence that is done, or whose context is gone, gives its word back; a gate when its stream is behind it.
  void release(const Fence& fence);

  PinnedRegion& region() { return region_; }
  // With a context current: registers the words, if they are not.
  void renew();

  static constexpr uint32_t kWords = 4096;

 private:
  bool take(Fence& fence);

  const DriverApi& driver_;
  PinnedRegion region_;
  std::atomic<uint64_t>* words_ = nullptr;
  CUdeviceptr device_words_ = 0;  // 0: host functions write
  bool stream_memory_ = false;
  std::mutex mutex_;
  std::vector<uint32_t> free_;
  uint64_t next_value_ = 1;
};

// While it lives, calls that are forbidden during stream capture are legal on this thread.
class RelaxedCapture {
 public:
  explicit RelaxedCapture(const DriverApi& driver);
  ~RelaxedCapture();
  RelaxedCapture(const RelaxedCapture&) = delete;

 private:
  const DriverApi& driver_;
  CUstreamCaptureMode mode_ = CU_STREAM_CAPTURE_MODE_RELAXED;
  bool exchanged_ = false;
};

}  // namespace bf::server
