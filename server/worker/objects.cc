// Memory that comes as an object: arrays, mipmapped arrays, pools, and physical memory (cuMemCreate).
#include "server/worker/session.h"

namespace bf::server {
namespace {

constexpr uint64_t kArrayGranularity = 64 << 10;  // arrays have no address; the driver packs small ones

uint64_t element_bytes(CUarray_format format, unsigned int channels) {
  switch (format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8: return channels;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF: return uint64_t{channels} * 2;
    default: return uint64_t{channels} * 4;  // 32-bit elements; planar and block formats need at most that per texel
  }
}

// Saturates, so that what overflows cannot fit.
uint64_t array_bytes(const CUDA_ARRAY3D_DESCRIPTOR& array, unsigned int levels) {
  const unsigned __int128 texels = static_cast<unsigned __int128>(std::max<size_t>(array.Width, 1)) *
                                   std::max<size_t>(array.Height, 1) * std::max<size_t>(array.Depth, 1);
  if (texels >> 48) return ~uint64_t{0} >> 1;
  uint64_t bytes = uint64_t(texels) * element_bytes(array.Format, std::max(array.NumChannels, 1u));
  if (levels > 1) bytes += bytes / 2;  // all smaller levels together: a third in 2D, less in 3D, rounded up
  return (bytes + kArrayGranularity - 1) / kArrayGranularity * kArrayGranularity;
}

// Larger than any kind of array: the driver says so before it looks for memory (580.159.04).
bool exceeds_limits(Call& call, const CUDA_ARRAY3D_DESCRIPTOR& array) {
  CUdevice device;
  if (call.driver.cuCtxGetDevice(&device) != CUDA_SUCCESS) return false;
  const auto exceeds = [&](size_t extent, CUdevice_attribute attribute) {
    int most = 0;
    return call.driver.cuDeviceGetAttribute(&most, attribute, device) == CUDA_SUCCESS && extent > size_t(most);
  };
  return exceeds(array.Width, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_WIDTH) ||
         exceeds(array.Height, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_HEIGHT) ||
         exceeds(array.Depth, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_DEPTH_ALTERNATE);
}

template <typename Handle, typename Make, typename Undo>
CUresult charged_object(Call& call, Handle* handle, uint64_t bytes, Make make, Undo undo) {
  Session& session = session_of(call);
  size_t device = 0;
  if (!session.contexts.current_device(device)) return make();
  if (!session.pools.may_fit(device, bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  const CUresult result = make();
  if (result != CUDA_SUCCESS) return result;
  if (session.charges.add({device, uint64_t(*handle), bytes, session.contexts.owner(), true})) return result;
  undo(*handle);
  *handle = {};
  return CUDA_ERROR_OUT_OF_MEMORY;
}

template <typename Free>
CUresult uncharge_object(Call& call, uint64_t key, Free free) {
  Charges& charges = session_of(call).charges;
  const auto record = charges.take(key);
  const CUresult result = free();
  if (!record) return result;
  if (result == CUDA_SUCCESS) {
    charges.settle(*record);
  } else {
    charges.restore(*record);
  }
  return result;
}

}  // namespace

// --- Arrays
// --------------------------------------------------------------------------------------------------------------

CUresult handle_cuArrayCreate_v2(Call& call, CUarray* pHandle, const CUDA_ARRAY_DESCRIPTOR* pAllocateArray) {
  if (!pAllocateArray) return CUDA_ERROR_INVALID_VALUE;
  const CUDA_ARRAY3D_DESCRIPTOR same{pAllocateArray->Width,  pAllocateArray->Height,      0,
                                     pAllocateArray->Format, pAllocateArray->NumChannels, 0};
  if (exceeds_limits(call, same)) return CUDA_ERROR_INVALID_VALUE;
  return charged_object(
      call, pHandle, array_bytes(same, 1), [&] { return call.driver.cuArrayCreate_v2(pHandle, pAllocateArray); },
      [&](CUarray array) { call.driver.cuArrayDestroy(array); });
}

CUresult handle_cuArray3DCreate_v2(Call& call, CUarray* pHandle, const CUDA_ARRAY3D_DESCRIPTOR* pAllocateArray) {
  if (!pAllocateArray || exceeds_limits(call, *pAllocateArray)) return CUDA_ERROR_INVALID_VALUE;
  return charged_object(
      call, pHandle, array_bytes(*pAllocateArray, 1),
      [&] { return call.driver.cuArray3DCreate_v2(pHandle, pAllocateArray); },
      [&](CUarray array) { call.driver.cuArrayDestroy(array); });
}

CUresult handle_cuArrayDestroy(Call& call, CUarray hArray) {
  return uncharge_object(call, uint64_t(hArray), [&] { return call.driver.cuArrayDestroy(hArray); });
}

CUresult handle_cuMipmappedArrayCreate(Call& call, CUmipmappedArray* pHandle,
                                       const CUDA_ARRAY3D_DESCRIPTOR* pMipmappedArrayDesc,
                                       unsigned int numMipmapLevels) {
  if (!pMipmappedArrayDesc || exceeds_limits(call, *pMipmappedArrayDesc)) return CUDA_ERROR_INVALID_VALUE;
  return charged_object(
      call, pHandle, array_bytes(*pMipmappedArrayDesc, numMipmapLevels),
      [&] { return call.driver.cuMipmappedArrayCreate(pHandle, pMipmappedArrayDesc, numMipmapLevels); },
      [&](CUmipmappedArray array) { call.driver.cuMipmappedArrayDestroy(array); });
}

CUresult handle_cuMipmappedArrayDestroy(Call& call, CUmipmappedArray hMipmappedArray) {
  return uncharge_object(call, uint64_t(hMipmappedArray),
                         [&] { return call.driver.cuMipmappedArrayDestroy(hMipmappedArray); });
}

// --- Pools
// ---------------------------------------------------------------------------------------------------------------

// --- Physical memory
// ----------------------------------------------------------------------------------------------------- It lives until
// it is released and no mapping is left, so that is when the partition gets it back.

CUresult handle_cuMemCreate(Call& call, CUmemGenericAllocationHandle* handle, size_t size,
                            const CUmemAllocationProp* prop, unsigned long long flags) {
  if (!prop) return CUDA_ERROR_INVALID_VALUE;
  Session& session = session_of(call);
  const auto make = [&] { return call.driver.cuMemCreate(handle, size, prop, flags); };
  // Memory of the server's host would be out of every account.
  if (prop->location.type >= CU_MEM_LOCATION_TYPE_HOST && prop->location.type <= CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT)
    return CUDA_ERROR_NOT_SUPPORTED;
  if (prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE) return make();  // the driver says what is wrong
  const size_t device = size_t(prop->location.id);
  if (device >= session.config.devices.size()) return make();  // the driver says what is wrong
  const uint64_t bytes = (uint64_t{size} + Charges::kBlockBytes - 1) / Charges::kBlockBytes * Charges::kBlockBytes;
  if (!session.pools.may_fit(device, bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  const CUresult result = make();
  if (result != CUDA_SUCCESS) return result;
  if (session.charges.add_physical(*handle, device, bytes)) return result;
  call.driver.cuMemRelease(*handle);
  *handle = 0;
  return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult handle_cuMemRelease(Call& call, CUmemGenericAllocationHandle handle) {
  const CUresult result = call.driver.cuMemRelease(handle);
  if (result == CUDA_SUCCESS) session_of(call).charges.drop_physical(handle);
  return result;
}

// Another handle for the same memory: the driver counts them.
CUresult handle_cuMemRetainAllocationHandle(Call& call, CUmemGenericAllocationHandle* handle, void* addr) {
  const CUresult result = call.driver.cuMemRetainAllocationHandle(handle, addr);
  if (result == CUDA_SUCCESS) session_of(call).charges.retain_physical(*handle, uint64_t(addr));
  return result;
}

CUresult handle_cuMemMap(Call& call, CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                         unsigned long long flags) {
  const CUresult result = call.driver.cuMemMap(ptr, size, offset, handle, flags);
  if (result == CUDA_SUCCESS) session_of(call).charges.map_physical(handle, ptr);
  return result;
}

CUresult handle_cuMemUnmap(Call& call, CUdeviceptr ptr, size_t size) {
  const CUresult result = call.driver.cuMemUnmap(ptr, size);
  if (result == CUDA_SUCCESS) session_of(call).charges.unmap_physical(ptr, size);
  return result;
}

}  // namespace bf::server
