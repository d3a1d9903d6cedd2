// Allocation, accounting, copies in all directions, pools, virtual memory.
#include <numeric>

#include "software_driver.h"

class Memory : public SoftwareGpu {
 protected:
  size_t free_bytes() {
    size_t free = 0, total = 0;
    EXPECT_CU(0, CU(cuMemGetInfo_v2)(&free, &total));
    return free;
  }
};

constexpr size_t kBlock = 2 << 20;

TEST_F(Memory, IsChargedByTheBlockAndExactly) {
  size_t before = free_bytes();
  CUdeviceptr large = allocate(kBlock + 1);
  EXPECT_EQ(0u, large % kBlock);
  EXPECT_EQ(before - 2 * kBlock, free_bytes());
  std::vector<CUdeviceptr> small;
  for (int i = 0; i < 100; i++) small.push_back(allocate(1000));
  EXPECT_EQ(0u, small[3] % 512);
  EXPECT_GE(free_bytes(), before - 3 * kBlock);
  for (CUdeviceptr pointer : small) ASSERT_OK(CU(cuMemFree_v2)(pointer));
  ASSERT_OK(CU(cuMemFree_v2)(large));
  EXPECT_EQ(before, free_bytes());
}

TEST_F(Memory, EndsExactlyAtTheTotal) {
  CUdeviceptr all = allocate(free_bytes());
  CUdeviceptr more = 0;
  EXPECT_EQ(0u, free_bytes());
  EXPECT_CU(CUDA_ERROR_OUT_OF_MEMORY, CU(cuMemAlloc_v2)(&more, kBlock));
  ASSERT_OK(CU(cuMemFree_v2)(all));
  EXPECT_CU(CUDA_ERROR_OUT_OF_MEMORY, CU(cuMemAlloc_v2)(&more, size_t(1) << 40));
}

TEST_F(Memory, AContextCosts8MiBAndGivesAllBack) {
  size_t before = free_bytes();
  CUcontext other;
  ASSERT_OK(CU(cuCtxCreate_v2)(&other, 0, 0));
  EXPECT_EQ(before - (8 << 20), free_bytes());
  allocate(10 * kBlock);
  ASSERT_OK(CU(cuCtxDestroy_v2)(other));
  EXPECT_EQ(before, free_bytes());
}

TEST_F(Memory, IsZeroedBeforeItIsGivenOutAgain) {
  for (size_t bytes : {size_t(4096), 2 * kBlock}) {
    CUdeviceptr pointer = allocate(bytes);
    ASSERT_OK(CU(cuMemsetD8_v2)(pointer, 0xab, bytes));
    ASSERT_OK(CU(cuMemFree_v2)(pointer));
    CUdeviceptr again = allocate(bytes);
    EXPECT_EQ(pointer, again);
    EXPECT_EQ(0u, read(again + bytes - 4));
    ASSERT_OK(CU(cuMemFree_v2)(again));
  }
}

TEST_F(Memory, AnswersAboutPointers) {
  CUdeviceptr pointer = allocate(1000), base = 0;
  size_t bytes = 0;
  ASSERT_OK(CU(cuMemGetAddressRange_v2)(&base, &bytes, pointer + 500));
  EXPECT_EQ(pointer, base);
  EXPECT_EQ(1000u, bytes);
  unsigned type = 0;
  CUcontext owner = nullptr;
  ASSERT_OK(CU(cuPointerGetAttribute)(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer));
  EXPECT_EQ(unsigned(CU_MEMORYTYPE_DEVICE), type);
  ASSERT_OK(CU(cuPointerGetAttribute)(&owner, CU_POINTER_ATTRIBUTE_CONTEXT, pointer));
  EXPECT_EQ(context, owner);
  int local = 0;
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE,
            CU(cuPointerGetAttribute)(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CUdeviceptr(&local)));
  void* host = nullptr;
  ASSERT_OK(CU(cuMemHostAlloc)(&host, 100, CU_MEMHOSTALLOC_PORTABLE));
  ASSERT_OK(CU(cuPointerGetAttribute)(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CUdeviceptr(host)));
  EXPECT_EQ(unsigned(CU_MEMORYTYPE_HOST), type);
  CUdeviceptr mapped = 0;
  ASSERT_OK(CU(cuMemHostGetDevicePointer_v2)(&mapped, host, 0));
  ASSERT_OK(CU(cuMemFreeHost)(host));
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, CU(cuMemFreeHost)(host));
  std::vector<char> program(8192);
  ASSERT_OK(CU(cuMemHostRegister_v2)(program.data(), program.size(), 0));
  EXPECT_CU(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, CU(cuMemHostRegister_v2)(program.data(), 10, 0));
  ASSERT_OK(CU(cuMemHostUnregister)(program.data()));
  EXPECT_CU(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, CU(cuMemHostUnregister)(program.data()));
}

TEST_F(Memory, CopiesAndSetsRows) {
  CUdeviceptr pointer = 0;
  size_t pitch = 0;
  ASSERT_OK(CU(cuMemAllocPitch_v2)(&pointer, &pitch, 100, 10, 4));
  EXPECT_EQ(512u, pitch);
  ASSERT_OK(CU(cuMemsetD2D16_v2)(pointer, pitch, 0x1234, 50, 10));
  std::vector<uint16_t> host(50 * 10);
  CUDA_MEMCPY2D copy{};
  copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.srcDevice = pointer;
  copy.srcPitch = pitch;
  copy.dstMemoryType = CU_MEMORYTYPE_HOST;
  copy.dstHost = host.data();
  copy.dstPitch = 100;
  copy.WidthInBytes = 100;
  copy.Height = 10;
  ASSERT_OK(CU(cuMemcpy2D_v2)(&copy));
  for (uint16_t value : host) ASSERT_EQ(0x1234, value);
  copy.Height = 11;
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, CU(cuMemcpy2D_v2)(&copy));
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, CU(cuMemsetD32_v2)(pointer + 2, 0, 1));
}

TEST_F(Memory, CopiesThroughArraysOf3Dimensions) {
  CUDA_ARRAY3D_DESCRIPTOR descriptor{};
  descriptor.Width = 8;
  descriptor.Height = 4;
  descriptor.Depth = 2;
  descriptor.Format = CU_AD_FORMAT_UNSIGNED_INT32;
  descriptor.NumChannels = 1;
  CUarray array;
  ASSERT_OK(CU(cuArray3DCreate_v2)(&array, &descriptor));
  std::vector<uint32_t> in(64), out(64);
  std::iota(in.begin(), in.end(), 0);
  CUDA_MEMCPY3D copy{};
  copy.srcMemoryType = CU_MEMORYTYPE_HOST;
  copy.srcHost = in.data();
  copy.srcPitch = 32;
  copy.srcHeight = 4;
  copy.dstMemoryType = CU_MEMORYTYPE_ARRAY;
  copy.dstArray = array;
  copy.WidthInBytes = 32;
  copy.Height = 4;
  copy.Depth = 2;
  ASSERT_OK(CU(cuMemcpy3D_v2)(&copy));
  CUDA_MEMCPY3D back{};
  back.srcMemoryType = CU_MEMORYTYPE_ARRAY;
  back.srcArray = array;
  back.srcXInBytes = 8;
  back.srcY = 1;
  back.srcZ = 1;
  back.dstMemoryType = CU_MEMORYTYPE_HOST;
  back.dstHost = out.data();
  back.dstPitch = 32;
  back.WidthInBytes = 16;
  back.Height = 3;
  back.Depth = 1;
  ASSERT_OK(CU(cuMemcpy3D_v2)(&back));
  EXPECT_EQ(32u + 8 + 2, out[0]);
  EXPECT_EQ(32u + 24 + 5, out[2 * 8 + 3]);
  back.Depth = 2;
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, CU(cuMemcpy3D_v2)(&back));
  ASSERT_OK(CU(cuArrayDestroy)(array));
  EXPECT_CU(CUDA_ERROR_INVALID_HANDLE, CU(cuArrayDestroy)(array));
}

TEST_F(Memory, ConsumesPageableSourcesBeforeTheCallReturns) {
  CUdeviceptr flag = allocate(4), data = allocate(4096);
  ASSERT_OK(CU(cuMemsetD32_v2)(flag, 0, 1));
  CUstream busy, other;
  ASSERT_OK(CU(cuStreamCreate)(&busy, CU_STREAM_NON_BLOCKING));
  ASSERT_OK(CU(cuStreamCreate)(&other, CU_STREAM_NON_BLOCKING));
  void* arguments[] = {&flag};
  ASSERT_OK(CU(cuLaunchKernel)(function("spin"), 1, 1, 1, 1, 1, 1, 0, busy, arguments, nullptr));
  std::vector<uint32_t> source(1024, 7);
  ASSERT_OK(CU(cuMemcpyHtoDAsync_v2)(data, source.data(), 4096, busy));
  std::fill(source.begin(), source.end(), 9);
  ASSERT_OK(CU(cuMemsetD32Async)(flag, 1, 1, other));
  ASSERT_OK(CU(cuStreamSynchronize)(busy));
  EXPECT_EQ(7u, read(data + 4092));
}

TEST_F(Memory, ChecksTheBoundsOfCopies) {
  CUdeviceptr pointer = allocate(100);
  char bytes[200] = {};
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, CU(cuMemcpyHtoD_v2)(pointer, bytes, 101));
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, CU(cuMemcpyDtoH_v2)(bytes, pointer + 90, 20));
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, CU(cuMemcpyHtoD_v2)(0x123456, bytes, 4));
  EXPECT_CU(0, CU(cuMemcpyHtoD_v2)(pointer, bytes, 100));
}

TEST_F(Memory, AllocatesInStreamOrder) {
  size_t before = free_bytes();
  CUstream stream;
  ASSERT_OK(CU(cuStreamCreate)(&stream, 0));
  CUdeviceptr pointer = 0;
  ASSERT_OK(CU(cuMemAllocAsync)(&pointer, 3 * kBlock, stream));
  CUmemoryPool pool = nullptr, own = nullptr;
  ASSERT_OK(CU(cuDeviceGetDefaultMemPool)(&pool, 0));
  cuuint64_t used = 0;
  ASSERT_OK(CU(cuMemPoolGetAttribute)(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used));
  EXPECT_EQ(3 * kBlock, used);
  ASSERT_OK(CU(cuMemFreeAsync)(pointer, stream));
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, CU(cuMemFreeAsync)(pointer, stream));
  ASSERT_OK(CU(cuStreamSynchronize)(stream));
  EXPECT_EQ(before, free_bytes());
  CUmemPoolProps properties{};
  properties.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  ASSERT_OK(CU(cuMemPoolCreate)(&own, &properties));
  ASSERT_OK(CU(cuMemAllocFromPoolAsync)(&pointer, 100, own, stream));
  CUmemoryPool asked = nullptr;
  ASSERT_OK(CU(cuPointerGetAttribute)(&asked, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, pointer));
  EXPECT_EQ(own, asked);
  ASSERT_OK(CU(cuMemFree_v2)(pointer));
  ASSERT_OK(CU(cuMemPoolDestroy)(own));
}

TEST_F(Memory, MapsPhysicalMemoryWhereAsked) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  size_t before = free_bytes();
  CUmemGenericAllocationHandle handle;
  ASSERT_OK(CU(cuMemCreate)(&handle, kBlock, &properties, 0));
  EXPECT_EQ(before - kBlock, free_bytes());
  CUdeviceptr range;
  ASSERT_OK(CU(cuMemAddressReserve)(&range, 2 * kBlock, 0, 0, 0));
  ASSERT_OK(CU(cuMemMap)(range, kBlock, 0, handle, 0));
  ASSERT_OK(CU(cuMemMap)(range + kBlock, kBlock, 0, handle, 0));  // the same memory twice
  CUmemAccessDesc access{{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  ASSERT_OK(CU(cuMemSetAccess)(range, 2 * kBlock, &access, 1));
  ASSERT_OK(CU(cuMemRelease)(handle));
  ASSERT_OK(add(range, 100, 3));
  EXPECT_EQ(3u, read(range + kBlock + 4 * 99));
  ASSERT_OK(CU(cuMemUnmap)(range, 2 * kBlock));
  EXPECT_EQ(before, free_bytes());
  ASSERT_OK(CU(cuMemAddressFree)(range, 2 * kBlock));
}

TEST_F(Memory, ReachesPeersOnceEnabled) {
  CUcontext other;
  ASSERT_OK(CU(cuCtxCreate_v2)(&other, 0, 1));
  CUdeviceptr remote = allocate(4);
  ASSERT_OK(CU(cuMemsetD32_v2)(remote, 40, 1));
  ASSERT_OK(CU(cuCtxSynchronize)());
  ASSERT_OK(CU(cuCtxSetCurrent)(context));
  ASSERT_OK(CU(cuCtxEnablePeerAccess)(other, 0));
  EXPECT_CU(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, CU(cuCtxEnablePeerAccess)(other, 0));
  ASSERT_OK(add(remote, 1, 2));
  EXPECT_EQ(42u, read(remote));
  CUdeviceptr local = allocate(4);
  ASSERT_OK(CU(cuMemcpyPeer)(local, context, remote, other, 4));
  EXPECT_EQ(42u, read(local));
  ASSERT_OK(CU(cuCtxDestroy_v2)(other));
  ASSERT_OK(CU(cuCtxSetCurrent)(context));
}
