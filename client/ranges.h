// What the client knows about addresses: device memory that the worker allocated, and pinned memory of this process.
//
// Device ranges are also reserved PROT_NONE in this process where they are free, so that an address never means two
// things and a program that touches device memory by mistake faults as it would locally.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

#include "client/futex.h"

namespace bf::client {

struct Range {
  enum class Kind : uint8_t { kDevice, kPinned, kRegistered, kManaged };

  Kind kind = Kind::kDevice;
  uint64_t base = 0;
  uint64_t bytes = 0;
  uint64_t context = 0;      // handle value
  int device = 0;            // ordinal
  uint32_t flags = 0;        // CU_MEMHOSTALLOC_* or CU_MEMHOSTREGISTER_*
  uint64_t id = 0;           // CU_POINTER_ATTRIBUTE_BUFFER_ID, never reused
  uint64_t pool = 0;         // CUmemoryPool of stream-ordered memory
  bool owned = true;         // false: a module's global or a mapping: not cuMemFree's
  bool sync_memops = false;  // CU_POINTER_ATTRIBUTE_SYNC_MEMOPS
  bool mirrored = false;     // memory of this process that device code reaches (client/mirrors.h)
  bool copied = false;       // host memory that the program copied from or to before device code reached it

  bool host() const { return kind == Kind::kPinned || kind == Kind::kRegistered; }
  // The device reads and writes it by itself: copies and sets run on the worker.
  bool reachable() const { return kind == Kind::kDevice || mirrored; }
};

class RangeTable {
 public:
  // Inserts; gives the range its id. Ranges never overlap: what the new one covers is forgotten first.
  uint64_t insert(Range range);
  std::optional<Range> find(uint64_t address) const;
  // Does one range that the device reaches hold all of [address, address + bytes)?
  bool device_covers(uint64_t address, uint64_t bytes) const;
  // Removes the range that starts at `base`, if there is one of this kind.
  std::optional<Range> remove(uint64_t base, Range::Kind kind);
  // Removes what the device reaches of a context (it was destroyed). Returns where the mirrored ones began.
  std::vector<uint64_t> remove_context(uint64_t context);
  bool set_sync_memops(uint64_t address, bool on);

  // Host memory that device code does not reach yet. Whether there is any, and whether an address may lie in it, is
  // asked for every kernel parameter.
  bool any_hidden() const { return hidden_end_.load(std::memory_order_relaxed) != 0; }
  bool may_be_hidden(uint64_t address) const {
    const uint64_t begin = hidden_begin_.load(std::memory_order_relaxed);
    return address - begin < hidden_end_.load(std::memory_order_relaxed) - begin;
  }
  // `copied_too`: also if the program copied from or to it.
  bool hidden(uint64_t address, bool copied_too = true) const;
  void note_copy(uint64_t address);
  bool any_mirrored() const { return mirrored_.load(std::memory_order_relaxed) != 0; }
  void set_mirrored(uint64_t base);

 private:
  using Map = std::map<uint64_t, Range>;
  Map::const_iterator holding(uint64_t address) const;
  Map::const_iterator erase(Map::const_iterator range);
  void update_hidden(const Range& range, int change);
  void reserve(const Range& range);
  void unreserve(const Range& range);

  mutable SpinLock lock_;
  Map ranges_;
  uint64_t next_id_ = 1;
  uint32_t hidden_ = 0;
  std::atomic<uint32_t> mirrored_{0};
  std::atomic<uint64_t> hidden_begin_{0}, hidden_end_{0};  // all hidden ranges lie between
  std::unordered_map<uint64_t, uint32_t> shared_blocks_;  // 2 MiB blocks at the ends of ranges: users
  std::unordered_map<uint64_t, bool> reserved_;           // start of a reservation that is ours
};

}  // namespace bf::client
