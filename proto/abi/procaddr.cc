// The rules were measured on driver 580.159.04: base names only, case-sensitive; the newest variant introduced at or
// before the asked version; flag 2 (with or without 1) asks for per-thread-default-stream variants; 1 changes nothing.
#include "proto/abi/procaddr.h"

#include <algorithm>
#include <cstring>

namespace bf::abi {
namespace {

struct Found {
  CUdriverProcAddressQueryResult status = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  ProcAddress address = nullptr;
};

Found find(const char* symbol, int cuda_version, bool per_thread) noexcept {
  const auto entries = proc_entries();
  auto less = [](const ProcEntry& a, const char* name) { return strcmp(a.symbol, name) < 0; };
  auto entry = std::lower_bound(entries.begin(), entries.end(), symbol, less);
  Found found;
  for (; entry != entries.end() && strcmp(entry->symbol, symbol) == 0; ++entry) {
    if (found.status == CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND) found.status = CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
    if (entry->per_thread == per_thread && (cuda_version < 0 || entry->from_version <= cuda_version))
      found = {CU_GET_PROC_ADDRESS_SUCCESS, entry->address};
  }
  return found;
}

bool valid(const char* symbol, void** pfn, int cuda_version, cuuint64_t flags, int driver_version) noexcept {
  return symbol && pfn && cuda_version <= driver_version && flags <= 3;
}

}  // namespace

CUresult proc_address_v2(const char* symbol, void** pfn, int cuda_version, cuuint64_t flags,
                         CUdriverProcAddressQueryResult* status, int driver_version) noexcept {
  if (!valid(symbol, pfn, cuda_version, flags, driver_version)) return CUDA_ERROR_INVALID_VALUE;
  const Found found = find(symbol, cuda_version, flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM);
  *pfn = reinterpret_cast<void*>(found.address);
  if (status) *status = found.status;
  return CUDA_SUCCESS;
}

CUresult proc_address_v1(const char* symbol, void** pfn, int cuda_version, cuuint64_t flags,
                         int driver_version) noexcept {
  if (!valid(symbol, pfn, cuda_version, flags, driver_version)) return CUDA_ERROR_INVALID_VALUE;
  const Found found = find(symbol, cuda_version, flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM);
  if (!found.address) return CUDA_ERROR_NOT_FOUND;
  *pfn = reinterpret_cast<void*>(found.address);
  return CUDA_SUCCESS;
}

}  // namespace bf::abi
