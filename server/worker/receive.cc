#include "server/worker/receive.h"

#include <algorithm>
#include <cstring>

namespace bf::server {

void ReceiveBlock::release(uint32_t frames) {
  if (uses_.fetch_sub(frames, std::memory_order_acq_rel) == frames) pool_.give_back(this);
}

ReceiveBlock* BlockPool::take(size_t bytes) {
  std::unique_ptr<ReceiveBlock> block;
  if (bytes <= kBlockBytes) {
    bytes = kBlockBytes;
    std::lock_guard guard(mutex_);
    if (!idle_.empty()) {
      block = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  if (!block) block = std::make_unique<ReceiveBlock>(*this, bytes);
  live_bytes_.fetch_add(bytes, std::memory_order_relaxed);
  block->uses_.store(kBias, std::memory_order_relaxed);
  return block.release();  // owned by its uses from here on
}

void BlockPool::give_back(ReceiveBlock* raw) {
  std::unique_ptr<ReceiveBlock> block(raw);
  live_bytes_.fetch_sub(block->capacity(), std::memory_order_relaxed);
  if (block->capacity() != kBlockBytes) return;
  std::lock_guard guard(mutex_);
  if (idle_.size() < kIdleBlocks) idle_.push_back(std::move(block));
}

FrameSplitter::~FrameSplitter() {
  if (block_) retire();
}

void FrameSplitter::retire() {
  block_->release(BlockPool::kBias - given_);
  block_ = nullptr;
  given_ = 0;
}

std::span<std::byte> FrameSplitter::space() {
  const size_t left = filled_ - parsed_;
  size_t wanted = sizeof(FrameHeader);
  if (left >= sizeof(FrameHeader)) {
    FrameHeader header;
    std::memcpy(&header, block_->data() + parsed_, sizeof(header));
    wanted += size_t{header.body_bytes} + header.payload_bytes;  // next() has checked the bounds
  }
  // A frame lies in one block: when the rest of this one is too small, its first bytes move to the next.
  if (!block_ || parsed_ + wanted > block_->capacity() || filled_ == block_->capacity()) {
    ReceiveBlock* next = pool_.take(wanted);
    if (block_) {
      std::memcpy(next->data(), block_->data() + parsed_, left);
      retire();
    }
    block_ = next;
    parsed_ = 0;
    filled_ = left;
  }
  return {block_->data() + filled_, block_->capacity() - filled_};
}

Result<bool> FrameSplitter::next(Frame& frame) {
  const size_t left = filled_ - parsed_;
  if (left < sizeof(FrameHeader)) return false;
  std::memcpy(&frame.header, block_->data() + parsed_, sizeof(FrameHeader));
  if (!frame_header_ok(frame.header))
    return Status(StatusCode::kInvalid, "a frame header breaks the protocol's bounds");
  const size_t bytes = sizeof(FrameHeader) + frame.header.body_bytes + frame.header.payload_bytes;
  if (left < bytes) return false;
  frame.block = block_;
  frame.bytes = block_->data() + parsed_ + sizeof(FrameHeader);
  parsed_ += bytes;
  ++given_;
  return true;
}

}  // namespace bf::server
