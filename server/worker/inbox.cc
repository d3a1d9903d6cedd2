#include "server/worker/inbox.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include <vector>

#include "base/limits.h"
#include "transport/thread.h"

namespace bf::server {
namespace {

constexpr auto kGlance = std::chrono::microseconds(100);  // how often a sleeper asks whether to give up

}  // namespace

std::byte* Inbox::place(const transport::Block& block) noexcept {
  std::lock_guard guard(mutex_);
  const auto parked = parked_for(block);
  if (!parked) return nullptr;
  return claim(*parked, block) ? parked->place(block) : transport::kReject;
}

bool Inbox::landed(const transport::Block& block, std::byte* data) noexcept {
  if (block.bytes == 0 || block.bytes > limits::kBulkBlockBytes) return false;
  std::unique_lock guard(mutex_);
  if (stopped_) return false;
  if (const auto parked = parked_for(block)) {
    std::byte* const place = parked->place(block);
    if (data != place) {  // on its way into the ring already when the part was parked, or a transport that does not place
      if (!claim(*parked, block)) return false;
      guard.unlock();
      std::memcpy(place, data, block.bytes);
      bulk_.release(block);
      guard.lock();
    }
    bytes_.fetch_add(block.bytes, std::memory_order_relaxed);
    arrived(*parked, block.bytes);
    return true;
  }
  if (discarded_.contains(block.transfer)) {
    guard.unlock();
    bulk_.release(block);
    return true;
  }
  // No ring has more slots; a transport that claims more has lost count.
  if (blocks_.size() >= limits::kTcpBulkBlocks) return false;
  if (!blocks_.emplace(std::pair(block.transfer, block.offset), Landed{block, data}).second) return false;
  bytes_.fetch_add(block.bytes, std::memory_order_relaxed);
  changed_.notify_all();
  return true;
}

std::shared_ptr<Inbox::Parked> Inbox::parked_for(const transport::Block& block) const {
  const auto found = std::find_if(parked_.begin(), parked_.end(), [&](const auto& parked) { return parked->covers(block); });
  return found == parked_.end() ? nullptr : *found;
}

// False: more bytes than there are to come, so some come twice.
bool Inbox::claim(Parked& parked, const transport::Block& block) {
  if (block.bytes > parked.unclaimed) return false;
  parked.unclaimed -= block.bytes;
  return true;
}

void Inbox::arrived(Parked& parked, size_t bytes) {
  if (parked.landed.load(std::memory_order_relaxed)) return;  // the session has ended
  parked.missing -= bytes;
  if (parked.missing > 0) return;
  settle(parked);
  std::erase_if(parked_, [&](const auto& other) { return other.get() == &parked; });
}

void Inbox::settle(Parked& parked) {
  fences_.open(parked.gate);
  parked.landed.store(true, std::memory_order_release);
}

void Inbox::park(const std::shared_ptr<Parked>& parked) {
  std::vector<Landed> early;
  std::unique_lock guard(mutex_);
  if (stopped_) return settle(*parked);
  parked->unclaimed = parked->missing = parked->bytes;
  parked_.push_back(parked);
  for (auto at = blocks_.lower_bound({parked->transfer, parked->offset});
       at != blocks_.end() && parked->covers(at->second.block) && claim(*parked, at->second.block); at = blocks_.erase(at))
    early.push_back(at->second);
  guard.unlock();
  size_t bytes = 0;
  for (const Landed& landed : early) {
    std::memcpy(parked->place(landed.block), landed.data, landed.block.bytes);
    bulk_.release(landed.block);
    bytes += landed.block.bytes;
  }
  guard.lock();
  arrived(*parked, bytes);
}

void Inbox::discard(uint64_t transfer) {
  std::vector<transport::Block> blocks;
  {
    std::lock_guard guard(mutex_);
    discarded_.insert(transfer);
    if (discarded_.size() > kDiscarded) discarded_.erase(discarded_.begin());
    const auto first = blocks_.lower_bound({transfer, 0});
    auto last = first;
    for (; last != blocks_.end() && last->first.first == transfer; ++last) blocks.push_back(last->second.block);
    blocks_.erase(first, last);
  }
  for (const auto& block : blocks) bulk_.release(block);
}

bool Inbox::take_locked(uint64_t transfer, uint64_t offset, Landed& landed) {
  const auto found = offset == kAnyOffset ? blocks_.lower_bound({transfer, 0}) : blocks_.find({transfer, offset});
  if (found == blocks_.end() || found->first.first != transfer) return false;
  landed = found->second;
  blocks_.erase(found);
  return true;
}

bool Inbox::take(uint64_t transfer, uint64_t offset, Landed& landed) {
  std::lock_guard guard(mutex_);
  return !stopped_ && take_locked(transfer, offset, landed);
}

bool Inbox::wait(uint64_t transfer, uint64_t offset, Landed& landed, const std::function<bool()>& give_up) {
  std::unique_lock guard(mutex_);
  for (;;) {
    if (stopped_) return false;
    if (take_locked(transfer, offset, landed)) return true;
    Recorder::Span waiting(recorder_);
    const uint64_t before = bytes_received();
    guard.unlock();
    if (look_out(before, give_up)) return false;
    guard.lock();
    if (stopped_ || bytes_received() != before) continue;
    if (give_up) {
      changed_.wait_for(guard, kGlance);
    } else {
      changed_.wait(guard);
    }
  }
}

// Until more has landed, for a short while: the next block of a transfer is seldom far, and waking up is slow. True if `give_up`
// says so, which is asked at least once.
bool Inbox::look_out(uint64_t bytes_before, const std::function<bool()>& give_up) const {
  for (transport::LookOut look{std::chrono::microseconds(spin_us_)};;) {
    if (give_up && give_up()) return true;
    if (look.over()) return false;
    for (int i = 0; i < 64; ++i, transport::relax_cpu())
      if (bytes_received() != bytes_before) return false;
  }
}

void Inbox::stop() {
  std::lock_guard guard(mutex_);
  stopped_ = true;
  changed_.notify_all();
  // What waits at a gate would keep who waits for the device.
  for (const auto& parked : parked_) settle(*parked);
  parked_.clear();
}

size_t Inbox::Reader::read(void* to, size_t bytes, const std::function<bool()>& give_up) {
  auto* const begin = static_cast<std::byte*>(to);
  auto* out = begin;
  while (bytes > 0) {
    if (!held_) {
      if (!inbox_.wait(transfer_, offset_, landed_, give_up)) break;
      held_ = true;
      used_ = 0;
      offset_ += landed_.block.bytes;
    }
    const size_t count = std::min<size_t>(bytes, landed_.block.bytes - used_);
    std::memcpy(out, landed_.data + used_, count);
    out += count;
    bytes -= count;
    used_ += count;
    if (used_ == landed_.block.bytes) {
      inbox_.release(landed_.block);
      held_ = false;
    }
  }
  return size_t(out - begin);
}

}  // namespace bf::server
