// cuGetProcAddress as driver 580 answers it: which variant of a symbol a program of a given CUDA version gets.
#pragma once

#include <cstdint>
#include <span>

#include "proto/api/cuda_api.h"

namespace bf::abi {

using ProcAddress = void (*)();

struct ProcEntry {
  const char* symbol;  // base name, without any suffix
  int from_version;    // first cudaVersion that gets this variant
  bool per_thread;     // for CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM
  ProcAddress address;
};

// The table of the library this is linked into, sorted by symbol, then plain before per-thread, then version.
// (Generated: api/procaddr_table.cc, part of bf_api_stubs and bf_api_softgpu.)
std::span<const ProcEntry> proc_entries();

// The body of cuGetProcAddress_v2: `driver_version` is what cuDriverGetVersion answers. Allocates nothing, takes no
// lock.
CUresult proc_address_v2(const char* symbol, void** pfn, int cuda_version, cuuint64_t flags,
                         CUdriverProcAddressQueryResult* status, int driver_version) noexcept;

// The body of the old cuGetProcAddress: misses are CUDA_ERROR_NOT_FOUND and leave *pfn alone.
CUresult proc_address_v1(const char* symbol, void** pfn, int cuda_version, cuuint64_t flags,
                         int driver_version) noexcept;

}  // namespace bf::abi
