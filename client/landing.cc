#include "client/landing.h"

#include <algorithm>
#include <cstring>
#include <mutex>

#include "proto/session.h"

#include "proto/session.h"

namespace bf::client {

namespace {

// Calls `piece(host address, dense position, bytes)` for each run of the range that is contiguous on both sides.
template <typename Piece>
void for_rows(const HostLayout& layout, size_t offset, size_t count, Piece piece) {
  if (layout.is_dense()) return piece(layout.base + offset, size_t{0}, count);
  size_t done = 0;
  while (done < count) {
    size_t at = offset + done;
    size_t row = at / layout.row_bytes, column = at % layout.row_bytes;
    size_t bytes = std::min(count - done, layout.row_bytes - column);
    piece(layout.base + row / layout.rows * layout.slice_pitch + row % layout.rows * layout.pitch + column, done, bytes);
    done += bytes;
  }
}

}  // namespace

void HostLayout::scatter(size_t offset, const std::byte* dense, size_t count) const {
  for_rows(*this, offset, count,
           [&](std::byte* host, size_t at, size_t bytes) { std::memcpy(host, dense + at, bytes); });
}

void HostLayout::gather(size_t offset, std::byte* dense, size_t count) const {
  for_rows(*this, offset, count,
           [&](std::byte* host, size_t at, size_t bytes) { std::memcpy(dense + at, host, bytes); });
}

uint64_t Landing::issue(const HostLayout& layout) {
  std::lock_guard guard(lock_);
  uint64_t id = next_.load(std::memory_order_relaxed);
  next_.store(id + 1, std::memory_order_relaxed);
  tickets_.emplace_hint(tickets_.end(), id, Ticket{layout, layout.bytes()});
  open_.store(tickets_.size(), std::memory_order_relaxed);
  return id;
}

void Landing::forget(uint64_t ticket) {
  std::lock_guard guard(lock_);
  tickets_.erase(ticket);
  open_.store(tickets_.size(), std::memory_order_relaxed);
}

bool Landing::overlaps(const void* data, size_t bytes) const {
  if (open_.load(std::memory_order_relaxed) == 0) return false;
  auto* begin = static_cast<const std::byte*>(data);
  std::lock_guard guard(lock_);
  return std::any_of(tickets_.begin(), tickets_.end(), [&](const auto& entry) {
    const HostLayout& layout = entry.second.layout;
    return begin < layout.base + layout.extent() && layout.base < begin + bytes;
  });
}

void Landing::account(std::map<uint64_t, Ticket>::iterator ticket, size_t bytes) {
  ticket->second.missing -= std::min(bytes, ticket->second.missing);
  if (ticket->second.missing > 0) return;
  tickets_.erase(ticket);
  open_.store(tickets_.size(), std::memory_order_relaxed);
}

bool Landing::data(uint64_t ticket, uint64_t offset, std::span<const std::byte> bytes) {
  {
    std::lock_guard guard(lock_);
    auto found = tickets_.find(ticket);
    if (found == tickets_.end()) {  // forgotten: dropped; but a number never given out is a breach
      if (ticket == 0 || ticket >= next_.load(std::memory_order_relaxed)) return false;
    } else {
      const HostLayout& layout = found->second.layout;
      if (offset > layout.bytes() || bytes.size() > layout.bytes() - offset) return false;
      layout.scatter(offset, bytes.data(), bytes.size());
      account(found, bytes.size());
    }
  }
  data_frames_.fetch_add(1, std::memory_order_release);
  wake();
  return true;
}

namespace {

// Where a block's bytes lie in its ticket. A large ticket travels as several transfers (proto/session.h).
struct Part {
  explicit Part(const transport::Block& block)
      : ticket(ticket_of_transfer(block.transfer)), offset(offset_of_transfer(block.transfer) + block.offset) {}
  bool inside(const HostLayout& layout, size_t bytes) const {
    return offset <= layout.bytes() && bytes <= layout.bytes() - offset;
  }
  uint64_t ticket;
  uint64_t offset;
};

}  // namespace

std::byte* Landing::place(const transport::Block& block) noexcept {
  const Part part(block);
  std::lock_guard guard(lock_);
  auto found = tickets_.find(part.ticket);
  if (found == tickets_.end()) return nullptr;  // landed() decides
  const HostLayout& layout = found->second.layout;
  if (!part.inside(layout, block.bytes)) return transport::kReject;
  return layout.is_dense() ? layout.base + part.offset : nullptr;
}

bool Landing::landed(const transport::Block& block, std::byte* data) noexcept {
  const Part part(block);
  bool in_ring = false;
  {
    std::lock_guard guard(lock_);
    auto found = tickets_.find(part.ticket);
    if (found == tickets_.end()) {
      // Forgotten tickets are no breach: their bytes are dropped. Numbers never given out are.
      if (part.ticket == 0 || part.ticket >= next_.load(std::memory_order_relaxed)) return false;
      auto ring = bulk_->ring();
      in_ring = data >= ring.data() && data < ring.data() + ring.size();
    } else {
      const HostLayout& layout = found->second.layout;
      if (!part.inside(layout, block.bytes)) return false;
      if (!layout.is_dense() || data != layout.base + part.offset) {
        layout.scatter(part.offset, data, block.bytes);
        in_ring = true;
      }
      account(found, block.bytes);
    }
    if (!count_block(block.sequence)) return false;
  }
  if (in_ring) bulk_->release(block);
  wake();
  return true;
}

// Blocks land out of order: they are striped over channels.
bool Landing::count_block(uint64_t sequence) {
  uint64_t below = landed_below_.load(std::memory_order_relaxed);
  if (sequence != below) {
    return sequence > below && early_.size() < 4 * limits::kBulkBlocks && early_.insert(sequence).second;
  }
  ++below;
  while (!early_.empty() && *early_.begin() == below) {
    early_.erase(early_.begin());
    ++below;
  }
  landed_below_.store(below, std::memory_order_release);
  return true;
}

void Landing::lost(const Status& why) noexcept { lost_(why); }

void Landing::wake() {
  word_.fetch_add(1, std::memory_order_seq_cst);
  if (waiters_.load(std::memory_order_seq_cst) > 0) futex_wake(word_, INT_MAX);
}

bool Landing::wait(uint64_t watermark, uint64_t data_frames) {
  auto there = [&] {
    return landed_below_.load(std::memory_order_acquire) >= watermark &&
           data_frames_.load(std::memory_order_acquire) >= data_frames;
  };
  if (there()) return true;
  waiters_.fetch_add(1, std::memory_order_seq_cst);
  bool done = false;
  for (;;) {
    uint32_t seen = word_.load(std::memory_order_seq_cst);
    done = there();
    if (done || stopped_.load(std::memory_order_acquire)) break;
    futex_wait(word_, seen);
  }
  waiters_.fetch_sub(1, std::memory_order_relaxed);
  return done;
}

void Landing::stop() {
  stopped_.store(true, std::memory_order_release);
  word_.fetch_add(1, std::memory_order_seq_cst);
  futex_wake(word_, INT_MAX);
}

}  // namespace bf::client
