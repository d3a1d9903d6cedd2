#include "client/landing.h"

#include <algorithm>
#include <cstring>
#include <mutex>

#include "client/watch.h"
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

namespace {

constexpr size_t kMostHeld = 1 << 16;  // no program has so many copies under way; a server that says so is broken

bool meet(const HostLayout& a, const HostLayout& b) {
  return a.base < b.base + b.extent() && b.base < a.base + a.extent();
}

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

uint64_t Landing::issue(const HostLayout& layout) {
  if (watched()) watch_bytes_down(layout.bytes());
  std::lock_guard guard(lock_);
  uint64_t id = next_.load(std::memory_order_relaxed);
  next_.store(id + 1, std::memory_order_relaxed);
  Ticket ticket{layout, layout.bytes(), {}};
  for (const auto& [older, open] : tickets_) {
    if (meet(open.layout, layout)) ticket.after.push_back(older);
  }
  tickets_.emplace_hint(tickets_.end(), id, std::move(ticket));
  open_.store(tickets_.size(), std::memory_order_relaxed);
  return id;
}

void Landing::forget(uint64_t ticket) {
  std::vector<transport::Block> ring_blocks;
  {
    std::lock_guard guard(lock_);
    tickets_.erase(ticket);
    open_.store(tickets_.size(), std::memory_order_relaxed);
    land_held(ring_blocks);
  }
  for (const auto& block : ring_blocks) bulk_->release(block);
  wake();
}

bool Landing::overlaps(const void* data, size_t bytes) const {
  if (open_.load(std::memory_order_relaxed) == 0) return false;
  const HostLayout range = HostLayout::dense(data, bytes);
  std::lock_guard guard(lock_);
  return std::any_of(tickets_.begin(), tickets_.end(), [&](const auto& entry) { return meet(entry.second.layout, range); });
}

void Landing::account(Tickets::iterator ticket, size_t bytes) {
  ticket->second.missing -= std::min(bytes, ticket->second.missing);
  if (ticket->second.missing > 0) return;
  tickets_.erase(ticket);
  open_.store(tickets_.size(), std::memory_order_relaxed);
}

bool Landing::waits(const Ticket& ticket) const {
  return std::any_of(ticket.after.begin(), ticket.after.end(), [&](uint64_t older) { return tickets_.contains(older); });
}

bool Landing::held_ready(const Held& held) const {
  const uint64_t below = landed_below_.load(std::memory_order_relaxed);
  if (held.is_block ? below == held.block.sequence && below < sent_before_ : below >= held.watermark) return true;
  const auto found = tickets_.find(held.ticket);
  return found == tickets_.end() || !waits(found->second);
}

// Lands what is held and may land now. Each may free the next; `ring_blocks` are to be released without the lock.
void Landing::land_held(std::vector<transport::Block>& ring_blocks) {
  for (auto held = held_.begin(); held != held_.end();) {
    if (!held_ready(*held)) {
      ++held;
      continue;
    }
    if (const auto found = tickets_.find(held->ticket); found != tickets_.end()) {
      found->second.layout.scatter(held->offset, held->bytes.data(), held->bytes.size());
      account(found, held->bytes.size());
    }
    if (held->is_block) {
      count_block(held->block.sequence);
      ring_blocks.push_back(held->block);
    } else {
      data_frames_.fetch_add(1, std::memory_order_release);
    }
    held_.erase(held);
    held = held_.begin();
  }
}

bool Landing::data(uint64_t ticket, uint64_t offset, std::span<const std::byte> bytes, uint64_t watermark) {
  std::vector<transport::Block> ring_blocks;
  {
    std::lock_guard guard(lock_);
    auto found = tickets_.find(ticket);
    if (found == tickets_.end()) {  // forgotten: dropped; but a number never given out is a breach
      if (ticket == 0 || ticket >= next_.load(std::memory_order_relaxed)) return false;
    } else {
      const HostLayout& layout = found->second.layout;
      if (offset > layout.bytes() || bytes.size() > layout.bytes() - offset) return false;
      Held held{ticket, offset, bytes, {}, false, {}, watermark};
      if (waits(found->second) && !held_ready(held)) {
        if (held_.size() >= kMostHeld) return false;
        held.copy.assign(bytes.begin(), bytes.end());
        held.bytes = held.copy;
        held_.push_back(std::move(held));
        return true;
      }
      layout.scatter(offset, bytes.data(), bytes.size());
      account(found, bytes.size());
    }
    data_frames_.fetch_add(1, std::memory_order_release);
    if (!held_.empty()) land_held(ring_blocks);
  }
  for (const auto& block : ring_blocks) bulk_->release(block);
  wake();
  return true;
}

void Landing::data_frame() {
  data_frames_.fetch_add(1, std::memory_order_release);
  wake();
}

std::byte* Landing::place(const transport::Block& block) noexcept {
  const Part part(block);
  std::lock_guard guard(lock_);
  auto found = tickets_.find(part.ticket);
  if (found == tickets_.end()) return nullptr;  // landed() decides
  const HostLayout& layout = found->second.layout;
  if (!part.inside(layout, block.bytes)) return transport::kReject;
  return layout.is_dense() && !waits(found->second) ? layout.base + part.offset : nullptr;
}

bool Landing::landed(const transport::Block& block, std::byte* data) noexcept {
  const Part part(block);
  std::vector<transport::Block> ring_blocks;
  {
    std::lock_guard guard(lock_);
    auto found = tickets_.find(part.ticket);
    if (found == tickets_.end()) {
      // Forgotten tickets are no breach: their bytes are dropped. Numbers never given out are.
      if (part.ticket == 0 || part.ticket >= next_.load(std::memory_order_relaxed)) return false;
      auto ring = bulk_->ring();
      if (data >= ring.data() && data < ring.data() + ring.size()) ring_blocks.push_back(block);
    } else {
      const HostLayout& layout = found->second.layout;
      if (!part.inside(layout, block.bytes)) return false;
      if (!layout.is_dense() || data != layout.base + part.offset) {
        Held held{part.ticket, part.offset, {data, block.bytes}, {}, true, block, 0};
        if (waits(found->second) && !held_ready(held)) {
          if (held_.size() >= kMostHeld) return false;
          held_.push_back(std::move(held));
          return true;
        }
        layout.scatter(part.offset, data, block.bytes);
        ring_blocks.push_back(block);
      }
      account(found, block.bytes);
    }
    if (!count_block(block.sequence)) return false;
    if (!held_.empty()) land_held(ring_blocks);
  }
  for (const auto& one : ring_blocks) bulk_->release(one);
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
    // From here on blocks below the watermark wait for no older ticket: its bytes would have been read before.
    if (data_frames_.load(std::memory_order_acquire) >= data_frames) {
      std::vector<transport::Block> ring_blocks;
      {
        std::lock_guard guard(lock_);
        sent_before_ = std::max(sent_before_, watermark);
        land_held(ring_blocks);
      }
      for (const auto& block : ring_blocks) bulk_->release(block);
      if (!ring_blocks.empty()) wake();
    }
    done = there();
    if (done || stopped_.load(std::memory_order_acquire)) break;
    futex_wait_eagerly(word_, seen);
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
