// Stream memory operations, waits on values, callbacks, attributes, and blocking waits from another thread.
#include <thread>

#include "driver.h"

static void note(CUstream, CUresult status, void* data) {
  std::printf("callback %s: %s\n", static_cast<const char*>(data), name_of(status));
}

int main() {
  CUcontext context = use_device(0);
  CUstream a, b;
  CUdeviceptr words;
  int least = 0, greatest = 0, priority = 5;
  unsigned flags = 9;
  CHECK(cuStreamCreateWithPriority(&a, CU_STREAM_NON_BLOCKING, 0));
  CHECK(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING));
  CHECK(cuCtxGetStreamPriorityRange(&least, &greatest));
  CHECK(cuStreamGetPriority(a, &priority));
  CHECK(cuStreamGetFlags(a, &flags));
  std::printf("range %d..%d, priority %d, flags %u\n", least, greatest, priority, flags);
  CUcontext owner = nullptr;
  CHECK(cuStreamGetCtx(a, &owner));
  std::printf("context: %d\n", owner == context);
  CHECK(cuMemAlloc(&words, 64));
  CHECK(cuMemsetD8(words, 0, 64));
  CHECK(cuCtxSynchronize());  // the streams do not wait for the default one
  CHECK(cuStreamWaitValue32(a, words, 5, CU_STREAM_WAIT_VALUE_GEQ));
  CHECK(cuStreamWriteValue32(a, words + 4, 77, 0));
  CHECK(cuStreamAddCallback(a, note, const_cast<char*>("after the wait"), 0));
  SHOW(cuStreamQuery(a));
  std::thread([&] {
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuStreamWriteValue32(b, words, 6, 0));
    CHECK(cuStreamSynchronize(b));
  }).join();
  SHOW(cuStreamSynchronize(a));
  unsigned host[2];
  CHECK(cuMemcpyDtoH(host, words, 8));
  std::printf("%u %u\n", host[0], host[1]);
  CHECK(cuStreamWriteValue64(a, words + 8, 1ull << 40, 0));
  CHECK(cuStreamWaitValue64(b, words + 8, 1ull << 40, CU_STREAM_WAIT_VALUE_EQ));
  SHOW(cuStreamSynchronize(b));
  CUevent event;
  CHECK(cuEventCreate(&event, CU_EVENT_BLOCKING_SYNC));
  CHECK(cuEventRecord(event, a));
  CHECK(cuStreamWaitEvent(b, event, 0));
  SHOW(cuEventSynchronize(event));
  SHOW(cuStreamSynchronize(CU_STREAM_LEGACY));
  SHOW(cuStreamSynchronize(CU_STREAM_PER_THREAD));
  SHOW(cuStreamDestroy(a));
  SHOW(cuEventDestroy(event));
}
