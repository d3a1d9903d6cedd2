// Memory: virtual, pooled, managed, mapped; textures and surfaces of every shape; green contexts.
#include <cuda.h>

#include <cstring>

#include "cases.h"

namespace {

__global__ void count_up(int* data, int n, int from) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) data[i] = from + i;
}

Result virtual_memory() {  // one range of two allocations, one of them mapped a second time elsewhere
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED, prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  CUmemAccessDesc access{{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  CUmemGenericAllocationHandle parts[2];
  CUdeviceptr range, alias;
  size_t unit = 0;
  NEED(cuMemGetAllocationGranularity(&unit, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
  NEED(cuMemAddressReserve(&range, 2 * unit, 0, 0, 0));
  NEED(cuMemAddressReserve(&alias, unit, 0, 0, 0));
  for (int i = 0; i < 2; i++) {
    NEED(cuMemCreate(&parts[i], unit, &prop, 0));
    NEED(cuMemMap(range + i * unit, unit, 0, parts[i], 0));
  }
  NEED(cuMemMap(alias, unit, 0, parts[1], 0));
  NEED(cuMemSetAccess(range, 2 * unit, &access, 1));
  NEED(cuMemSetAccess(alias, unit, &access, 1));
  int count = int(2 * unit / sizeof(int));
  count_up<<<(count + 255) / 256, 256>>>(reinterpret_cast<int*>(range), count, 0);
  NEED(cudaDeviceSynchronize());
  std::vector<int> whole(count), second(count / 2);
  NEED(cuMemcpyDtoH(whole.data(), range, 2 * unit));
  NEED(cuMemcpyDtoH(second.data(), alias, unit));
  NEED(cuMemUnmap(range, 2 * unit));
  NEED(cuMemUnmap(alias, unit));
  for (auto part : parts) NEED(cuMemRelease(part));
  NEED(cuMemAddressFree(range, 2 * unit));
  NEED(cuMemAddressFree(alias, unit));
  bool right = true;
  for (int i = 0; i < count; i++) right &= whole[i] == i;
  for (int i = 0; i < count / 2; i++) right &= second[i] == count / 2 + i;
  return {right, hash_of(whole)};
}

Result memory_pool() {
  cudaMemPool_t pool;
  cudaMemPoolProps props{};
  props.allocType = cudaMemAllocationTypePinned, props.location = {cudaMemLocationTypeDevice, 0};
  cudaStream_t stream;
  uint64_t keep = UINT64_MAX, reserved = 0, used = 0, trimmed = 1;
  NEED(cudaStreamCreate(&stream));
  NEED(cudaMemPoolCreate(&pool, &props));
  NEED(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
  std::vector<int> got(5000);
  bool right = true;
  for (int round = 0; round < 10; round++) {
    int* data;
    NEED(cudaMallocFromPoolAsync(reinterpret_cast<void**>(&data), got.size() * sizeof(int), pool, stream));
    count_up<<<20, 256, 0, stream>>>(data, int(got.size()), round);
    NEED(cudaMemcpyAsync(got.data(), data, got.size() * sizeof(int), cudaMemcpyDeviceToHost, stream));
    NEED(cudaFreeAsync(data, stream));
    NEED(cudaStreamSynchronize(stream));
    right &= got[0] == round && got[4999] == round + 4999;
  }
  NEED(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved));
  NEED(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used));
  NEED(cudaMemPoolTrimTo(pool, 0));
  NEED(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &trimmed));
  NEED(cudaMemPoolDestroy(pool));
  NEED(cudaStreamDestroy(stream));
  return {right && used == 0, hash_of(got) ^ reserved ^ trimmed << 32};
}

Result managed() {  // written by turns
  int* data;
  constexpr int kCount = 100000;
  NEED(cudaMallocManaged(&data, kCount * sizeof(int)));
  for (int i = 0; i < kCount; i++) data[i] = -1;
  bool right = true;
  for (int round = 0; round < 3; round++) {
    count_up<<<(kCount + 255) / 256, 256>>>(data, kCount - 1, round);
    NEED(cudaDeviceSynchronize());
    right &= data[0] == round && data[kCount - 2] == round + kCount - 2 && data[kCount - 1] == -1 - round;
    data[kCount - 1]--;
  }
  uint64_t hash = hash_of(data, kCount * sizeof(int));
  NEED(cudaFree(data));
  return {right, hash};
}

Result mapped() {
  constexpr int kCount = 4096;
  int *host, *device;
  NEED(cudaHostAlloc(&host, kCount * sizeof(int), cudaHostAllocMapped));
  NEED(cudaHostGetDevicePointer(&device, host, 0));
  count_up<<<kCount / 256, 256>>>(device, kCount, 9);
  NEED(cudaDeviceSynchronize());
  bool right = host[0] == 9 && host[kCount - 1] == 9 + kCount - 1;
  uint64_t hash = hash_of(host, kCount * sizeof(int));
  NEED(cudaFreeHost(host));
  return {right, hash};
}

cudaTextureObject_t texture_of(cudaArray_t array, cudaMipmappedArray_t levels, cudaTextureFilterMode filter, bool normalised) {
  cudaResourceDesc resource{};
  cudaTextureDesc texture{};
  resource.resType = levels ? cudaResourceTypeMipmappedArray : cudaResourceTypeArray;
  if (levels) resource.res.mipmap.mipmap = levels;
  else resource.res.array.array = array;
  for (auto& mode : texture.addressMode) mode = cudaAddressModeClamp;
  texture.filterMode = filter, texture.normalizedCoords = normalised, texture.mipmapFilterMode = cudaFilterModePoint, texture.maxMipmapLevelClamp = 10;
  cudaTextureObject_t object;
  NEED(cudaCreateTextureObject(&object, &resource, &texture, nullptr));
  return object;
}

enum class Shape { kPlane, kVolume, kLayers, kCube };

__global__ void read_texture(cudaTextureObject_t texture, Shape shape, float* out, int side, int depth) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= side * side * depth) return;
  float x = i % side + 0.5f, y = i / side % side + 0.5f;
  int z = i / side / side;
  if (shape == Shape::kPlane) out[i] = tex2D<float>(texture, x, y);
  if (shape == Shape::kVolume) out[i] = tex3D<float>(texture, x, y, z + 0.5f);
  if (shape == Shape::kLayers) out[i] = tex2DLayered<float>(texture, x, y, z);
  if (shape == Shape::kCube) out[i] = texCubemap<float>(texture, z == 0 ? 1 : z == 1 ? -1 : 0, z == 2 ? 1 : z == 3 ? -1 : 0, z == 4 ? 1 : z == 5 ? -1 : 0);
}

Result texture(Shape shape) {
  constexpr int kSide = 16;
  const int depth = shape == Shape::kPlane ? 1 : 6;
  auto in = whole_numbers<float>(size_t(kSide) * kSide * depth, 1, 201);
  if (shape == Shape::kCube)
    for (size_t i = 0; i < in.size(); i++) in[i] = float(i / kSide / kSide);  // each face of one colour
  DeviceArray<float> out(in.size());
  auto channels = cudaCreateChannelDesc<float>();
  cudaArray_t array;
  unsigned flags = shape == Shape::kLayers ? cudaArrayLayered : shape == Shape::kCube ? cudaArrayCubemap : 0;
  NEED(cudaMalloc3DArray(&array, &channels, make_cudaExtent(kSide, kSide, shape == Shape::kPlane ? 0 : depth), flags));
  cudaMemcpy3DParms copy{};
  copy.srcPtr = make_cudaPitchedPtr(in.data(), kSide * sizeof(float), kSide, kSide);
  copy.dstArray = array, copy.extent = make_cudaExtent(kSide, kSide, depth), copy.kind = cudaMemcpyHostToDevice;
  NEED(cudaMemcpy3D(&copy));
  auto object = texture_of(array, nullptr, cudaFilterModePoint, shape == Shape::kCube);
  read_texture<<<(int(in.size()) + 127) / 128, 128>>>(object, shape, out.get(), kSide, depth);
  NEED(cudaGetLastError());
  auto got = out.host();
  NEED(cudaDestroyTextureObject(object));
  NEED(cudaFreeArray(array));
  return {got == in, hash_of(got)};
}

__global__ void between(cudaTextureObject_t texture, float* out) { out[threadIdx.x] = tex2D<float>(texture, threadIdx.x * 0.25f + 0.5f, 0.5f); }

Result filtered() {  // halfway between two values lies their mean
  constexpr int kSide = 8;
  std::vector<float> in(kSide * kSide);
  for (int i = 0; i < kSide * kSide; i++) in[i] = float(i % kSide * 16);
  DeviceArray<float> out(16);
  auto channels = cudaCreateChannelDesc<float>();
  cudaArray_t array;
  NEED(cudaMallocArray(&array, &channels, kSide, kSide));
  NEED(cudaMemcpy2DToArray(array, 0, 0, in.data(), kSide * sizeof(float), kSide * sizeof(float), kSide, cudaMemcpyHostToDevice));
  auto object = texture_of(array, nullptr, cudaFilterModeLinear, false);
  between<<<1, 16>>>(object, out.get());
  NEED(cudaGetLastError());
  auto got = out.host();
  NEED(cudaDestroyTextureObject(object));
  NEED(cudaFreeArray(array));
  bool right = true;
  for (int i = 0; i < 16; i++) right &= got[i] == 4 * i;
  return {right, hash_of(got)};
}

__global__ void read_levels(cudaTextureObject_t texture, float* out, int levels) {
  if (int(threadIdx.x) < levels) out[threadIdx.x] = tex2DLod<float>(texture, 0.5f, 0.5f, threadIdx.x);
}

Result mipmaps() {
  constexpr int kLevels = 5;
  auto channels = cudaCreateChannelDesc<float>();
  cudaMipmappedArray_t mipmaps;
  NEED(cudaMallocMipmappedArray(&mipmaps, &channels, make_cudaExtent(16, 16, 0), kLevels));
  for (int level = 0; level < kLevels; level++) {
    int side = 16 >> level;
    std::vector<float> colour(side * side, float(level * 10 + 1));
    cudaArray_t array;
    NEED(cudaGetMipmappedArrayLevel(&array, mipmaps, level));
    NEED(cudaMemcpy2DToArray(array, 0, 0, colour.data(), side * sizeof(float), side * sizeof(float), side, cudaMemcpyHostToDevice));
  }
  auto object = texture_of(nullptr, mipmaps, cudaFilterModePoint, true);
  DeviceArray<float> out(kLevels);
  read_levels<<<1, 32>>>(object, out.get(), kLevels);
  NEED(cudaGetLastError());
  auto got = out.host();
  NEED(cudaDestroyTextureObject(object));
  NEED(cudaFreeMipmappedArray(mipmaps));
  return {got == std::vector<float>{1, 11, 21, 31, 41}, hash_of(got)};
}

__global__ void write_surface(cudaSurfaceObject_t surface, int side) {
  int x = threadIdx.x % side, y = threadIdx.x / side;
  surf2Dwrite(float(x * 100 + y), surface, x * int(sizeof(float)), y);
}

Result surface() {
  constexpr int kSide = 16;
  auto channels = cudaCreateChannelDesc<float>();
  cudaArray_t array;
  NEED(cudaMallocArray(&array, &channels, kSide, kSide, cudaArraySurfaceLoadStore));
  cudaResourceDesc resource{};
  resource.resType = cudaResourceTypeArray, resource.res.array.array = array;
  cudaSurfaceObject_t object;
  NEED(cudaCreateSurfaceObject(&object, &resource));
  write_surface<<<1, kSide * kSide>>>(object, kSide);
  NEED(cudaGetLastError());
  NEED(cudaDeviceSynchronize());
  std::vector<float> got(kSide * kSide);
  NEED(cudaMemcpy2DFromArray(got.data(), kSide * sizeof(float), array, 0, 0, kSide * sizeof(float), kSide, cudaMemcpyDeviceToHost));
  NEED(cudaDestroySurfaceObject(object));
  NEED(cudaFreeArray(array));
  bool right = true;
  for (int i = 0; i < kSide * kSide; i++) right &= got[i] == i % kSide * 100 + i / kSide;
  return {right, hash_of(got)};
}

Result green_context() {  // a stream on a part of the multiprocessors
  CUdevResource all, part, rest;
  CUdevResourceDesc description;
  CUgreenCtx green;
  CUstream stream;
  unsigned groups = 1;
  NEED(cuDeviceGetDevResource(0, &all, CU_DEV_RESOURCE_TYPE_SM));
  NEED(cuDevSmResourceSplitByCount(&part, &groups, &all, &rest, 0, 8));
  NEED(cuDevResourceGenerateDesc(&description, &part, 1));
  NEED(cuGreenCtxCreate(&green, description, 0, CU_GREEN_CTX_DEFAULT_STREAM));
  NEED(cuGreenCtxStreamCreate(&stream, green, CU_STREAM_NON_BLOCKING, 0));
  DeviceArray<int> data(10000);
  count_up<<<40, 256, 0, stream>>>(data.get(), 10000, 3);
  NEED(cuStreamSynchronize(stream));
  auto got = data.host();
  NEED(cuStreamDestroy(stream));
  NEED(cuGreenCtxDestroy(green));
  return {got[0] == 3 && got[9999] == 10002 && part.sm.smCount >= 8 && part.sm.smCount < all.sm.smCount, hash_of(got) ^ part.sm.smCount};
}

Result stream_memory_operations() {  // one stream waits for what another writes
  cudaStream_t writer, waiter;
  NEED(cudaStreamCreateWithFlags(&writer, cudaStreamNonBlocking));
  NEED(cudaStreamCreateWithFlags(&waiter, cudaStreamNonBlocking));
  DeviceArray<int> flag(1), data(256);
  CUdeviceptr address = reinterpret_cast<CUdeviceptr>(flag.get());
  NEED(cuStreamWaitValue32(waiter, address, 5, CU_STREAM_WAIT_VALUE_GEQ));
  NEED(cudaMemcpyAsync(data.get() + 128, data.get(), 128 * sizeof(int), cudaMemcpyDeviceToDevice, waiter));
  count_up<<<1, 128, 0, writer>>>(data.get(), 128, 1);
  CUstreamBatchMemOpParams operations[1]{};
  operations[0].writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
  operations[0].writeValue.address = address, operations[0].writeValue.value = 5;
  NEED(cuStreamBatchMemOp(writer, 1, operations, 0));
  NEED(cudaStreamSynchronize(waiter));
  auto got = data.host();
  for (auto stream : {writer, waiter}) NEED(cudaStreamDestroy(stream));
  bool right = true;
  for (int i = 0; i < 256; i++) right &= got[i] == i % 128 + 1;
  return {right, hash_of(got)};
}

Result pointer_attributes() {
  DeviceArray<int> device(100);
  std::vector<int> pageable(100);
  int* pinned;
  NEED(cudaMallocHost(&pinned, 400));
  cudaPointerAttributes of_device, of_pinned, of_pageable;
  NEED(cudaPointerGetAttributes(&of_device, device.get() + 7));
  NEED(cudaPointerGetAttributes(&of_pinned, pinned));
  NEED(cudaPointerGetAttributes(&of_pageable, pageable.data()));
  NEED(cudaFreeHost(pinned));
  CUdeviceptr start;
  size_t size = 0;
  NEED(cuMemGetAddressRange(&start, &size, reinterpret_cast<CUdeviceptr>(device.get() + 7)));
  return {of_device.type == cudaMemoryTypeDevice && of_pinned.type == cudaMemoryTypeHost && of_pageable.type == cudaMemoryTypeUnregistered &&
              start == reinterpret_cast<CUdeviceptr>(device.get()) && size >= 400,
          size};
}

Result priorities() {
  int least = 0, greatest = 0, got = 0;
  cudaStream_t stream;
  NEED(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  NEED(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest));
  NEED(cudaStreamGetPriority(stream, &got));
  NEED(cudaStreamDestroy(stream));
  return {least == 0 && greatest < 0 && got == greatest, uint64_t(-greatest)};
}

__global__ void wait_a_while(long long cycles) {
  for (long long start = clock64(); clock64() - start < cycles;) {}
}

Result event_times() {  // a kernel of 20 million cycles takes more than 5 ms by the events around it
  cudaEvent_t start, stop;
  float milliseconds = 0;
  NEED(cudaEventCreate(&start));
  NEED(cudaEventCreate(&stop));
  NEED(cudaEventRecord(start));
  wait_a_while<<<1, 1>>>(20'000'000);
  NEED(cudaEventRecord(stop));
  NEED(cudaEventSynchronize(stop));
  NEED(cudaEventElapsedTime(&milliseconds, start, stop));
  NEED(cudaEventDestroy(start));
  NEED(cudaEventDestroy(stop));
  return {milliseconds > 5 && milliseconds < 5000, 1};
}

}  // namespace

int main() {
  cudaFree(nullptr);  // makes the context that the driver's functions use
  run_case("virtual memory", virtual_memory);
  run_case("memory pool", memory_pool);
  run_case("managed memory", managed);
  run_case("mapped memory", mapped);
  run_case("texture", [] { return texture(Shape::kPlane); });
  run_case("texture of a volume", [] { return texture(Shape::kVolume); });
  run_case("texture in layers", [] { return texture(Shape::kLayers); });
  run_case("texture, filtered", filtered);
  run_case("texture with mipmaps", mipmaps);
  run_case("surface", surface);
  run_case("pointer attributes", pointer_attributes);
  run_case("stream priorities", priorities);
  run_case("event times", event_times);
  run_case("texture of a cube", [] { return texture(Shape::kCube); });
  run_case("green context", green_context);
  run_case("stream memory operations", stream_memory_operations);
}
