#include "transport/bulk_queue.h"

#include <algorithm>
#include <chrono>

#include "transport/thread.h"

namespace bf::transport {
namespace {

// After its last block a sender looks out so long for the next one: waking it takes longer than sending many a transfer.
constexpr std::chrono::microseconds kSpin{200};

// The others help while so much waits.
constexpr uint64_t kMuch = 2 << 20;

}  // namespace

size_t bulk_block_bytes(size_t transfer_bytes) {
  constexpr size_t kUnit = 64 << 10;
  return std::clamp((transfer_bytes / kSteadySenders + kUnit - 1) / kUnit * kUnit, kUnit, limits::kBulkBlockBytes);
}

uint64_t SendQueue::push(uint64_t transfer, const void* data, size_t bytes, Sent sent) {
  std::unique_lock lock(mutex_);
  const size_t block_bytes = bulk_block_bytes(bytes);
  uint64_t blocks = (bytes + block_bytes - 1) / block_bytes;
  uint64_t end = next_sequence_ += blocks;
  if (stopped_) {
    Status why = failure_;
    lock.unlock();
    sent(why);
    return end;
  }
  bool failed = !failure_.ok();
  auto& target = failed || bytes == 0 ? done_ : active_;
  target.push_back({transfer, static_cast<const std::byte*>(data), bytes, block_bytes, 0, 0, failed, std::move(sent)});
  if (&target == &active_) {
    if (cut_ == active_.end()) --cut_;
    waiting_ += bytes;
  }
  const bool much = waiting_ >= kMuch;
  note_change();
  lock.unlock();
  if (much) much_.notify_all();
  if (blocks > 1) {
    changed_.notify_all();
  } else {
    changed_.notify_one();
  }
  return end;
}

void SendQueue::wait_for_change(std::unique_lock<std::mutex>& lock) {
  const uint64_t seen = changes_.load(std::memory_order_relaxed);
  if (processors_to_spare()) {
    lock.unlock();
    for (LookOut look(kSpin); changes_.load(std::memory_order_acquire) == seen && !look.over();) relax_cpu();
    lock.lock();
    if (changes_.load(std::memory_order_relaxed) != seen) return;
  }
  changed_.wait(lock);
}

bool SendQueue::block_for(uint32_t sender) const {
  return cut_ != active_.end() && next_block_ - released_ < window_ && (sender < kSteadySenders || waiting_ >= kMuch);
}

std::optional<SendQueue::Job> SendQueue::take(uint32_t sender) {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (!done_.empty()) {
      std::list<Transfer> one;
      one.splice(one.begin(), done_, done_.begin());
      Status status = one.front().failed ? failure_ : Status{};
      lock.unlock();
      one.front().sent(status);
      one.clear();
      lock.lock();
    } else if (stopped_) {
      return std::nullopt;
    } else if (announcement_) {
      Job job;
      job.is_credit = true;
      job.block.sequence = *std::exchange(announcement_, std::nullopt);
      return job;
    } else if (block_for(sender)) {
      Job job;
      job.owner = cut_;
      job.data = cut_->data + cut_->cut_bytes;
      job.block = {next_block_++, cut_->id, cut_->cut_bytes,
                   uint32_t(std::min(cut_->block_bytes, cut_->bytes - cut_->cut_bytes))};
      cut_->cut_bytes += job.block.bytes;
      waiting_ -= job.block.bytes;
      cut_->in_flight++;
      if (cut_->cut_bytes == cut_->bytes) ++cut_;
      return job;
    } else if (sender < kSteadySenders) {
      wait_for_change(lock);
    } else {
      much_.wait(lock);
    }
  }
}

void SendQueue::finish(const Job& job) {
  std::lock_guard lock(mutex_);
  Transfer& transfer = *job.owner;
  transfer.in_flight--;
  if (!failure_.ok()) transfer.failed = true;
  if (transfer.in_flight == 0 && (transfer.failed || transfer.cut_bytes == transfer.bytes))
    done_.splice(done_.end(), active_, job.owner);
}

bool SendQueue::credit(uint64_t released) {
  bool much;
  {
    std::lock_guard lock(mutex_);
    if (released > next_block_) return false;
    if (released <= released_) return true;  // overtaken on another channel
    released_ = released;
    much = waiting_ >= kMuch;
    note_change();
  }
  changed_.notify_all();
  if (much) much_.notify_all();
  return true;
}

void SendQueue::announce(uint64_t released) {
  {
    std::lock_guard lock(mutex_);
    if (!failure_.ok()) return;
    announcement_ = std::max(announcement_.value_or(0), released);
    note_change();
  }
  changed_.notify_one();
}

void SendQueue::fail(const Status& why) {
  {
    std::lock_guard lock(mutex_);
    fail_locked(why);
  }
  notify_all();
}

void SendQueue::stop() {
  {
    std::lock_guard lock(mutex_);
    fail_locked(Status(StatusCode::kUnavailable, "the link was closed on this side"));
    stopped_ = true;
    note_change();
  }
  notify_all();
}

void SendQueue::notify_all() {
  changed_.notify_all();
  much_.notify_all();
}

void SendQueue::fail_locked(const Status& why) {
  if (!failure_.ok()) return;
  failure_ = why;
  note_change();
  announcement_.reset();
  cut_ = active_.end();
  waiting_ = 0;
  for (auto transfer = active_.begin(); transfer != active_.end();) {
    auto next = std::next(transfer);
    transfer->failed = true;
    if (transfer->in_flight == 0) done_.splice(done_.end(), active_, transfer);
    transfer = next;
  }
}

ReceiveWindow::ReceiveWindow(uint32_t ring_blocks) : slots_(ring_blocks), places_(ring_blocks) {
  for (uint32_t slot = ring_blocks; slot > 0; --slot) free_.push_back(slot - 1);
}

bool ReceiveWindow::admit(const Block& block) {
  if (block.bytes == 0 || block.bytes > limits::kBulkBlockBytes) return false;
  std::lock_guard lock(mutex_);
  // One subtraction, so that no sequence near 2^64 can wrap into the window.
  if (block.sequence < released_ || block.sequence - released_ >= slots_.size()) return false;
  Slot& slot = slots_[block.sequence % slots_.size()];
  if (slot != Slot::kEmpty) return false;
  slot = Slot::kHeld;
  places_[block.sequence % slots_.size()] = free_.back();  // there is one: as many are taken as blocks are held
  free_.pop_back();
  seen_ = std::max(seen_, block.sequence + 1);
  return true;
}

uint32_t ReceiveWindow::last_freed_slot(const Block& block) const {
  std::lock_guard lock(mutex_);
  return places_[block.sequence % slots_.size()];
}

bool ReceiveWindow::release(const Block& block) {
  std::lock_guard lock(mutex_);
  if (block.sequence < released_ || block.sequence - released_ >= slots_.size()) return false;
  Slot& slot = slots_[block.sequence % slots_.size()];
  if (slot != Slot::kHeld) return false;
  slot = Slot::kReleased;
  free_.push_back(places_[block.sequence % slots_.size()]);
  while (slots_[released_ % slots_.size()] == Slot::kReleased) slots_[released_++ % slots_.size()] = Slot::kEmpty;
  return true;
}

std::optional<uint64_t> ReceiveWindow::due_credit() {
  std::lock_guard lock(mutex_);
  uint64_t pending = released_ - announced_;
  if (pending == 0) return std::nullopt;
  if (pending < slots_.size() / 8 && seen_ - announced_ < slots_.size() / 2) return std::nullopt;
  return announced_ = released_;
}

uint64_t ReceiveWindow::released() const {
  std::lock_guard lock(mutex_);
  return released_;
}

}  // namespace bf::transport
