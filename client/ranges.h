// What the client knows about addresses: device memory that the worker allocated, and pinned memory of this process.
//
// Device ranges are also reserved PROT_NONE in this process where they are free, so that an address never means two
// things and a program that touches device memory by mistake faults as it would locally.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>

#include "client/futex.h"

namespace bf::client {

struct Range {
  enum class Kind : uint8_t { kDevice, kPinned, kRegistered, kReserved };

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
};

class RangeTable {
 public:
  // Inserts; gives the range its id. Ranges never overlap: what the new one covers is forgotten first.
  uint64_t insert(Range range);
  std::optional<Range> find(uint64_t address) const;
  // Does one range of this kind hold all of [address, address + bytes)?
  bool covers(uint64_t address, uint64_t bytes, Range::Kind kind) const;
  // Removes the range that starts at `base`, if there is one of this kind.
  std::optional<Range> remove(uint64_t base, Range::Kind kind);
  // Removes all device ranges of a context (it was destroyed).
  void remove_context(uint64_t context);
  bool set_sync_memops(uint64_t address, bool on);

 private:
  using Map = std::map<uint64_t, Range>;
  Map::const_iterator holding(uint64_t address) const;
  void reserve(const Range& range);
  void unreserve(const Range& range);

  mutable SpinLock lock_;
  Map ranges_;
  uint64_t next_id_ = 1;
  std::unordered_map<uint64_t, uint32_t> shared_blocks_;  // 2 MiB blocks at the ends of ranges: users
  std::unordered_map<uint64_t, bool> reserved_;           // start of a reservation that is ours
};

}  // namespace bf::client
