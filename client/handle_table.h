// The client's side of typed handles: value -> object, for objects that the program made.
//
// Lookups take no lock and write nothing shared: a launch looks up its function and stream here. Slots are never given
// back to the allocator; a dead slot is reused for a later object with the next generation, oldest first, so a stale
// value is not found (a program that uses an object in one thread while it destroys it in another gets either answer,
// as with the real driver, but never a crash).
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "base/handle.h"
#include "client/futex.h"

namespace bf::client {

class HandleMakerBase {
 public:
  virtual ~HandleMakerBase() = default;
  // A fresh value with a default-made object behind it; 0 when 16 M objects are alive.
  virtual uint64_t make() = 0;
  // Forgets the handle. False if it was not live.
  virtual bool erase(uint64_t value) = 0;
};

template <typename T, HandleKind kKind>
class HandleTable final : public HandleMakerBase {
 public:
  uint64_t make() override {
    std::lock_guard guard(lock_);
    uint32_t index;
    if (free_.size() > kReuseDelay || next_ >> limits::kHandleIndexBits) {
      if (free_.empty()) return 0;
      index = free_.front();
      free_.pop_front();
    } else {
      index = next_++;
    }
    Slot& slot = slot_at(HandleMaker::kClient, index);
    uint16_t generation = uint16_t(slot.generation.load(std::memory_order_relaxed) >> 1);
    slot.object = std::make_shared<T>();
    slot.pointer.store(slot.object.get(), std::memory_order_relaxed);
    slot.generation.store(uint32_t(generation) << 1 | 1, std::memory_order_release);
    return Handle{kKind, HandleMaker::kClient, generation, index}.pack();
  }

  // An object for a value that the worker made; the live one if it is known already. nullptr for a value of another kind.
  T* adopt(uint64_t value) {
    Handle handle = Handle::unpack(value);
    if (handle.kind != kKind || handle.maker != HandleMaker::kWorker || value >> 47) return nullptr;
    std::lock_guard guard(lock_);
    Slot& slot = slot_at(HandleMaker::kWorker, handle.index);
    uint32_t live = uint32_t(handle.generation) << 1 | 1;
    if (slot.generation.load(std::memory_order_relaxed) == live) return slot.object.get();
    bury(slot);
    slot.object = std::make_shared<T>();
    slot.pointer.store(slot.object.get(), std::memory_order_relaxed);
    slot.generation.store(live, std::memory_order_release);
    adopted_ = std::max(adopted_, handle.index + 1);
    return slot.object.get();
  }

  // The live object, or nullptr.
  T* find(uint64_t value) const {
    const Slot* slot = slot_of(value);
    return slot ? slot->pointer.load(std::memory_order_acquire) : nullptr;
  }

  bool erase(uint64_t value) override {
    std::lock_guard guard(lock_);
    auto* slot = const_cast<Slot*>(slot_of(value));
    if (!slot) return false;
    Handle handle = Handle::unpack(value);
    slot->generation.store(uint32_t(uint16_t(handle.generation + 1)) << 1, std::memory_order_release);
    bury(*slot);
    if (handle.maker == HandleMaker::kClient) free_.push_back(handle.index);
    return true;
  }

  // Calls `visit(value, object)` for every live object, under the table's lock: make and erase wait meanwhile.
  template <typename Visit>
  void for_each(Visit visit) {
    std::lock_guard guard(lock_);
    for (HandleMaker maker : {HandleMaker::kClient, HandleMaker::kWorker}) {
      uint32_t end = maker == HandleMaker::kClient ? next_ : adopted_;
      for (uint32_t index = 0; index < end; ++index) {
        const Slot* slots = chunk_of(maker, index).load(std::memory_order_relaxed);
        if (!slots) continue;
        const Slot& slot = slots[index & (kChunkSlots - 1)];
        uint32_t generation = slot.generation.load(std::memory_order_relaxed);
        if (generation & 1) visit(Handle{kKind, maker, uint16_t(generation >> 1), index}.pack(), *slot.object);
      }
    }
  }

 private:
  static constexpr uint32_t kChunkBits = 10, kChunkSlots = 1 << kChunkBits;
  static constexpr size_t kChunks = size_t{1} << (limits::kHandleIndexBits - kChunkBits);
  static constexpr size_t kReuseDelay = 1024;  // slots rest this long, so that stale values are noticed
  static constexpr size_t kGraveyard = 256;    // objects kept for readers that raced with their destruction

  struct Slot {
    std::atomic<uint32_t> generation{0};  // generation << 1 | live
    std::atomic<T*> pointer{nullptr};
    std::shared_ptr<T> object;
  };

  const Slot* slot_of(uint64_t value) const {
    Handle handle = Handle::unpack(value);
    if (handle.kind != kKind || value >> 47) return nullptr;
    const Slot* slots = chunk_of(handle.maker, handle.index).load(std::memory_order_acquire);
    if (!slots) return nullptr;
    const Slot* slot = &slots[handle.index & (kChunkSlots - 1)];
    bool live = slot->generation.load(std::memory_order_acquire) == (uint32_t(handle.generation) << 1 | 1);
    return live ? slot : nullptr;
  }

  std::atomic<Slot*>& chunk_of(HandleMaker maker, uint32_t index) const {
    return chunks_[(maker == HandleMaker::kWorker ? kChunks : 0) + (index >> kChunkBits)];
  }

  Slot& slot_at(HandleMaker maker, uint32_t index) {
    auto& chunk = chunk_of(maker, index);
    Slot* slots = chunk.load(std::memory_order_relaxed);
    if (!slots) chunk.store(slots = new Slot[kChunkSlots], std::memory_order_release);
    return slots[index & (kChunkSlots - 1)];
  }

  // A racing reader may still hold the pointer.
  void bury(Slot& slot) {
    if (slot.object) graveyard_.push_back(std::move(slot.object));
    if (graveyard_.size() > kGraveyard) graveyard_.pop_front();
  }

  SpinLock lock_;
  uint32_t next_ = 0, adopted_ = 0;
  std::deque<uint32_t> free_;
  std::deque<std::shared_ptr<T>> graveyard_;
  std::unique_ptr<std::atomic<Slot*>[]> chunks_{new std::atomic<Slot*>[2 * kChunks]()};  // client-made, worker-made
};

}  // namespace bf::client
