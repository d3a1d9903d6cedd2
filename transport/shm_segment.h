// The memory that the two ends of a shm link share, and the rules for touching it.
//
// Both ends map one sealed memfd with this layout. Each side writes only its own words (a producer its heads and bytes,
// a consumer its tails), but nothing stops the other process from writing everything, at any moment. So:
// * a side keeps the truth about its own positions in private memory and only publishes it here;
// * every word of the other side is read once, into private memory, and bounded there before use;
// * a word that cannot be true ends the link;
// * payload bytes are copied, never interpreted in place.
//
// Publishing and sleeping follow Dekker: the producer stores its head, then loads the bell; the consumer stores the
// bell, then loads the head; all four sequentially consistent, so one of them sees the other.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <optional>
#include <span>
#include <thread>

#include "base/limits.h"
#include "transport/thread.h"
#include "transport/transport.h"

namespace bf::transport::shm {

// --- Layout
// ------------------------------------------------------------------------------------------------------------

// A doorbell of one sleeper: the futex word is 1 while it sleeps or is about to. Waking costs a system call only then.
struct Bell {
  std::atomic<uint32_t> asleep;
};

struct RingControl {
  alignas(64) std::atomic<uint64_t> head;    // bytes ever written, by the producer
  alignas(64) std::atomic<uint64_t> tail;    // bytes ever read, by the consumer
  alignas(64) Bell data;                     // the consumer sleeps here
  alignas(64) Bell space;                    // the producer sleeps here
  alignas(64) std::atomic<uint32_t> closed;  // either side: no more bytes
};

struct BlockSlot {
  alignas(64) std::atomic<uint64_t> ready;  // 1 + the sequence whose block lies in the slot
  std::atomic<uint64_t> transfer;
  std::atomic<uint64_t> offset;
  std::atomic<uint32_t> bytes;
};

struct BulkControl {
  alignas(64) std::atomic<uint64_t> released;  // by the receiver
  alignas(64) Bell data;
  alignas(64) Bell space;
  alignas(64) std::atomic<uint32_t> closed;
  BlockSlot slots[limits::kBulkBlocks];
};
static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free);

inline constexpr size_t kCallsBytes =
    1 << 20;  // in flight on the call stream: hundreds of launches, one large frame in pieces
inline constexpr size_t kSideBytes = 128 << 10;  // callbacks are small
inline constexpr size_t kBulkBytes = limits::kBulkBlocks * limits::kBulkBlockBytes;

// What travels in one direction.
struct Direction {
  RingControl calls;
  RingControl side;
  BulkControl bulk;
  alignas(4096) std::byte calls_bytes[kCallsBytes];
  alignas(4096) std::byte side_bytes[kSideBytes];
  alignas(4096) std::byte bulk_bytes[kBulkBytes];
};

struct Segment {
  alignas(4096) Direction to_worker;
  alignas(4096) Direction to_client;
};
inline constexpr uint32_t kVersion = 2;  // changes with anything above

// --- Waiting
// -----------------------------------------------------------------------------------------------------------

// Wakes the sleeper, if there is one. Call after publishing what it waits for.
void ring_bell(Bell& bell) noexcept;
// Wakes the sleeper whatever the word says: for shutting, where the word may be the peer's lie.
void force_bell(Bell& bell) noexcept;
// Sleeps while the word says so, at most a fraction of a second (a peer that tampers with the word cannot hold us).
void sleep_on_bell(Bell& bell) noexcept;

// Waits until `done()`: polls, then sleeps. One waiter per bell at a time.
// `once`: to have been rung is enough. Who rings has something new, which another may have taken already.
template <typename Done>
void wait_on_bell(Bell& bell, LookOut look, Done done, bool once = false) {
  if (done()) return;
  while (!look.over()) {
    for (int i = 0; i < 32; i++) {
      if (done()) return;
      relax_cpu();
    }
    // Lets the peer run if it shares this core.
    std::this_thread::yield();
  }
  do {
    bell.asleep.store(1, std::memory_order_seq_cst);
    if (done()) break;
    sleep_on_bell(bell);
  } while (!once || bell.asleep.load(std::memory_order_seq_cst) != 0);
  bell.asleep.store(0, std::memory_order_relaxed);
}

// --- Byte rings
// --------------------------------------------------------------------------------------------------------

// The producer's end. `bytes` is a power of two.
class RingWriter {
 public:
  RingWriter(RingControl& control, std::span<std::byte> bytes) : control_(control), bytes_(bytes) {}

  // Bytes that fit now; nothing if the consumer's tail cannot be true. Looks at the shared word (a cache miss) only
  // when less than `wanted` is known to fit.
  std::optional<size_t> room(size_t wanted) {
    if (bytes_.size() - size_t(head_ - tail_) < wanted) {
      uint64_t tail = control_.tail.load(std::memory_order_seq_cst);
      if (head_ - tail > head_ - tail_) return std::nullopt;  // ahead of the head, or backwards
      tail_ = tail;
    }
    return bytes_.size() - size_t(head_ - tail_);
  }

  // Copies in `count` <= room() bytes; the consumer sees them after publish().
  void put(const std::byte* from, size_t count) {
    if (count == 0) return;  // `from` may be null then
    size_t at = size_t(head_ & (bytes_.size() - 1));
    size_t first = std::min(count, bytes_.size() - at);
    memcpy(bytes_.data() + at, from, first);
    memcpy(bytes_.data(), from + first, count - first);
    head_ += count;
  }

  void publish() {
    control_.head.store(head_, std::memory_order_seq_cst);
    ring_bell(control_.data);
  }

 private:
  RingControl& control_;
  std::span<std::byte> bytes_;
  uint64_t head_ = 0;
  uint64_t tail_ = 0;  // last seen; head_ - tail_ <= bytes_.size() always
};

// The consumer's end.
class RingReader {
 public:
  RingReader(RingControl& control, std::span<std::byte> bytes) : control_(control), bytes_(bytes) {}

  // Bytes that lie ready; nothing if the producer's head cannot be true.
  std::optional<size_t> available() {
    uint64_t ready = control_.head.load(std::memory_order_seq_cst) - tail_;
    if (ready > bytes_.size()) return std::nullopt;
    return size_t(ready);
  }

  // Copies out `count` <= available() bytes and gives their room back.
  void take(std::byte* to, size_t count) {
    size_t at = size_t(tail_ & (bytes_.size() - 1));
    size_t first = std::min(count, bytes_.size() - at);
    memcpy(to, bytes_.data() + at, first);
    memcpy(to + first, bytes_.data(), count - first);
    tail_ += count;
    control_.tail.store(tail_, std::memory_order_seq_cst);
    ring_bell(control_.space);
  }

 private:
  RingControl& control_;
  std::span<std::byte> bytes_;
  uint64_t tail_ = 0;
};

// --- Block slots
// -------------------------------------------------------------------------------------------------------

// What the consumer finds in the slot where block `sequence` must appear.
enum class Arrival { kNotYet, kHere, kBroken };

// Reads the slot of `sequence`; `block` is filled (still a claim, but bounded) for kHere.
inline Arrival read_slot(BulkControl& control, uint64_t sequence, Block& block) {
  BlockSlot& slot = control.slots[sequence % limits::kBulkBlocks];
  uint64_t ready = slot.ready.load(std::memory_order_seq_cst);
  uint64_t before = sequence < limits::kBulkBlocks ? 0 : sequence + 1 - limits::kBulkBlocks;
  if (ready == before) return Arrival::kNotYet;
  if (ready != sequence + 1) return Arrival::kBroken;
  block = {sequence, slot.transfer.load(std::memory_order_relaxed), slot.offset.load(std::memory_order_relaxed),
           slot.bytes.load(std::memory_order_relaxed)};
  return block.bytes >= 1 && block.bytes <= limits::kBulkBlockBytes ? Arrival::kHere : Arrival::kBroken;
}

inline void publish_slot(BulkControl& control, const Block& block) {
  BlockSlot& slot = control.slots[block.sequence % limits::kBulkBlocks];
  slot.transfer.store(block.transfer, std::memory_order_relaxed);
  slot.offset.store(block.offset, std::memory_order_relaxed);
  slot.bytes.store(block.bytes, std::memory_order_relaxed);
  slot.ready.store(block.sequence + 1, std::memory_order_seq_cst);
  ring_bell(control.data);
}

}  // namespace bf::transport::shm
