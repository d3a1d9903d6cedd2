// The parts of an rdma link that are not its handshake.
//
// Stream: messages of at most kMessageBytes by SEND, into receives that the peer has posted. Every message carries, as
// immediate data, how many messages its sender has taken from the peer so far; that is the credit to send more. Credit
// alone travels in an empty message, for which some receives are kept back. kEnd in the immediate: no more bytes come.
//
// Bulk: a block is written into its slot of the peer's landing ring (WRITE, in chunks while they are staged, or straight
// from registered memory), then its header into the slot's header with WRITE WITH IMMEDIATE, which wakes the peer. RC
// keeps that order. A credit is an empty SEND whose immediate holds the low bits of the watermark.
//
// The peer can write ring and headers at any time, as with shared memory: a header is copied before it is judged, and
// the bytes of a block are only ever copied.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <vector>

#include "transport/bulk_engine.h"
#include "transport/rdma_memory.h"
#include "transport/rdma_queue.h"

namespace bf::transport::rdma {

inline constexpr uint32_t kEnd = 0x8000'0000;  // in an immediate; the other bits count, modulo 2^31

class RdmaStream : public Stream {
 public:
  static constexpr size_t kMessageBytes = 4096;
  static constexpr uint32_t kReserved = 16;  // empty messages of the peer: credits and the end

  // `credits`: messages of each direction that may be under way. `broken` ends the link with its reason.
  RdmaStream(Connection& connection, uint32_t credits, const Fate& fate, std::function<void(const Status&)> broken)
      : connection_(connection), credits_(credits), fate_(fate), broken_(std::move(broken)) {}

  static QueueShape shape(uint32_t credits) { return {credits + 4 * kReserved, credits + kReserved, 256}; }
  // Buffers, and the receives that must be posted before the peer sends.
  Status open(ibv_pd* pd);

  Status send(std::span<const iovec> parts) override;
  Result<size_t> receive(std::span<std::byte> buffer) override;
  bool ready() override;
  void wait_until_ready() override;
  void shut() noexcept override;

  // Wakes whoever waits here, to look at the link's fate again.
  void wake() noexcept { wake_.raise(); }
  // True once everything sent has arrived at the peer's device.
  bool drained();

 private:
  struct Message {
    uint32_t slot;
    uint32_t bytes;
  };
  std::byte* receive_slot(uint32_t slot) const { return buffer_->data() + slot * kMessageBytes; }
  std::byte* send_slot(uint64_t number) const {
    return receive_slot(credits_ + kReserved + uint32_t(number % send_slots()));
  }
  uint32_t send_slots() const { return credits_ + 4 * kReserved; }
  Status gone() const;
  bool may_send() const { return ((sent_ - peer_freed_) & ~kEnd) < credits_; }
  Status wait_for_credit();
  Status wait_for_room();
  Status post_locked(size_t bytes, bool end);
  void reap_locked();
  void post_receive(uint32_t slot);
  void progress_locked();
  void announce();
  bool anything() const;
  template <typename Done>
  void wait(LookOut look, Done done);

  Connection& connection_;
  const uint32_t credits_;
  const Fate& fate_;
  const std::function<void(const Status&)> broken_;
  std::unique_ptr<Buffer> buffer_;
  Wake wake_;
  std::atomic<bool> shut_{false};

  std::mutex post_mutex_;  // the send queue
  uint64_t posted_ = 0;
  uint64_t completed_ = 0;
  bool ended_ = false;
  std::atomic<uint32_t> sent_{0};       // messages with bytes
  std::atomic<uint32_t> announced_{0};  // of freed_

  std::mutex receive_mutex_;  // the receive queue; taken before post_mutex_
  std::condition_variable changed_;
  bool sleeping_ = false;  // a thread waits for the completion channel; the others wait for it
  uint32_t waiters_ = 0;
  std::deque<Message> arrived_;
  size_t taken_ = 0;                // bytes of arrived_.front()
  std::atomic<uint32_t> freed_{0};  // messages with bytes that were taken out
  std::atomic<uint32_t> peer_freed_{0};
  std::atomic<bool> peer_ended_{false};
};

// Where blocks land: the ring, then a header per slot.
struct BulkHeader {
  uint64_t sequence = 0;
  uint64_t transfer = 0;
  uint64_t offset = 0;
  uint32_t bytes = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(BulkHeader) == 32 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);

inline constexpr size_t kRingBytes = limits::kBulkBlocks * limits::kBulkBlockBytes;
inline constexpr size_t kLandingBytes = kRingBytes + limits::kBulkBlocks * sizeof(BulkHeader);

// The peer's landing memory.
struct Landing {
  uint64_t address = 0;
  uint32_t key = 0;
};

class RdmaBulk : public BulkEngine {
 public:
  RdmaBulk(uint32_t channels, Buffer& landing, ibv_pd* pd, const Fate& fate, std::function<void(const Status&)> broken);
  ~RdmaBulk() override { stop(); }

  static QueueShape shape() { return {kSends, kReceives, sizeof(BulkHeader)}; }
  // Pinned for sends, of each channel.
  static constexpr size_t staging_bytes() { return kStages * limits::kBulkBlockBytes + kSends * sizeof(BulkHeader); }
  // Gives channel `channel` its connection: staging, and the receives that must be posted before the peer sends.
  Status open(uint32_t channel, Connection& connection);
  // Before start().
  void set_peer(const Landing& landing) { peer_ = landing; }
  void wake() noexcept { wake_.raise(); }
  bool drained();

  void remember(const void* data, size_t bytes) override { regions_.remember(data, bytes); }
  bool remember_device(const void* data, size_t bytes, int dmabuf) override { return regions_.remember_device(data, bytes, dmabuf); }
  void forget(const void* data) override { regions_.forget(data); }

 private:
  static constexpr uint32_t kSends = 64;
  // Blocks and credits of a whole window through one channel.
  static constexpr uint32_t kReceives = 2 * limits::kBulkBlocks + 8;
  static constexpr size_t kStages = 2;                // one is filled while the other is sent
  static constexpr size_t kChunkBytes = 256 << 10;    // staged and posted at once
  static constexpr uint64_t kCacheBytes = 8ull << 30; // of the program's pinned memory

  struct Lane {
    Connection* connection = nullptr;
    std::unique_ptr<Buffer> staging;  // kStages blocks, then a header for each entry of the send queue
    std::mutex post_mutex;
    uint64_t posted = 0;
    uint64_t stages_used = 0;             // sender thread only
    std::atomic<uint64_t> completed{0};   // sender thread, and drained() after it
    std::array<uint64_t, kStages> busy_until{};
  };

  Status write(uint32_t channel, const SendQueue::Job& job) override;
  Result<bool> read(uint32_t channel) override;
  void hang_up() noexcept override;
  void window_moved() override;

  Status write_job(Lane& lane, const SendQueue::Job& job);
  Result<bool> read_one(Lane& lane);
  Status post(Lane& lane, ibv_send_wr& request);
  Status post_chunk(Lane& lane, const std::byte* data, uint32_t key, uint32_t bytes, uint64_t slot, uint64_t offset);
  Result<uint64_t> post_header(Lane& lane, const Block& block);
  Status post_empty(Lane& lane, uint32_t immediate);
  // Until everything below `number` is complete.
  Status wait_sent(Lane& lane, uint64_t number);
  Status reap(Lane& lane);
  Status take_credit(uint32_t immediate);
  Status post_receive(Lane& lane);

  const Fate& fate_;
  const std::function<void(const Status&)> broken_;
  ibv_pd* const pd_;
  Buffer& landing_;
  Landing peer_;
  RegionCache regions_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  Wake wake_;
  std::atomic<bool> hung_up_{false};
  std::mutex credit_mutex_;
  uint64_t credited_ = 0;
};

}  // namespace bf::transport::rdma
