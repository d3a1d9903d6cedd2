// Where bytes that come back from the GPU land: tickets name program memory, and incoming bulk blocks and Data frames
// find it by ticket number. Everything in a block or frame is the peer's claim and is checked against the ticket.
//
// Two copies may have the same destination, one behind the other: the later bytes must land last, whichever way each of
// them travels. So bytes of a ticket that overlaps an older one, still open, are *held* until that one is complete - or
// until it is known that all bytes sent before these have landed: the older copy then has failed, or was ordered
// behind this one.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <set>
#include <vector>

#include "client/futex.h"
#include "proto/frame.h"
#include "transport/transport.h"

namespace bf::client {

// How the dense bytes of a transfer lie in host memory: `slices` slices of `rows` rows of `row_bytes`.
struct HostLayout {
  std::byte* base = nullptr;
  size_t row_bytes = 0;
  size_t rows = 1;
  size_t slices = 1;
  size_t pitch = 0;        // bytes from row to row
  size_t slice_pitch = 0;  // bytes from slice to slice

  static HostLayout dense(const void* data, size_t bytes) {
    return {static_cast<std::byte*>(const_cast<void*>(data)), bytes, 1, 1, bytes, bytes};
  }
  size_t bytes() const { return row_bytes * rows * slices; }
  // From the first byte to behind the last.
  size_t extent() const {
    return bytes() == 0 ? 0 : (slices - 1) * slice_pitch + (rows - 1) * pitch + row_bytes;
  }
  bool is_dense() const { return extent() == bytes(); }
  // Copies between dense bytes [offset, offset + count) of the transfer and their places.
  void scatter(size_t offset, const std::byte* dense, size_t count) const;
  void gather(size_t offset, std::byte* dense, size_t count) const;
};

class Landing final : public transport::BulkSink {
 public:
  explicit Landing(std::function<void(const Status&)> lost) : lost_(std::move(lost)) {}
  void attach(transport::Bulk& bulk) { bulk_ = &bulk; }

  // Registers a destination; it stays until all its bytes have landed or forget() takes it.
  uint64_t issue(const HostLayout& layout);
  void forget(uint64_t ticket);
  // Does an unlanded ticket write into the range?
  bool overlaps(const void* data, size_t bytes) const;

  // The bytes of a Data frame, sent when `watermark` bulk blocks had been sent. False: no ticket agrees with them.
  bool data(uint64_t ticket, uint64_t offset, std::span<const std::byte> bytes, uint64_t watermark);

  // Another frame with data has been taken over elsewhere.
  void data_frame();

  // Waits until all bulk blocks below `watermark` and so many Data frames have landed. Every Data frame sent before the
  // thing that the caller wants to tell has been given to data(), or is counted in `data_frames`. False when the link
  // is lost.
  bool wait(uint64_t watermark, uint64_t data_frames);

  std::byte* place(const transport::Block& block) noexcept override;
  bool landed(const transport::Block& block, std::byte* data) noexcept override;
  void lost(const Status& why) noexcept override;
  // Wakes everybody in wait().
  void stop();

 private:
  struct Ticket {
    HostLayout layout;
    size_t missing = 0;
    std::vector<uint64_t> after;  // older tickets, open at the time, with a common destination
  };
  using Tickets = std::map<uint64_t, Ticket>;
  struct Held {
    uint64_t ticket = 0, offset = 0;
    std::span<const std::byte> bytes;  // in the ring, or in `copy`
    std::vector<std::byte> copy;
    bool is_block = false;
    transport::Block block;
    uint64_t watermark = 0;  // of a Data frame
  };
  // Under lock_, all of them.
  bool waits(const Ticket& ticket) const;
  bool held_ready(const Held& held) const;
  void land_held(std::vector<transport::Block>& ring_blocks);
  // Counts `bytes` of the ticket as landed; erases it with the last. Under lock_.
  void account(Tickets::iterator ticket, size_t bytes);
  bool count_block(uint64_t sequence);
  void wake();

  std::function<void(const Status&)> lost_;
  transport::Bulk* bulk_ = nullptr;
  mutable SpinLock lock_;
  Tickets tickets_;
  std::list<Held> held_;              // as they came
  uint64_t sent_before_ = 0;          // Data frames sent before the block of this number have all been read
  std::atomic<size_t> open_{0};  // tickets_.size(), for a glance without the lock
  std::atomic<uint64_t> next_{1};
  std::set<uint64_t> early_;              // blocks landed beyond the first gap
  std::atomic<uint64_t> landed_below_{0};  // all blocks below have landed
  std::atomic<uint64_t> data_frames_{0};
  std::atomic<uint32_t> word_{0}, waiters_{0};
  std::atomic<bool> stopped_{false};
};

}  // namespace bf::client
