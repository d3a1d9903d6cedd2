#include "proto/abi/managed_hints.h"

#include <optional>

namespace bf::abi {

namespace {

constexpr uint64_t kPage = 4096;
uint64_t page_down(uint64_t address) { return address & ~(kPage - 1); }
uint64_t page_up(uint64_t address) { return page_down(address + kPage - 1); }

bool is_host(const CUmemLocation& location) {
  return location.type == CU_MEM_LOCATION_TYPE_HOST || location.type == CU_MEM_LOCATION_TYPE_HOST_NUMA ||
         location.type == CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT;
}

bool same(const CUmemLocation& a, const CUmemLocation& b) { return a.type == b.type && a.id == b.id; }

int as_device(const CUmemLocation& location) {
  if (location.type == CU_MEM_LOCATION_TYPE_DEVICE) return location.id;
  return is_host(location) ? CU_DEVICE_CPU : CU_DEVICE_INVALID;
}

}  // namespace

CUmemLocation location_of(CUdevice device) {
  CUmemLocation location{};
  location.type = device == CU_DEVICE_CPU ? CU_MEM_LOCATION_TYPE_HOST : CU_MEM_LOCATION_TYPE_DEVICE;
  location.id = device == CU_DEVICE_CPU ? 0 : device;
  return location;
}

bool ManagedHints::is_device(const CUmemLocation& location) const {
  return location.type == CU_MEM_LOCATION_TYPE_DEVICE && device_exists_(location.id);
}

void ManagedHints::split(uint64_t address) {
  const auto after = runs_.upper_bound(address);
  runs_.try_emplace(address, after == runs_.begin() ? Page{} : std::prev(after)->second);
}

template <typename Change>
void ManagedHints::change(uint64_t address, uint64_t bytes, Change change) {
  const uint64_t begin = page_down(address), end = page_up(address + bytes);
  std::lock_guard guard(mutex_);
  split(begin);
  split(end);
  for (auto run = runs_.lower_bound(begin); run->first < end; ++run) change(run->second);
}

template <typename Visit>
void ManagedHints::each(uint64_t address, uint64_t bytes, Visit visit) const {
  const uint64_t begin = page_down(address), end = page_up(address + bytes);
  std::lock_guard guard(mutex_);
  auto run = runs_.upper_bound(begin);
  visit(run == runs_.begin() ? Page{} : std::prev(run)->second);
  for (; run != runs_.end() && run->first < end; ++run) visit(run->second);
}

CUresult ManagedHints::check_prefetch(const CUmemLocation& location) const {
  if (location.type == CU_MEM_LOCATION_TYPE_DEVICE) return is_device(location) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
  return is_host(location) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

void ManagedHints::prefetch(uint64_t address, uint64_t bytes, const CUmemLocation& location) {
  change(address, bytes, [&](Page& page) { page.prefetched = location; });
}

CUresult ManagedHints::advise(uint64_t address, uint64_t bytes, CUmem_advise advice, const CUmemLocation& location) {
  const bool device = is_device(location), cpu = location.type == CU_MEM_LOCATION_TYPE_HOST;
  const bool any = location.type == CU_MEM_LOCATION_TYPE_DEVICE || is_host(location);
  const uint32_t who = cpu ? 1u : 1u << (1 + unsigned(location.id) % 31);
  switch (advice) {
    case CU_MEM_ADVISE_SET_READ_MOSTLY:
    case CU_MEM_ADVISE_UNSET_READ_MOSTLY:
      if (!any) return CUDA_ERROR_INVALID_VALUE;
      change(address, bytes, [&](Page& page) { page.read_mostly = advice == CU_MEM_ADVISE_SET_READ_MOSTLY; });
      return CUDA_SUCCESS;
    case CU_MEM_ADVISE_SET_PREFERRED_LOCATION:
      if (!device && !is_host(location)) return CUDA_ERROR_INVALID_VALUE;
      change(address, bytes, [&](Page& page) { page.preferred = location; });
      return CUDA_SUCCESS;
    case CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION:
      if (!any) return CUDA_ERROR_INVALID_VALUE;
      change(address, bytes, [&](Page& page) { page.preferred = Page{}.preferred; });
      return CUDA_SUCCESS;
    case CU_MEM_ADVISE_SET_ACCESSED_BY:
      if (!device && !cpu) return CUDA_ERROR_INVALID_VALUE;
      change(address, bytes, [&](Page& page) { page.accessed_by |= who; });
      return CUDA_SUCCESS;
    case CU_MEM_ADVISE_UNSET_ACCESSED_BY:
      if (!device && !cpu) return CUDA_ERROR_INVALID_VALUE;
      change(address, bytes, [&](Page& page) { page.accessed_by &= ~who; });
      return CUDA_SUCCESS;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult ManagedHints::attribute(void* data, size_t data_bytes, CUmem_range_attribute attribute, uint64_t address,
                                 uint64_t bytes) const {
  bool read_mostly = true, one_preferred = true, one_prefetched = true;
  uint32_t accessed_by = ~0u;
  std::optional<Page> first;
  each(address, bytes, [&](const Page& page) {
    if (!first) first = page;
    read_mostly = read_mostly && page.read_mostly;
    one_preferred = one_preferred && same(page.preferred, first->preferred);
    one_prefetched = one_prefetched && same(page.prefetched, first->prefetched);
    accessed_by &= page.accessed_by;
  });
  // One place for all pages, or none.
  const CUmemLocation preferred = one_preferred ? first->preferred : Page{}.preferred;
  const CUmemLocation prefetched = one_prefetched ? first->prefetched : Page{}.prefetched;
  auto* out = static_cast<int*>(data);
  const size_t count = data_bytes / sizeof(int);
  if (data_bytes % sizeof(int) || count == 0) return CUDA_ERROR_INVALID_VALUE;
  if (attribute == CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY) {
    size_t at = 0;
    for (int bit = 1; bit < 32 && at < count; ++bit)
      if (accessed_by >> bit & 1) out[at++] = bit - 1;
    if ((accessed_by & 1) && at < count) out[at++] = CU_DEVICE_CPU;
    while (at < count) out[at++] = CU_DEVICE_INVALID;
    return CUDA_SUCCESS;
  }
  if (count != 1) return CUDA_ERROR_INVALID_VALUE;
  switch (attribute) {
    case CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY: *out = read_mostly; return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION: *out = as_device(preferred); return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION: *out = as_device(prefetched); return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE: *out = preferred.type; return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_ID: *out = preferred.id; return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_TYPE: *out = prefetched.type; return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_ID: *out = prefetched.id; return CUDA_SUCCESS;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
}

void ManagedHints::forget(uint64_t address, uint64_t bytes) {
  change(address, bytes, [](Page& page) { page = Page{}; });
}

}  // namespace bf::abi
