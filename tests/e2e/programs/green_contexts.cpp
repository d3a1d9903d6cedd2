// Green contexts: shares of the multiprocessors, the contexts that stand for them, their streams and events, and what is
// left when they end.
#include <thread>

#include "driver.h"

static CUgreenCtx make_green(CUdevResource& share, CUdevice device) {
  CUdevResourceDesc descriptor;
  CUgreenCtx green;
  CHECK(cuDevResourceGenerateDesc(&descriptor, &share, 1));
  CHECK(cuGreenCtxCreate(&green, descriptor, device, CU_GREEN_CTX_DEFAULT_STREAM));
  return green;
}

int main() {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // the vendor's driver has been seen to crash here
  CUcontext primary = use_device(0), context, current, of_stream;
  CUdevice device = 0;
  CUdevResource all, shares[2], rest, mine;
  unsigned groups = 0;
  CHECK(cuDeviceGetDevResource(device, &all, CU_DEV_RESOURCE_TYPE_SM));
  CHECK(cuDevSmResourceSplitByCount(nullptr, &groups, &all, nullptr, 0, 16));
  std::printf("groups of 16: %d\n", groups == all.sm.smCount / 16);
  groups = 2;
  CHECK(cuDevSmResourceSplitByCount(shares, &groups, &all, &rest, 0, 16));
  std::printf("%u groups of %u, nothing lost: %d\n", groups, shares[0].sm.smCount,
              2 * shares[0].sm.smCount + rest.sm.smCount == all.sm.smCount);
  CUgreenCtx green = make_green(shares[0], device), other = make_green(rest, device);
  CHECK(cuCtxFromGreenCtx(&context, green));
  std::printf("not the primary context: %d\n", context != primary);
  unsigned long long id, other_id, primary_id;
  CHECK(cuGreenCtxGetId(green, &id));
  CHECK(cuGreenCtxGetId(other, &other_id));
  CHECK(cuCtxGetId(primary, &primary_id));
  std::printf("ids differ: %d\n", id != other_id && id != primary_id);
  CHECK(cuGreenCtxGetDevResource(other, &mine, CU_DEV_RESOURCE_TYPE_SM));
  std::printf("has the rest: %d\n", mine.sm.smCount == rest.sm.smCount);
  CHECK(cuCtxSetCurrent(context));
  CHECK(cuCtxGetCurrent(&current));
  SHOW(cuCtxGetDevResource(nullptr, &mine, CU_DEV_RESOURCE_TYPE_SM));
  CHECK(cuCtxGetDevResource(context, &mine, CU_DEV_RESOURCE_TYPE_SM));
  std::printf("current: %d, with %u\n", current == context, mine.sm.smCount);

  // Work in it: memory and code are the primary context's.
  CUmodule module;
  CUfunction fill;
  CUdeviceptr memory;
  CUstream stream, plain;
  CUevent event;
  unsigned n = 5000, value = 3;
  CHECK(cuModuleLoadData(&module, kPtx));
  CHECK(cuModuleGetFunction(&fill, module, "fill"));
  CHECK(cuMemAlloc(&memory, n * 4));
  CHECK(cuStreamCreate(&plain, CU_STREAM_NON_BLOCKING));
  CHECK(cuCtxSetCurrent(primary));
  CHECK(cuGreenCtxStreamCreate(&stream, green, CU_STREAM_NON_BLOCKING, 0));
  CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
  CHECK(cuPointerGetAttribute(&current, CU_POINTER_ATTRIBUTE_CONTEXT, memory));
  std::printf("memory is the primary context's: %d\n", current == primary);
  void* parameters[] = {&memory, &value, &n};
  CHECK(cuLaunchKernel(fill, 20, 1, 1, 256, 1, 1, 0, stream, parameters, nullptr));
  CHECK(cuGreenCtxRecordEvent(green, event));
  CHECK(cuGreenCtxWaitEvent(other, event));
  CHECK(cuEventSynchronize(event));
  std::printf("%016llx\n", (unsigned long long)hash_device(memory, n * 4));
  CHECK(cuCtxSetCurrent(context));
  value = 4;
  CHECK(cuLaunchKernel(fill, 20, 1, 1, 256, 1, 1, 0, nullptr, parameters, nullptr));
  CHECK(cuCtxSynchronize());
  std::printf("%016llx\n", (unsigned long long)hash_device(memory, n * 4));
  CUgreenCtx found = nullptr;
  for (CUstream asked : {stream, plain, CUstream(nullptr)}) {
    CHECK(cuStreamGetCtx_v2(asked, &of_stream, &found));
    CHECK(cuStreamGetCtx(asked, &current));
    std::printf("stream of it: %d %d %d\n", of_stream == primary, found == green, current == context);
  }
  CHECK(cuCtxSetCurrent(primary));
  CHECK(cuStreamGetGreenCtx(nullptr, &found));
  std::printf("the primary context's default stream: %d\n", found == nullptr);

  SHOW(cuStreamDestroy(stream));
  SHOW(cuStreamDestroy(plain));
  SHOW(cuGreenCtxDestroy(green));
  CHECK(cuMemFree(memory));
  SHOW(cuGreenCtxDestroy(other));
  int active = 0;
  SHOW(cuDevicePrimaryCtxRelease(device));
  CHECK(cuDevicePrimaryCtxGetState(device, &groups, &active));
  std::printf("the primary context ended: %d\n", !active);
}
