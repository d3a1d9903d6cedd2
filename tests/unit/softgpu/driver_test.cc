// Devices, contexts, errors, lookup.
#include <fstream>
#include <thread>

#include "software_driver.h"

using Driver = SoftwareGpu;

TEST_F(Driver, DescribesItsDevices) {
  int count = 0, version = 0;
  ASSERT_OK(CU(cuDeviceGetCount)(&count));
  EXPECT_EQ(2, count);
  ASSERT_OK(CU(cuDriverGetVersion)(&version));
  EXPECT_EQ(13000, version);
  char name[64], bus[2][16];
  ASSERT_OK(CU(cuDeviceGetName)(name, sizeof name, 1));
  EXPECT_STREQ("Backfield Software GPU", name);
  CUuuid uuid[2], again;
  for (int d = 0; d < 2; d++) {
    ASSERT_OK(CU(cuDeviceGetUuid_v2)(&uuid[d], d));
    ASSERT_OK(CU(cuDeviceGetPCIBusId)(bus[d], sizeof bus[d], d));
    CUdevice found = -1;
    ASSERT_OK(CU(cuDeviceGetByPCIBusId)(&found, bus[d]));
    EXPECT_EQ(d, found);
  }
  ASSERT_OK(CU(cuDeviceGetUuid)(&again, 1));
  EXPECT_EQ(0, memcmp(&again, &uuid[1], sizeof again));
  EXPECT_NE(0, memcmp(&uuid[0], &uuid[1], sizeof uuid[0]));
  int value;
  for (int a = 1; a < CU_DEVICE_ATTRIBUTE_MAX; a++)
    EXPECT_CU(0, CU(cuDeviceGetAttribute)(&value, CUdevice_attribute(a), 0)) << a;
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, CU(cuDeviceGetAttribute)(&value, CU_DEVICE_ATTRIBUTE_MAX, 0));
  EXPECT_CU(CUDA_ERROR_INVALID_DEVICE, CU(cuDeviceGetAttribute)(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 2));
  size_t total = 0;
  ASSERT_OK(CU(cuDeviceTotalMem_v2)(&total, 0));
  EXPECT_EQ(256u << 20, total);
}

TEST_F(Driver, PrimaryContextFollowsTheMeasuredRules) {
  CUcontext first, second, current;
  unsigned flags, version;
  int active;
  size_t limit;
  ASSERT_OK(CU(cuDevicePrimaryCtxRetain)(&first, 1));
  ASSERT_OK(CU(cuDevicePrimaryCtxRetain)(&second, 1));
  EXPECT_EQ(first, second);
  ASSERT_OK(CU(cuCtxSetCurrent)(first));
  ASSERT_OK(CU(cuCtxGetApiVersion)(first, &version));
  EXPECT_EQ(3020u, version);
  ASSERT_OK(CU(cuDevicePrimaryCtxRelease_v2)(1));
  ASSERT_OK(CU(cuDevicePrimaryCtxGetState)(1, &flags, &active));
  EXPECT_EQ(1, active);
  ASSERT_OK(CU(cuDevicePrimaryCtxRelease_v2)(1));
  EXPECT_CU(CUDA_ERROR_INVALID_CONTEXT, CU(cuDevicePrimaryCtxRelease_v2)(1));
  ASSERT_OK(CU(cuDevicePrimaryCtxGetState)(1, &flags, &active));
  EXPECT_EQ(0, active);
  ASSERT_OK(CU(cuCtxGetCurrent)(&current));
  EXPECT_EQ(first, current);
  EXPECT_CU(CUDA_ERROR_CONTEXT_IS_DESTROYED, CU(cuCtxSynchronize)());
  EXPECT_CU(CUDA_ERROR_CONTEXT_IS_DESTROYED, CU(cuCtxGetLimit)(&limit, CU_LIMIT_STACK_SIZE));
  EXPECT_CU(CUDA_ERROR_INVALID_CONTEXT, CU(cuCtxGetApiVersion)(first, &version));
  ASSERT_OK(CU(cuDevicePrimaryCtxReset_v2)(1));
  ASSERT_OK(CU(cuCtxSetCurrent)(context));
}

TEST_F(Driver, KeepsAStackOfContextsPerThread) {
  CUcontext other, popped, current;
  ASSERT_OK(CU(cuCtxCreate_v2)(&other, 0, 1));
  CUdevice device = -1;
  ASSERT_OK(CU(cuCtxGetDevice)(&device));
  EXPECT_EQ(1, device);
  ASSERT_OK(CU(cuCtxPopCurrent_v2)(&popped));
  EXPECT_EQ(other, popped);
  ASSERT_OK(CU(cuCtxGetCurrent)(&current));
  EXPECT_EQ(context, current);
  std::thread([] {
    CUcontext none = (CUcontext)1;
    ASSERT_OK(CU(cuCtxGetCurrent)(&none));
    EXPECT_EQ(nullptr, none);
    CUdeviceptr pointer;
    EXPECT_CU(CUDA_ERROR_INVALID_CONTEXT, CU(cuMemAlloc_v2)(&pointer, 4));
  }).join();
  unsigned long long id[2];
  ASSERT_OK(CU(cuCtxGetId)(context, &id[0]));
  ASSERT_OK(CU(cuCtxGetId)(other, &id[1]));
  EXPECT_NE(id[0], id[1]);
  ASSERT_OK(CU(cuCtxDestroy_v2)(other));
  EXPECT_CU(CUDA_ERROR_INVALID_CONTEXT, CU(cuCtxSetCurrent)(other));
  EXPECT_CU(CUDA_ERROR_INVALID_CONTEXT, CU(cuCtxDestroy_v2)(other));
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, CU(cuCtxDestroy_v2)(nullptr));
}

TEST_F(Driver, OnlyPrimaryContextsReportMappedHostMemory) {
  CUcontext primary, popped;
  unsigned flags = 0;
  int active = 0;
  ASSERT_OK(CU(cuCtxGetFlags)(&flags));  // of the fixture's own context
  EXPECT_EQ(0u, flags & CU_CTX_MAP_HOST);
  ASSERT_OK(CU(cuDevicePrimaryCtxRetain)(&primary, 1));
  ASSERT_OK(CU(cuCtxPushCurrent_v2)(primary));
  ASSERT_OK(CU(cuCtxGetFlags)(&flags));
  EXPECT_EQ(unsigned(CU_CTX_MAP_HOST), flags & CU_CTX_MAP_HOST);
  ASSERT_OK(CU(cuDevicePrimaryCtxGetState)(1, &flags, &active));
  EXPECT_EQ(0u, flags & CU_CTX_MAP_HOST);
  ASSERT_OK(CU(cuCtxPopCurrent_v2)(&popped));
  ASSERT_OK(CU(cuDevicePrimaryCtxRelease_v2)(1));
}

TEST_F(Driver, NamesItsErrors) {
  const char* text = nullptr;
  ASSERT_OK(CU(cuGetErrorName)(CUDA_ERROR_ILLEGAL_ADDRESS, &text));
  EXPECT_STREQ("CUDA_ERROR_ILLEGAL_ADDRESS", text);
  ASSERT_OK(CU(cuGetErrorString)(CUDA_ERROR_ILLEGAL_ADDRESS, &text));
  EXPECT_STREQ("an illegal memory access was encountered", text);
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, CU(cuGetErrorName)(CUresult(12345), &text));
  EXPECT_EQ(nullptr, text);
}

TEST_F(Driver, RecognisesWrongHandles) {
  EXPECT_CU(CUDA_ERROR_INVALID_HANDLE, CU(cuStreamSynchronize)((CUstream)0x1234));
  EXPECT_CU(CUDA_ERROR_INVALID_HANDLE, CU(cuEventQuery)((CUevent)context));
  EXPECT_CU(CUDA_ERROR_INVALID_HANDLE, CU(cuModuleUnload)((CUmodule)0x40));
  EXPECT_CU(CUDA_ERROR_INVALID_HANDLE,
            CU(cuLaunchKernel)((CUfunction)module, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr));
  EXPECT_CU(CUDA_ERROR_INVALID_CONTEXT, CU(cuCtxSetCurrent)((CUcontext)0x99));
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, CU(cuMemFree_v2)(0x1000));
  CUevent event;
  ASSERT_OK(CU(cuEventCreate)(&event, 0));
  ASSERT_OK(CU(cuEventDestroy_v2)(event));
  EXPECT_CU(CUDA_ERROR_INVALID_HANDLE, CU(cuEventDestroy_v2)(event));
}

TEST_F(Driver, ResolvesSymbolsAsElfDoes) {
  void* found = nullptr;
  CUdriverProcAddressQueryResult status;
  ASSERT_OK(CU(cuGetProcAddress_v2)("cuMemAlloc", &found, 13000, 0, &status));
  EXPECT_EQ(dlsym(software_driver(), "cuMemAlloc_v2"), found);
  ASSERT_OK(CU(cuGetProcAddress_v2)("cuMemcpy", &found, 13000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, &status));
  EXPECT_EQ(dlsym(software_driver(), "cuMemcpy_ptds"), found);
  ASSERT_OK(CU(cuGetProcAddress_v2)("cuNoSuchThing", &found, 13000, 0, &status));
  EXPECT_EQ(nullptr, found);
  EXPECT_EQ(CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND, status);
}

TEST_F(Driver, ExportsEveryNameOfTheRealDriver) {
  std::ifstream names(BF_EXPORTS);
  std::string name;
  int count = 0;
  while (std::getline(names, name)) {
    if (name.empty() || name[0] == '#') continue;
    EXPECT_NE(nullptr, dlsym(software_driver(), name.c_str())) << name;
    count++;
  }
  EXPECT_EQ(682, count);
}

TEST_F(Driver, RefusesWhatItLacks) {
  size_t size = 0;
  EXPECT_CU(CUDA_ERROR_NOT_SUPPORTED, CU(cuCoredumpGetAttributeGlobal)(CU_COREDUMP_FILE, nullptr, &size));
}

TEST_F(Driver, LivesWithHundredsOfThreads) {
  CUdeviceptr data = allocate(4 * 200);
  ASSERT_OK(CU(cuMemsetD32_v2)(data, 0, 200));
  std::vector<std::thread> threads;
  for (int t = 0; t < 200; t++) {
    threads.emplace_back([&, t] {
      ASSERT_OK(CU(cuCtxSetCurrent)(context));
      for (int i = 0; i < 5; i++) ASSERT_OK(add(data + 4 * t, 1, t, CU_STREAM_PER_THREAD));
      ASSERT_OK(CU(cuStreamSynchronize)(CU_STREAM_PER_THREAD));
    });
  }
  for (auto& thread : threads) thread.join();
  for (int t = 0; t < 200; t++) EXPECT_EQ(unsigned(5 * t), read(data + 4 * t));
}
