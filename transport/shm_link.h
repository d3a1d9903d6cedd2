// The parts of a shm link that are not its handshake.
#pragma once

#include <functional>
#include <mutex>

#include "transport/bulk_engine.h"
#include "transport/shm_segment.h"

namespace bf::transport::shm {

inline Status gone() { return {StatusCode::kUnavailable, "the peer closed the link or died"}; }

// Whether the link still lives, in this process's own memory.
struct Life {
  std::atomic<bool> shut{false};       // here
  std::atomic<bool> peer_gone{false};  // the socket hung up: the peer shut the link, or died
};

class ShmStream : public Stream {
 public:
  // `broken` shuts the link.
  ShmStream(RingControl& out, std::span<std::byte> out_bytes, RingControl& in, std::span<std::byte> in_bytes,
            const Life& life, std::function<void()> broken);

  Status send(std::span<const iovec> parts) override;
  Result<size_t> receive(std::span<std::byte> buffer) override;
  bool ready() override;
  void wait_until_ready() override;
  void shut() noexcept override;

  // Wakes whoever waits here, to look at `life` again.
  void wake() noexcept;

 private:
  // What the receiver sees.
  struct State {
    bool shut = false, closed = false, peer_gone = false;
    std::optional<size_t> bytes;  // none: not to be believed
    bool anything() const { return shut || closed || peer_gone || !bytes || *bytes > 0; }
  };
  State look();
  Status corrupted();

  RingControl& out_;
  RingControl& in_;
  RingWriter writer_;
  RingReader reader_;
  const Life& life_;
  const std::function<void()> broken_;
  std::atomic<bool> shut_{false};
};

class ShmBulk : public BulkEngine {
 public:
  ShmBulk(Direction& out, Direction& in, uint32_t channels, const Life& life, std::function<void()> broken);
  ~ShmBulk() override { stop(); }

  void wake() noexcept;

 private:
  Status write(uint32_t channel, const SendQueue::Job& job) override;
  Result<bool> read(uint32_t channel) override;
  void hang_up() noexcept override;
  void window_moved() override;

  Status wait_for_room(uint64_t sequence);
  Result<bool> claim(Block& block);

  Direction& out_;
  Direction& in_;
  const Life& life_;
  std::atomic<bool> hung_up_{false};
  std::mutex room_mutex_;  // one sender thread at a time waits for the peer's slots
  uint64_t peer_released_ = 0;
  std::mutex claim_mutex_;  // one receiver thread at a time waits for the next block
  uint64_t next_ = 0;
  std::mutex publish_mutex_;  // `released` only grows
  uint64_t published_ = 0;
};

}  // namespace bf::transport::shm
