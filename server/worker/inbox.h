// Incoming bulk blocks, from their landing in the transport's ring until the GPU has read them.
//
// A twin takes the blocks of its transfer as they come, or in the order of their offsets. Blocks of transfers that no call has named yet
// wait in the ring; the ring bounds them. For what is still under way a twin need not stay: it parks memory, and a stream that
// waits at a gate until all of that has landed.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "server/worker/fences.h"
#include "server/worker/recorder.h"
#include "transport/transport.h"

namespace bf::server {

class Inbox final : public transport::BulkSink {
 public:
  struct Landed {
    transport::Block block;
    const std::byte* data = nullptr;
  };

  // A part of a transfer, whole blocks, and where they are to lie.
  struct Parked {
    uint64_t transfer = 0, offset = 0;
    size_t bytes = 0;
    std::byte* data = nullptr;
    Fences::Fence gate;
    std::atomic<bool> landed{false};  // nothing comes any more: all of it has, or the session ends

   private:
    friend class Inbox;
    size_t unclaimed = 0, missing = 0;  // under the inbox's mutex
    bool covers(const transport::Block& block) const {
      return block.transfer == transfer && block.offset >= offset && block.offset - offset <= bytes &&
             block.bytes <= bytes - (block.offset - offset);
    }
    std::byte* place(const transport::Block& block) const { return data + (block.offset - offset); }
  };

  using Clock = std::chrono::steady_clock;

  // `spin_us`: how long who waits for a block looks out before it sleeps.
  Inbox(transport::Bulk& bulk, Fences& fences, Recorder& recorder, uint32_t spin_us, std::function<void(const Status&)> lost)
      : bulk_(bulk), fences_(fences), recorder_(recorder), spin_us_(spin_us), lost_(std::move(lost)) {}

  static constexpr uint64_t kAnyOffset = UINT64_MAX;

  // Waits for the block of `transfer` that begins at `offset`, or for any. False when the session ends meanwhile, or `give_up` says so,
  // which is asked at least every 100 us. The caller owes release(landed.block).
  bool wait(uint64_t transfer, uint64_t offset, Landed& landed, const std::function<bool()>& give_up = {});
  // The same if it is there already; else false, at once.
  bool take(uint64_t transfer, uint64_t offset, Landed& landed);
  void release(const transport::Block& block) { bulk_.release(block); }
  // Reads the dense bytes of a transfer, which arrive as blocks of any size.
  class Reader {
   public:
    Reader(Inbox& inbox, uint64_t transfer) : inbox_(inbox), transfer_(transfer) {}
    ~Reader() {
      if (held_) inbox_.release(landed_.block);
    }
    // The next `bytes`; how many of them. Fewer when the session ends meanwhile, or `give_up` says so (as wait()).
    size_t read(void* to, size_t bytes, const std::function<bool()>& give_up = {});
    // Does a block begin here?
    bool at_block() const { return !held_; }
    // There: others take the next `bytes`, whole blocks.
    void skip(size_t bytes) { offset_ += bytes; }

   private:
    Inbox& inbox_;
    const uint64_t transfer_;
    Landed landed_;
    uint64_t offset_ = 0;
    size_t used_ = 0;
    bool held_ = false;
  };
  // Blocks of this part, also those that have landed, go to its memory; then its gate opens. `data` must stay until `landed`.
  void park(const std::shared_ptr<Parked>& parked);
  // Nobody will take this transfer: its blocks, also those still coming, leave the ring unread.
  void discard(uint64_t transfer);
  void stop();

  std::byte* place(const transport::Block& block) noexcept override;
  bool landed(const transport::Block& block, std::byte* data) noexcept override;
  void lost(const Status& why) noexcept override { lost_(why); }

  uint64_t bytes_received() const { return bytes_.load(std::memory_order_relaxed); }

 private:
  bool look_out(uint64_t bytes_before, const std::function<bool()>& give_up) const;
  // With mutex_ held, all of them.
  bool take_locked(uint64_t transfer, uint64_t offset, Landed& landed);
  std::shared_ptr<Parked> parked_for(const transport::Block& block) const;
  bool claim(Parked& parked, const transport::Block& block);
  void arrived(Parked& parked, size_t bytes);
  void settle(Parked& parked);

  transport::Bulk& bulk_;
  Fences& fences_;
  Recorder& recorder_;
  const uint32_t spin_us_;
  std::function<void(const Status&)> lost_;
  static constexpr size_t kDiscarded = 1024;  // remembered; then the oldest are forgotten

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::pair<uint64_t, uint64_t>, Landed> blocks_;  // by transfer and offset
  std::set<uint64_t> discarded_;
  std::vector<std::shared_ptr<Parked>> parked_;  // of which something is missing
  std::atomic<uint64_t> bytes_{0};  // landed so far
  bool stopped_ = false;
};

}  // namespace bf::server
