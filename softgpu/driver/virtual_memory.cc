#include "softgpu/driver/virtual_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <map>
#include <set>

#include "softgpu/driver/driver.h"

namespace bf::softgpu {

PhysicalMemory::~PhysicalMemory() {
  if (device >= 0) device_at(device)->memory.uncharge(bytes);
}

namespace {

using PhysicalRegistry = Registry<CUmemGenericAllocationHandle, PhysicalMemory, ObjectKind::kPhysicalMemory>;
PhysicalRegistry& physical_memory() {
  static PhysicalRegistry* registry = new PhysicalRegistry;
  return *registry;
}

// Reserved ranges, by address.
std::mutex g_reservations_mutex;
std::map<uint64_t, uint64_t>& reservations() {
  static auto* all = new std::map<uint64_t, uint64_t>;
  return *all;
}

constexpr uint64_t kReservedSpace = 0x5000'0000'0000;  // beyond the devices' own ranges

bool whole_blocks(uint64_t value) { return value && value % kBlockBytes == 0; }

bool inside_reservation(uint64_t address, uint64_t bytes) {
  std::lock_guard lock(g_reservations_mutex);
  auto it = reservations().upper_bound(address);
  if (it == reservations().begin()) return false;
  --it;
  return address + bytes > address && address + bytes <= it->first + it->second;
}

CUresult check_properties(const CUmemAllocationProp& p) {
  if (p.type != CU_MEM_ALLOCATION_TYPE_PINNED) return CUDA_ERROR_INVALID_VALUE;
  if (p.location.type != CU_MEM_LOCATION_TYPE_DEVICE) {
    const bool host = p.location.type >= CU_MEM_LOCATION_TYPE_HOST && p.location.type <= CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT;
    return host ? CUDA_ERROR_NOT_SUPPORTED : CUDA_ERROR_INVALID_VALUE;
  }
  if (!device_at(p.location.id)) return CUDA_ERROR_INVALID_DEVICE;
  if (p.requestedHandleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
  return CUDA_SUCCESS;
}

}  // namespace

BF_API CUresult cuMemGetAllocationGranularity(size_t* granularity, const CUmemAllocationProp* p,
                                              CUmemAllocationGranularity_flags option) {
  BF_ENTER();
  if (!granularity || !p || unsigned(option) > CU_MEM_ALLOC_GRANULARITY_RECOMMENDED) return CUDA_ERROR_INVALID_VALUE;
  BF_TRY(check_properties(*p));
  *granularity = kBlockBytes;
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemAddressReserve(CUdeviceptr* out, size_t bytes, size_t alignment, CUdeviceptr wanted,
                                    unsigned long long flags) {
  BF_ENTER();
  if (!out || !whole_blocks(bytes) || flags || (alignment & (alignment - 1))) return CUDA_ERROR_INVALID_VALUE;
  if (alignment < kBlockBytes) alignment = kBlockBytes;
  std::lock_guard lock(g_reservations_mutex);
  uint64_t span = bytes + alignment;
  uint64_t hint = kReservedSpace;
  if (!reservations().empty()) hint = std::max(hint, reservations().rbegin()->first + reservations().rbegin()->second);
  if (wanted && wanted % alignment == 0) hint = wanted;
  void* got = mmap((void*)hint, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (got == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  uint64_t begin = (uint64_t(got) + alignment - 1) / alignment * alignment;
  if (begin > uint64_t(got)) munmap(got, begin - uint64_t(got));
  munmap((void*)(begin + bytes), uint64_t(got) + span - begin - bytes);
  reservations()[begin] = bytes;
  *out = begin;
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes) {
  BF_ENTER();
  std::lock_guard lock(g_reservations_mutex);
  auto it = reservations().find(address);
  if (it == reservations().end() || it->second != bytes) return CUDA_ERROR_INVALID_VALUE;
  if (!AddressSpace::instance().overlapping(address, address + bytes).empty()) return CUDA_ERROR_INVALID_VALUE;
  munmap((void*)address, bytes);
  reservations().erase(it);
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemCreate(CUmemGenericAllocationHandle* out, size_t bytes, const CUmemAllocationProp* p,
                            unsigned long long flags) {
  BF_ENTER();
  if (!out || !p || flags || !whole_blocks(bytes)) return CUDA_ERROR_INVALID_VALUE;
  BF_TRY(check_properties(*p));
  auto memory = std::make_shared<PhysicalMemory>();
  memory->properties = *p;
  memory->bytes = bytes;
  memory->fd.reset(memfd_create("device memory", MFD_CLOEXEC));
  if (!memory->fd || ftruncate(memory->fd.get(), off_t(bytes)) != 0) return CUDA_ERROR_OUT_OF_MEMORY;
  if (!device_at(p->location.id)->memory.charge(bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  memory->device = p->location.id;
  *out = physical_memory().add(std::move(memory));
  return CUDA_SUCCESS;
}

// Mappings keep the memory alive.
BF_API CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  BF_ENTER();
  return physical_memory().remove(handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

BF_API CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                         unsigned long long flags) {
  BF_ENTER();
  auto memory = physical_memory().find(handle);
  if (!memory || flags || !whole_blocks(bytes) || offset % kBlockBytes || address % kBlockBytes)
    return CUDA_ERROR_INVALID_VALUE;
  if (offset > memory->bytes || bytes > memory->bytes - offset) return CUDA_ERROR_INVALID_VALUE;
  if (bytes < memory->bytes) return CUDA_ERROR_NOT_SUPPORTED;  // a part of it, at an address that is taken too (580.159.04)
  if (!inside_reservation(address, bytes)) return CUDA_ERROR_INVALID_VALUE;
  auto range = std::make_shared<Allocation>();
  range->begin = address;
  range->bytes = bytes;
  range->kind = MemoryKind::kMapped;
  range->device = memory->properties.location.id;
  range->physical = memory;
  range->visible = range->writable = false;  // until cuMemSetAccess
  if (!AddressSpace::instance().insert(range)) return CUDA_ERROR_INVALID_VALUE;
  void* mapped = mmap((void*)address, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, memory->fd.get(), off_t(offset));
  if (mapped != MAP_FAILED) return CUDA_SUCCESS;
  AddressSpace::instance().remove(address, [](const Allocation&) { return true; });
  return CUDA_ERROR_OUT_OF_MEMORY;
}

BF_API CUresult cuMemUnmap(CUdeviceptr address, size_t bytes) {
  BF_ENTER();
  auto mapped = [](const Allocation& a) { return a.kind == MemoryKind::kMapped; };
  auto ranges = AddressSpace::instance().overlapping(address, address + bytes);
  if (ranges.empty()) return CUDA_ERROR_INVALID_VALUE;
  for (const AllocationRef& range : ranges)
    if (!mapped(*range) || range->begin < address || range->end() > address + bytes) return CUDA_ERROR_INVALID_VALUE;
  for (const AllocationRef& range : ranges) {
    AddressSpace::instance().remove(range->begin, mapped);
    mmap((void*)range->begin, range->bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  }
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc* access, size_t count) {
  BF_ENTER();
  if (!access || count == 0 || !whole_blocks(bytes)) return CUDA_ERROR_INVALID_VALUE;
  bool readable = false, writable = false;
  for (size_t i = 0; i < count; i++) {
    if (access[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE) continue;
    if (!device_at(access[i].location.id)) return CUDA_ERROR_INVALID_DEVICE;
    readable = readable || access[i].flags != CU_MEM_ACCESS_FLAGS_PROT_NONE;
    writable = writable || access[i].flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  }
  auto ranges = AddressSpace::instance().overlapping(address, address + bytes);
  uint64_t covered = 0;
  for (const AllocationRef& range : ranges) {
    if (range->kind != MemoryKind::kMapped || range->begin < address || range->end() > address + bytes)
      return CUDA_ERROR_INVALID_VALUE;
    covered += range->bytes;
  }
  if (covered != bytes) return CUDA_ERROR_INVALID_VALUE;
  for (const AllocationRef& range : ranges) {
    int protection = writable ? PROT_READ | PROT_WRITE : readable ? PROT_READ : PROT_NONE;
    if (mprotect((void*)range->begin, range->bytes, protection) != 0) return CUDA_ERROR_OUT_OF_MEMORY;
    range->visible = readable;
    range->writable = writable;
  }
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemGetAccess(unsigned long long* flags, const CUmemLocation* location, CUdeviceptr address) {
  BF_ENTER();
  if (!flags || !location || location->type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
  AllocationRef range = AddressSpace::instance().find(address);
  if (!range || range->kind != MemoryKind::kMapped) return CUDA_ERROR_INVALID_VALUE;
  *flags = range->writable  ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
           : range->visible ? CU_MEM_ACCESS_FLAGS_PROT_READ
                            : CU_MEM_ACCESS_FLAGS_PROT_NONE;
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp* p, CUmemGenericAllocationHandle handle) {
  BF_ENTER();
  auto memory = physical_memory().find(handle);
  if (!p || !memory) return CUDA_ERROR_INVALID_VALUE;
  *p = memory->properties;
  return CUDA_SUCCESS;
}

// A second handle of the same memory.
BF_API CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* out, void* address) {
  BF_ENTER();
  AllocationRef range = AddressSpace::instance().find(uint64_t(address));
  if (!out || !range || !range->physical) return CUDA_ERROR_INVALID_VALUE;
  auto alias = std::make_shared<PhysicalMemory>();
  alias->properties = range->physical->properties;
  alias->bytes = range->physical->bytes;
  alias->fd.reset(fcntl(range->physical->fd.get(), F_DUPFD_CLOEXEC, 0));
  *out = physical_memory().add(std::move(alias));
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemExportToShareableHandle(void* out, CUmemGenericAllocationHandle handle,
                                             CUmemAllocationHandleType type, unsigned long long flags) {
  BF_ENTER();
  auto memory = physical_memory().find(handle);
  if (!out || !memory || flags) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || !(memory->properties.requestedHandleTypes & type))
    return CUDA_ERROR_INVALID_VALUE;
  int fd = fcntl(memory->fd.get(), F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return CUDA_ERROR_OPERATING_SYSTEM;
  *(int*)out = fd;
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* out, void* os_handle,
                                               CUmemAllocationHandleType type) {
  BF_ENTER();
  if (!out || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_INVALID_VALUE;
  auto memory = std::make_shared<PhysicalMemory>();
  struct stat about;
  memory->fd.reset(fcntl(int(intptr_t(os_handle)), F_DUPFD_CLOEXEC, 0));
  if (!memory->fd || fstat(memory->fd.get(), &about) != 0 || !whole_blocks(uint64_t(about.st_size)))
    return CUDA_ERROR_INVALID_VALUE;
  memory->bytes = uint64_t(about.st_size);
  memory->properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  memory->properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  memory->properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  *out = physical_memory().add(std::move(memory));
  return CUDA_SUCCESS;
}

}  // namespace bf::softgpu
