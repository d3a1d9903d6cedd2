// Incoming frames without a copy and without an allocation per frame: the reader receives into large blocks, and frames
// point into them. A block goes back to the pool when its last frame has been run.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/status.h"
#include "proto/frame.h"

namespace bf::server {

class BlockPool;

// Bytes received. Counts the frames in it that have not been run, plus a large bias while the reader still fills it, so
// that adding a frame costs the reader nothing shared.
class ReceiveBlock {
 public:
  ReceiveBlock(BlockPool& pool, size_t bytes) : pool_(pool), capacity_(bytes), data_(new std::byte[bytes]) {}
  std::byte* data() { return data_.get(); }
  size_t capacity() const { return capacity_; }
  // `frames` of the block have been run.
  void release(uint32_t frames);

 private:
  friend class BlockPool;
  BlockPool& pool_;
  const size_t capacity_;
  std::unique_ptr<std::byte[]> data_;
  std::atomic<uint32_t> uses_{0};
};

struct Frame {
  FrameHeader header;
  ReceiveBlock* block = nullptr;
  const std::byte* bytes = nullptr;  // body, then payload

  std::span<const std::byte> body() const { return {bytes, header.body_bytes}; }
  std::span<const std::byte> payload() const { return {bytes + header.body_bytes, header.payload_bytes}; }
};

class BlockPool {
 public:
  static constexpr size_t kBlockBytes = 256 << 10;  // ~2500 launches; fits the L2 cache
  static constexpr size_t kIdleBlocks = 16;         // kept for reuse
  static constexpr size_t kLiveBytes = 64 << 20;    // the reader pauses above this

  static constexpr uint32_t kBias = 1u << 30;  // the reader's own use of a block

  // A block of at least `bytes` whose uses are kBias.
  ReceiveBlock* take(size_t bytes);
  // Bytes of all blocks that are in use.
  size_t live_bytes() const { return live_bytes_.load(std::memory_order_relaxed); }

 private:
  friend class ReceiveBlock;
  void give_back(ReceiveBlock* block);

  std::mutex mutex_;
  std::vector<std::unique_ptr<ReceiveBlock>> idle_;
  std::atomic<size_t> live_bytes_{0};
};

// Splits a byte stream into frames. One thread.
class FrameSplitter {
 public:
  explicit FrameSplitter(BlockPool& pool) : pool_(pool) {}
  ~FrameSplitter();

  // Where the next bytes go; never empty.
  std::span<std::byte> space();
  // `bytes` have been put there.
  void filled(size_t bytes) { filled_ += bytes; }
  // The next whole frame; false if there is none yet. The caller owes the frame's block a release(1). kInvalid for a
  // header that breaks the bounds: the stream cannot be trusted any further.
  Result<bool> next(Frame& frame);

 private:
  void retire();

  BlockPool& pool_;
  ReceiveBlock* block_ = nullptr;
  size_t parsed_ = 0;   // bytes of the block that are split already
  size_t filled_ = 0;   // bytes of the block that hold data
  uint32_t given_ = 0;  // frames of the block handed out
};

}  // namespace bf::server
