// Asynchrony: order, events, host functions, values in memory, faults.
#include <atomic>
#include <chrono>
#include <thread>

#include "software_driver.h"

using Stream = SoftwareGpu;

namespace {

// A host function that waits until it is let go.
struct Gate {
  std::atomic<bool> open{false};
  static void wait(void* gate) {
    while (!((Gate*)gate)->open) std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
};

}  // namespace

TEST_F(Stream, QueriesAndSynchronises) {
  CUstream stream;
  CUevent event;
  Gate gate;
  ASSERT_OK(CU(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
  ASSERT_OK(CU(cuEventCreate)(&event, 0));
  ASSERT_OK(CU(cuEventQuery)(event));
  ASSERT_OK(CU(cuLaunchHostFunc)(stream, Gate::wait, &gate));
  ASSERT_OK(CU(cuEventRecord)(event, stream));
  EXPECT_CU(CUDA_ERROR_NOT_READY, CU(cuStreamQuery)(stream));
  EXPECT_CU(CUDA_ERROR_NOT_READY, CU(cuEventQuery)(event));
  EXPECT_CU(0, CU(cuStreamQuery)(nullptr));  // does not wait for non-blocking streams
  gate.open = true;
  ASSERT_OK(CU(cuEventSynchronize)(event));
  EXPECT_CU(0, CU(cuEventQuery)(event));
  ASSERT_OK(CU(cuStreamSynchronize)(stream));
}

TEST_F(Stream, TheLegacyStreamWaitsForBlockingStreamsAndTheyForIt) {
  CUstream stream;
  Gate gate;
  CUdeviceptr data = allocate(4);
  ASSERT_OK(CU(cuStreamCreate)(&stream, CU_STREAM_DEFAULT));
  ASSERT_OK(CU(cuMemsetD32_v2)(data, 0, 1));
  ASSERT_OK(CU(cuLaunchHostFunc)(stream, Gate::wait, &gate));
  ASSERT_OK(CU(cuMemsetD32Async)(data, 5, 1, stream));
  ASSERT_OK(add(data, 1, 1));           // legacy: after the set
  ASSERT_OK(add(data, 1, 10, stream));  // after the legacy launch
  EXPECT_CU(CUDA_ERROR_NOT_READY, CU(cuStreamQuery)(nullptr));
  gate.open = true;
  EXPECT_EQ(16u, read(data));
}

TEST_F(Stream, WaitsForEventsAcrossStreams) {
  CUstream first, second;
  CUevent event;
  Gate gate;
  CUdeviceptr data = allocate(4);
  ASSERT_OK(CU(cuMemsetD32_v2)(data, 1, 1));
  ASSERT_OK(CU(cuStreamCreate)(&first, CU_STREAM_NON_BLOCKING));
  ASSERT_OK(CU(cuStreamCreate)(&second, CU_STREAM_NON_BLOCKING));
  ASSERT_OK(CU(cuEventCreate)(&event, CU_EVENT_DISABLE_TIMING));
  ASSERT_OK(CU(cuCtxSynchronize)());
  ASSERT_OK(CU(cuLaunchHostFunc)(first, Gate::wait, &gate));
  ASSERT_OK(CU(cuMemsetD32Async)(data, 100, 1, first));
  ASSERT_OK(CU(cuEventRecord)(event, first));
  ASSERT_OK(CU(cuStreamWaitEvent)(second, event, 0));
  ASSERT_OK(add(data, 1, 1, second));
  gate.open = true;
  ASSERT_OK(CU(cuStreamSynchronize)(second));
  EXPECT_EQ(101u, read(data));
  float ms;
  EXPECT_CU(CUDA_ERROR_INVALID_HANDLE, CU(cuEventElapsedTime_v2)(&ms, event, event));
}

TEST_F(Stream, MeasuresTime) {
  CUevent from, to;
  ASSERT_OK(CU(cuEventCreate)(&from, 0));
  ASSERT_OK(CU(cuEventCreate)(&to, 0));
  ASSERT_OK(CU(cuEventRecord)(from, nullptr));
  ASSERT_OK(CU(cuLaunchHostFunc)(
      nullptr, [](void*) { std::this_thread::sleep_for(std::chrono::milliseconds(20)); }, nullptr));
  ASSERT_OK(CU(cuEventRecord)(to, nullptr));
  ASSERT_OK(CU(cuEventSynchronize)(to));
  float ms = 0;
  ASSERT_OK(CU(cuEventElapsedTime_v2)(&ms, from, to));
  EXPECT_GE(ms, 19);
  EXPECT_LT(ms, 2000);
}

TEST_F(Stream, WritesValuesAfterTheCopyAndWaitsForThem) {
  void* word;
  ASSERT_OK(CU(cuMemHostAlloc)(&word, 16, 0));
  auto* flag = (std::atomic<uint64_t>*)word;
  auto* result = (uint32_t*)word + 2;
  *flag = 0;
  CUdeviceptr data = allocate(4);
  CUstream stream, waiting;
  ASSERT_OK(CU(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
  ASSERT_OK(CU(cuStreamCreate)(&waiting, CU_STREAM_NON_BLOCKING));
  ASSERT_OK(CU(cuMemsetD32Async)(data, 77, 1, waiting));
  ASSERT_OK(CU(cuStreamWaitValue64_v2)(waiting, CUdeviceptr(word), 3, CU_STREAM_WAIT_VALUE_GEQ));
  ASSERT_OK(CU(cuMemcpyDtoHAsync_v2)(result, data, 4, waiting));
  ASSERT_OK(CU(cuStreamWriteValue64_v2)(waiting, CUdeviceptr(word), 1000, 0));
  EXPECT_CU(CUDA_ERROR_NOT_READY, CU(cuStreamQuery)(waiting));
  ASSERT_OK(CU(cuStreamWriteValue64_v2)(stream, CUdeviceptr(word), 3, 0));
  while (*flag != 1000) std::this_thread::yield();
  EXPECT_EQ(77u, *result);
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, CU(cuStreamWriteValue32_v2)(stream, 0x10, 1, 0));
  ASSERT_OK(CU(cuMemFreeHost)(word));
}

TEST_F(Stream, ManyBlockedStreamsDoNotStopOthers) {
  Gate gate;
  std::vector<CUstream> blocked(100);
  for (CUstream& stream : blocked) {
    ASSERT_OK(CU(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
    ASSERT_OK(CU(cuLaunchHostFunc)(stream, Gate::wait, &gate));
  }
  CUdeviceptr data = allocate(4);
  ASSERT_OK(CU(cuMemsetD32_v2)(data, 1, 1));
  EXPECT_EQ(1u, read(data));
  gate.open = true;
  ASSERT_OK(CU(cuCtxSynchronize)());
}

class Fault : public SoftwareGpu {
 protected:
  void expect_sticky(CUresult code) {
    EXPECT_CU(code, CU(cuCtxSynchronize)());
    CUdeviceptr pointer;
    EXPECT_CU(code, CU(cuMemAlloc_v2)(&pointer, 4));
    EXPECT_CU(code, CU(cuStreamQuery)(nullptr));
    CUcontext current;
    EXPECT_CU(0, CU(cuCtxGetCurrent)(&current));
  }
};

TEST_F(Fault, AccessOutsideAnAllocation) {
  CUdeviceptr pointer = allocate(100);
  ASSERT_OK(launch("store", pointer + 96));
  ASSERT_OK(CU(cuCtxSynchronize)());
  ASSERT_OK(launch("store", pointer + 100));
  expect_sticky(CUDA_ERROR_ILLEGAL_ADDRESS);
}

TEST_F(Fault, AccessToHostMemory) {
  int local = 0;
  ASSERT_OK(launch("store", CUdeviceptr(&local)));
  expect_sticky(CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQ(0, local);
}

TEST_F(Fault, MisalignedAccess) {
  ASSERT_OK(launch("store", allocate(100) + 2));
  expect_sticky(CUDA_ERROR_MISALIGNED_ADDRESS);
}

TEST_F(Fault, Trap) {
  ASSERT_OK(CU(cuLaunchKernel)(function("crash"), 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr));
  expect_sticky(CUDA_ERROR_LAUNCH_FAILED);
  // Other contexts go on.
  CUcontext other;
  ASSERT_OK(CU(cuCtxCreate_v2)(&other, 0, 0));
  ASSERT_OK(CU(cuCtxSynchronize)());
  ASSERT_OK(CU(cuCtxDestroy_v2)(other));
}
