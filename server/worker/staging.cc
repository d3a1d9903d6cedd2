#include "server/worker/staging.h"

#include <time.h>

namespace bf::server {

void sleep_briefly() {
  const timespec time{0, 20'000};
  nanosleep(&time, nullptr);
}

bool Staging::grow(bool large) {
  std::lock_guard growing(growing_);
  const size_t slot_bytes = large ? kLargeBytes : kSmallBytes;
  const size_t slots = large ? 8 : 64;
  {
    std::lock_guard guard(mutex_);
    if (!free_[large].empty()) return true;
    if (made_[large] + slots > (large ? kLargeSlots : kSmallSlots)) return false;
  }
  PinnedRegion slab;
  if (!slab.map(slot_bytes * slots)) return false;
  slab.pin(driver_);  // refused: pageable staging is slower, and right
  std::lock_guard guard(mutex_);
  for (size_t i = 0; i < slots; ++i) free_[large].push_back(slab.data() + i * slot_bytes);
  made_[large] += slots;
  slabs_.push_back(std::move(slab));
  return true;
}

StagingSlot Staging::take(size_t bytes) {
  const bool large = bytes > kSmallBytes;
  std::unique_lock lock(mutex_);
  while (free_[large].empty()) {
    lock.unlock();
    if (!grow(large)) return {};
    lock.lock();
  }
  StagingSlot slot{free_[large].back(), large};
  free_[large].pop_back();
  for (const PinnedRegion& slab : slabs_)
    if (slot.data >= slab.data() && slot.data < slab.data() + slab.bytes()) slot.pinned = slab.pinned();
  return slot;
}

StagingSlot Staging::take_device() {
  std::lock_guard guard(mutex_);
  std::byte* slot = device_.take();
  return {slot, true, slot != nullptr};
}

void Staging::give(const StagingSlot& slot) {
  std::lock_guard guard(mutex_);
  if (slot.device) return device_.give(slot.data);
  free_[slot.large].push_back(slot.data);
}

void Staging::warm() {
  grow(false);
  grow(true);
  std::lock_guard guard(mutex_);
  if (wants_device_) device_.warm();
}

void Staging::renew() {
  std::lock_guard guard(mutex_);
  for (auto& slab : slabs_) slab.pin(driver_);
}

void Staging::unpin() {
  std::unique_lock guard(mutex_);
  while (device_.busy()) {  // the network still reads there
    guard.unlock();
    sleep_briefly();
    guard.lock();
  }
  for (auto& slab : slabs_) slab.unpin(driver_);
  device_.close();
}

}  // namespace bf::server
