// What this session's allocations cost the partition, in the lease's ledger.
//
// The driver backs memory with blocks of 2 MiB and packs small allocations into shared ones. We count references per
// block address and charge a block once, so that the sum of all ledgers is what the card gives (docs/design.md, "Memory
// ledger"). Memory without an address (arrays, created physical memory) is charged by its size. An allocation that must
// pass the limit is refused before the driver is asked; one that only turns out to is to be undone by the caller.
//
// Records are taken out before memory is freed and settled afterwards, because the driver may give a freed address to
// another thread at once. Safe from all lanes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "proto/api/cuda_api.h"
#include "server/ledger.h"

namespace bf::server {

class Charges {
 public:
  static constexpr uint64_t kBlockBytes = 2 << 20;
  static constexpr int kBlockShift = 21;

  struct Device {
    size_t partition = 0;  // index in the ledger
    uint64_t context_bytes = 0;
  };
  struct Record {
    size_t device = 0;
    uint64_t key = 0;  // address, or the real handle of an object without one
    uint64_t bytes = 0;
    CUcontext context = nullptr;  // dies with it; NULL: belongs to no context
    bool by_size = false;
  };

  Charges(Ledger& ledger, uint32_t slot, std::vector<Device> devices);
  ~Charges();  // refunds everything

  uint64_t total(size_t device) const { return ledger_.limit(devices_[device].partition); }
  uint64_t free(size_t device) const;

  // Could an allocation of `bytes` succeed, at best?
  bool may_fit(size_t device, uint64_t bytes) const;
  // Charges; false if the partition is full (nothing is recorded then).
  bool add(const Record& record);
  // Takes the record of `key` out, still charged; then either settle() it or restore() it.
  std::optional<Record> take(uint64_t key);
  void settle(const Record& record);
  void restore(const Record& record);
  // Everything that died with a context.
  void remove_context(CUcontext context);

  // Physical memory: charged from its creation until it is released and its last mapping is gone.
  bool add_physical(uint64_t handle, size_t device, uint64_t bytes);
  void drop_physical(uint64_t handle);
  // A further handle of what is mapped at `address`; the driver may give the same number again.
  void retain_physical(uint64_t handle, uint64_t address);
  void map_physical(uint64_t handle, uint64_t address);
  void unmap_physical(uint64_t address, uint64_t bytes);

  bool add_context(size_t device);
  void remove_context_cost(size_t device);

  // Stream-ordered pools: the driver says how much memory backs them. Charges or refunds the difference to what the
  // pool was charged; false if the growth passes the limit (the old charge stays). 0 takes the pool out.
  bool set_pool(CUmemoryPool pool, size_t device, uint64_t reserved_bytes);
  uint64_t pool_charge(CUmemoryPool pool) const;
  struct Pool {
    CUmemoryPool pool = nullptr;
    size_t device = 0;
  };
  std::vector<Pool> pools() const;

 private:
  uint64_t count_new_blocks(const Record& record);
  uint64_t drop_blocks(const Record& record);

  Ledger& ledger_;
  const uint32_t slot_;
  const std::vector<Device> devices_;
  mutable std::mutex mutex_;
  std::unordered_map<uint64_t, Record> records_;
  std::vector<std::unordered_map<uint64_t, uint32_t>> blocks_;  // per device: block number -> references
  struct PoolCharge {
    size_t device;
    uint64_t bytes;
  };
  std::map<CUmemoryPool, PoolCharge> pools_;
  struct Physical {
    size_t device;
    uint64_t bytes;
    uint32_t uses;  // its handle and its mappings
  };
  void release_physical(uint64_t id);
  std::unordered_map<uint64_t, Physical> physical_;     // by a number of our own: handles are used again
  struct HandleUse {
    uint64_t number;
    uint32_t count;
  };
  std::unordered_map<uint64_t, HandleUse> physical_of_;  // live handle -> number, and how often the program holds it
  std::map<uint64_t, uint64_t> mappings_;               // address -> number
  uint64_t next_physical_ = 1;
  std::vector<uint32_t> contexts_;  // per device
};

}  // namespace bf::server
