// Contexts: several at once, the stack of each thread, the primary context's state, objects of another context.
#include <thread>

#include "driver.h"

int main() {
  CUdevice device;
  CUcontext first, second, primary, current, popped;
  CHECK(cuInit(0));
  CHECK(cuDeviceGet(&device, 0));
  unsigned flags = 9, version = 0;
  int active = 9;
  CHECK(cuDevicePrimaryCtxGetState(device, &flags, &active));
  std::printf("primary: flags %u active %d\n", flags, active);
  CHECK(cuCtxCreate(&first, nullptr, CU_CTX_SCHED_SPIN, device));
  CHECK(cuCtxCreate(&second, nullptr, CU_CTX_SCHED_BLOCKING_SYNC, device));
  CHECK(cuCtxGetCurrent(&current));
  std::printf("second is current: %d\n", current == second);
  CHECK(cuCtxPopCurrent(&popped));
  CHECK(cuCtxGetCurrent(&current));
  std::printf("popped second: %d, first is current: %d\n", popped == second, current == first);
  CHECK(cuCtxGetFlags(&flags));
  CHECK(cuCtxGetApiVersion(first, &version));
  std::printf("flags %u, version %u\n", flags, version);
  CHECK(cuDevicePrimaryCtxSetFlags(device, CU_CTX_SCHED_YIELD));
  CHECK(cuDevicePrimaryCtxRetain(&primary, device));
  CHECK(cuDevicePrimaryCtxRetain(&current, device));
  std::printf("one primary: %d\n", primary == current);
  CHECK(cuDevicePrimaryCtxGetState(device, &flags, &active));
  std::printf("primary: flags %u active %d\n", flags, active);
  CUdeviceptr memory_of_first, memory_of_primary;
  CHECK(cuMemAlloc(&memory_of_first, 1000));
  CHECK(cuMemsetD8(memory_of_first, 1, 1000));
  CHECK(cuCtxSynchronize());  // nothing orders the work of two contexts
  CHECK(cuCtxPushCurrent(primary));
  CHECK(cuMemAlloc(&memory_of_primary, 1000));
  CHECK(cuMemcpyDtoD(memory_of_primary, memory_of_first, 1000));
  std::printf("%016llx\n", (unsigned long long)hash_device(memory_of_primary, 1000));
  CUcontext owner = nullptr;
  CHECK(cuPointerGetAttribute(&owner, CU_POINTER_ATTRIBUTE_CONTEXT, memory_of_first));
  std::printf("owner is first: %d\n", owner == first);
  std::thread([&] {
    CUcontext mine = first;
    CHECK(cuCtxGetCurrent(&mine));
    std::printf("new thread has none: %d\n", mine == nullptr);
    SHOW(cuCtxSynchronize());
    CHECK(cuCtxSetCurrent(second));
    SHOW(cuCtxSynchronize());
    CHECK(cuCtxSetCurrent(nullptr));
    SHOW(cuCtxPopCurrent(&mine));
  }).join();
  CHECK(cuDevicePrimaryCtxRelease(device));
  CHECK(cuDevicePrimaryCtxGetState(device, &flags, &active));
  std::printf("released once: active %d\n", active);
  CHECK(cuCtxPopCurrent(&popped));
  SHOW(cuDevicePrimaryCtxReset(device));
  CHECK(cuDevicePrimaryCtxGetState(device, &flags, &active));
  std::printf("reset: active %d\n", active);
  CHECK(cuCtxDestroy(first));
  CHECK(cuCtxGetCurrent(&current));
  std::printf("nothing current: %d\n", current == nullptr);
  SHOW(cuCtxDestroy(nullptr));
  SHOW(cuCtxDestroy(second));
}
