// Stream-ordered memory pools against the account (charges.h). A pool takes blocks from the GPU when it needs them and gives
// them back when somebody synchronises, so its charge is settled then, and whenever memory seems to be short.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <unordered_map>

#include "proto/api/cuda_api.h"

namespace bf::server {

class Session;

class Pools {
 public:
  explicit Pools(Session& session) : session_(session) {}

  // A pool of the program's own. Pools of host memory are refused: the server's would be out of every account.
  CUresult create(CUmemoryPool* pool, const CUmemPoolProps* props);
  CUresult destroy(CUmemoryPool pool);

  // Allocates by `make(address)` out of `pool` (of the current device, unless the program made it) and charges what the
  // pool grew by; trims and gives up when that is too much.
  template <typename Make>
  CUresult allocate(CUdeviceptr* address, size_t bytes, CUmemoryPool pool, CUstream stream, Make make) {
    size_t device = 0;
    if (!device_of(pool, device)) return make(address);  // the driver says what is wrong
    if (!has_room(device, bytes, pool)) return CUDA_ERROR_OUT_OF_MEMORY;
    const CUresult result = make(address);
    if (result != CUDA_SUCCESS || settle(pool, device)) return result;
    give_back(*address, pool, device, stream);
    *address = 0;
    return CUDA_ERROR_OUT_OF_MEMORY;
  }

  // Could an allocation outside of pools succeed, at best?
  bool may_fit(size_t device, uint64_t bytes);
  void settle_all();

  // Memory was freed into a pool: the next synchronisation may give it back.
  void note_free() { freed_.store(true, std::memory_order_relaxed); }
  void synchronised() {
    if (freed_.load(std::memory_order_relaxed) && freed_.exchange(false, std::memory_order_relaxed)) settle_all();
  }

 private:
  bool device_of(CUmemoryPool pool, size_t& device) const;
  bool has_room(size_t device, size_t bytes, CUmemoryPool pool);
  // The pool's memory as the driver has it now. False: its growth passes the partition.
  bool settle(CUmemoryPool pool, size_t device);
  void give_back(CUdeviceptr address, CUmemoryPool pool, size_t device, CUstream stream);

  Session& session_;
  std::atomic<bool> freed_{false};
  mutable std::mutex mutex_;
  std::unordered_map<CUmemoryPool, size_t> devices_;  // of pools that the program made
};

}  // namespace bf::server
