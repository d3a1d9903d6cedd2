// Virtual memory management: one piece of physical memory at two addresses, access, handles counted by the driver, what is
// left when they are released.
#include "driver.h"

int main() {
  use_device(0);
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, {0}};
  size_t step = 0;
  CHECK(cuMemGetAllocationGranularity(&step, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
  CUmemGenericAllocationHandle memory, other, retained;
  CUdeviceptr addresses;
  CHECK(cuMemCreate(&memory, 2 * step, &properties, 0));
  CHECK(cuMemCreate(&other, step, &properties, 0));
  CHECK(cuMemAddressReserve(&addresses, 4 * step, 0, 0, 0));
  CHECK(cuMemMap(addresses, 2 * step, 0, memory, 0));
  CHECK(cuMemMap(addresses + 2 * step, step, 0, other, 0));
  const CUmemAccessDesc access{{CU_MEM_LOCATION_TYPE_DEVICE, {0}}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  CHECK(cuMemSetAccess(addresses, 3 * step, &access, 1));
  unsigned long long flags = 0;
  CUmemLocation here{CU_MEM_LOCATION_TYPE_DEVICE, {0}};
  CHECK(cuMemGetAccess(&flags, &here, addresses));
  std::printf("access %llu\n", flags);
  // A set and a copy across the border of two mappings.
  CHECK(cuMemsetD32(addresses + step, 0x01020304, 2 * step / 4));
  CHECK(cuMemcpyDtoD(addresses, addresses + 2 * step - 4096, 8192));
  std::printf("%016llx\n", (unsigned long long)hash_device(addresses, 8192));

  retained = 0x11c10;  // what is there does not matter
  CHECK(cuMemRetainAllocationHandle(&retained, reinterpret_cast<void*>(addresses + 100)));
  CUmemAllocationProp found{};
  CHECK(cuMemGetAllocationPropertiesFromHandle(&found, retained));
  std::printf("the same kind: %d\n", found.location.type == properties.location.type && found.type == properties.type);
  CHECK(cuMemRelease(memory));  // the mapping and the other handle keep it
  CHECK(cuMemUnmap(addresses, 2 * step));
  CUdeviceptr elsewhere;
  CHECK(cuMemAddressReserve(&elsewhere, 2 * step, 0, 0, 0));
  CHECK(cuMemMap(elsewhere, 2 * step, 0, retained, 0));
  CHECK(cuMemSetAccess(elsewhere, 2 * step, &access, 1));
  std::printf("%016llx\n", (unsigned long long)hash_device(elsewhere, 8192));

  CUdeviceptr managed, plain;
  CHECK(cuMemAllocManaged(&managed, 4096, CU_MEM_ATTACH_GLOBAL));
  CHECK(cuMemAlloc(&plain, 4096));
  SHOW(cuMemRetainAllocationHandle(&memory, reinterpret_cast<void*>(managed)));
  SHOW(cuMemRetainAllocationHandle(&memory, reinterpret_cast<void*>(plain)));
  SHOW(cuMemRetainAllocationHandle(&memory, reinterpret_cast<void*>(addresses)));
  SHOW(cuMemMap(elsewhere, step, 0, retained, 0));

  CHECK(cuMemUnmap(elsewhere, 2 * step));
  CHECK(cuMemRelease(retained));
  CHECK(cuMemUnmap(addresses + 2 * step, step));
  CHECK(cuMemRelease(other));
  CHECK(cuMemAddressFree(addresses, 4 * step));
  CHECK(cuMemAddressFree(elsewhere, 2 * step));
}
