// Hints about where managed memory should lie (cuMemAdvise, cuMemPrefetchAsync), as the driver keeps and answers them: by
// the page. Neither the shim nor the software GPU does anything else with them. Codes are measured (580.159.04).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>

#include "proto/api/cuda_api.h"

namespace bf::abi {

// A device number as the older functions take it.
CUmemLocation location_of(CUdevice device);

// Thread-safe. Whether a range is managed memory at all is the caller's to know.
class ManagedHints {
 public:
  explicit ManagedHints(std::function<bool(int)> device_exists) : device_exists_(std::move(device_exists)) {}

  CUresult check_prefetch(const CUmemLocation& location) const;
  void prefetch(uint64_t address, uint64_t bytes, const CUmemLocation& location);
  CUresult advise(uint64_t address, uint64_t bytes, CUmem_advise advice, const CUmemLocation& location);
  // cuMemRangeGetAttribute.
  CUresult attribute(void* data, size_t data_bytes, CUmem_range_attribute attribute, uint64_t address, uint64_t bytes) const;
  // Fresh memory: what was said of its addresses before is void.
  void forget(uint64_t address, uint64_t bytes);

 private:
  struct Page {
    bool read_mostly = false;
    CUmemLocation preferred{CU_MEM_LOCATION_TYPE_INVALID, CU_DEVICE_INVALID};
    CUmemLocation prefetched{CU_MEM_LOCATION_TYPE_INVALID, CU_DEVICE_INVALID};
    uint32_t accessed_by = 0;  // bit 0: the host, bit 1 + n: device n
  };
  bool is_device(const CUmemLocation& location) const;
  template <typename Change>
  void change(uint64_t address, uint64_t bytes, Change change);
  template <typename Visit>
  void each(uint64_t address, uint64_t bytes, Visit visit) const;
  void split(uint64_t address);

  const std::function<bool(int)> device_exists_;
  mutable std::mutex mutex_;
  std::map<uint64_t, Page> runs_;  // the first page of each run of like pages
};

}  // namespace bf::abi
