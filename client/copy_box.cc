// 2D, 3D and array copies. Every one becomes a box copy; a host side travels dense.
#include "api/remote.h"
#include "client/capture.h"
#include "client/contexts.h"
#include "client/copies.h"
#include "client/mirrors.h"

namespace bf::client {

namespace {

CUstream default_stream() { return per_thread() ? CU_STREAM_PER_THREAD : nullptr; }

struct Side {
  CUmemorytype& type;
  CUdeviceptr& device;
  CUarray& array;
  void* host;
  size_t x, y, z;
  size_t& pitch;
  size_t& height;
};

// Decides a unified side, fills in a pitch and height left 0, and checks that the box lies in its memory.
CUresult settle_side(Side side, const CUDA_MEMCPY3D& box, HostLayout* layout, bool* is_host) {
  *is_host = false;
  if (side.type == CU_MEMORYTYPE_ARRAY) return side.array ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
  if (side.type == CU_MEMORYTYPE_UNIFIED || side.type == CU_MEMORYTYPE_HOST) {
    // Mirrored host memory is the worker's to copy; pinned memory that it does not have is ours, whatever it is called.
    const uint64_t address = side.type == CU_MEMORYTYPE_HOST ? value_of(side.host) : side.device;
    auto range = state().ranges.find(address);
    side.type = range && range->reachable() ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
    side.host = reinterpret_cast<void*>(address);
    if (side.type == CU_MEMORYTYPE_DEVICE) side.device = address;
  }
  const bool rows = box.Height > 1 || box.Depth > 1 || side.y > 0 || side.z > 0;
  if (side.pitch == 0) side.pitch = side.x + box.WidthInBytes;
  if (side.height == 0) side.height = side.y + box.Height;
  if (rows && side.pitch < side.x + box.WidthInBytes) return CUDA_ERROR_INVALID_VALUE;
  if (box.Depth > 1 && side.height < side.y + box.Height) return CUDA_ERROR_INVALID_VALUE;
  HostLayout shape;
  shape.row_bytes = box.WidthInBytes;
  shape.rows = box.Height;
  shape.slices = box.Depth;
  shape.pitch = side.pitch;
  if (__builtin_mul_overflow(side.pitch, side.height, &shape.slice_pitch)) return CUDA_ERROR_INVALID_VALUE;
  const size_t offset = side.z * shape.slice_pitch + side.y * side.pitch + side.x;
  if (side.type == CU_MEMORYTYPE_HOST) {
    if (!side.host) return CUDA_ERROR_INVALID_VALUE;
    shape.base = static_cast<std::byte*>(side.host) + offset;
    *layout = shape;
    *is_host = true;
    return CUDA_SUCCESS;
  }
  if (side.type != CU_MEMORYTYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
  bool inside = state().ranges.device_covers(side.device + offset, shape.extent());
  return inside ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult copy_box(const CUDA_MEMCPY3D* given, CUstream stream, Wait wait) {
  if (!given) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  if (CUresult result = need_stream(stream); result != CUDA_SUCCESS) return result;
  if (given->WidthInBytes == 0 || given->Height == 0 || given->Depth == 0) return CUDA_SUCCESS;
  if (CUresult result = check_legacy(stream); result != CUDA_SUCCESS) return result;
  Box box;
  if (CUresult result = make_box(*given, &box); result != CUDA_SUCCESS) return result;
  if (box.from_host && box.to_host) {
    if (capture_of(stream)) return CUDA_ERROR_NOT_SUPPORTED;
    CUresult result = Session::get()->take_async_error(remote_cuStreamSynchronize(stream));
    if (result != CUDA_SUCCESS) return result;
    std::vector<std::byte> row(box.copy.WidthInBytes);
    for (size_t at = 0; at < box.source.bytes(); at += row.size()) {
      box.source.gather(at, row.data(), row.size());
      box.destination.scatter(at, row.data(), row.size());
    }
    return CUDA_SUCCESS;
  }
  if (CUresult result = publish_changes(stream); result != CUDA_SUCCESS) return result;
  if (box.from_host) return copy_box_to_device(box.source, box.copy, stream, wait);
  if (box.to_host) return copy_box_from_device(box.destination, box.copy, stream, wait);
  return wait == Wait::kYes ? remote_cuMemcpy3D_v2(&box.copy, 0, 0, Payload())
                            : post_cuMemcpy3DAsync_v2(&box.copy, stream, 0, 0, Payload());
}

CUDA_MEMCPY3D from_2d(const CUDA_MEMCPY2D& flat) {
  CUDA_MEMCPY3D copy{};
  copy.srcXInBytes = flat.srcXInBytes;
  copy.srcY = flat.srcY;
  copy.srcMemoryType = flat.srcMemoryType;
  copy.srcHost = flat.srcHost;
  copy.srcDevice = flat.srcDevice;
  copy.srcArray = flat.srcArray;
  copy.srcPitch = flat.srcPitch;
  copy.dstXInBytes = flat.dstXInBytes;
  copy.dstY = flat.dstY;
  copy.dstMemoryType = flat.dstMemoryType;
  copy.dstHost = flat.dstHost;
  copy.dstDevice = flat.dstDevice;
  copy.dstArray = flat.dstArray;
  copy.dstPitch = flat.dstPitch;
  copy.WidthInBytes = flat.WidthInBytes;
  copy.Height = flat.Height;
  copy.Depth = 1;
  return copy;
}

// A copy of `bytes` with one or two array sides at byte offsets of their first row.
CUresult copy_array(CUarray dst_array, size_t dst_offset, uint64_t dst, CUmemorytype dst_type, CUarray src_array,
                    size_t src_offset, uint64_t src, CUmemorytype src_type, size_t bytes, CUstream stream, Wait wait) {
  CUDA_MEMCPY3D copy{};
  copy.dstMemoryType = dst_type;
  copy.dstArray = dst_array;
  copy.dstXInBytes = dst_offset;
  copy.dstDevice = dst;
  copy.dstHost = reinterpret_cast<void*>(dst);
  copy.srcMemoryType = src_type;
  copy.srcArray = src_array;
  copy.srcXInBytes = src_offset;
  copy.srcDevice = src;
  copy.srcHost = reinterpret_cast<void*>(src);
  copy.WidthInBytes = bytes;
  copy.Height = copy.Depth = 1;
  return copy_box(&copy, stream, wait);
}

}  // namespace

CUresult make_box(const CUDA_MEMCPY3D& given, Box* box) {
  box->copy = given;
  CUDA_MEMCPY3D& copy = box->copy;
  Side source{copy.srcMemoryType, copy.srcDevice, copy.srcArray, const_cast<void*>(copy.srcHost),
              copy.srcXInBytes,   copy.srcY,      copy.srcZ,     copy.srcPitch,
              copy.srcHeight};
  CUresult result = settle_side(source, copy, &box->source, &box->from_host);
  if (result != CUDA_SUCCESS) return result;
  Side destination{copy.dstMemoryType, copy.dstDevice, copy.dstArray, copy.dstHost,  copy.dstXInBytes,
                   copy.dstY,          copy.dstZ,      copy.dstPitch, copy.dstHeight};
  return settle_side(destination, copy, &box->destination, &box->to_host);
}

CUresult handle_cuMemcpy3D_v2(const CUDA_MEMCPY3D* pCopy) noexcept { return copy_box(pCopy, default_stream(), Wait::kYes); }
CUresult handle_cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D* pCopy, CUstream hStream) noexcept {
  return copy_box(pCopy, hStream, Wait::kNo);
}

CUresult handle_cuMemcpy2D_v2(const CUDA_MEMCPY2D* pCopy) noexcept {
  if (!pCopy) return CUDA_ERROR_INVALID_VALUE;
  CUDA_MEMCPY3D copy = from_2d(*pCopy);
  return copy_box(&copy, default_stream(), Wait::kYes);
}
CUresult handle_cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D* pCopy) noexcept { return handle_cuMemcpy2D_v2(pCopy); }
CUresult handle_cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* pCopy, CUstream hStream) noexcept {
  if (!pCopy) return CUDA_ERROR_INVALID_VALUE;
  CUDA_MEMCPY3D copy = from_2d(*pCopy);
  return copy_box(&copy, hStream, Wait::kNo);
}

CUresult handle_cuMemcpyHtoA_v2(CUarray dstArray, size_t dstOffset, const void* srcHost, size_t ByteCount) noexcept {
  return copy_array(dstArray, dstOffset, 0, CU_MEMORYTYPE_ARRAY, nullptr, 0, value_of(srcHost), CU_MEMORYTYPE_HOST,
                    ByteCount, default_stream(), Wait::kYes);
}
CUresult handle_cuMemcpyHtoAAsync_v2(CUarray dstArray, size_t dstOffset, const void* srcHost, size_t ByteCount,
                                     CUstream hStream) noexcept {
  return copy_array(dstArray, dstOffset, 0, CU_MEMORYTYPE_ARRAY, nullptr, 0, value_of(srcHost), CU_MEMORYTYPE_HOST,
                    ByteCount, hStream, Wait::kNo);
}
CUresult handle_cuMemcpyAtoH_v2(void* dstHost, CUarray srcArray, size_t srcOffset, size_t ByteCount) noexcept {
  return copy_array(nullptr, 0, value_of(dstHost), CU_MEMORYTYPE_HOST, srcArray, srcOffset, 0, CU_MEMORYTYPE_ARRAY,
                    ByteCount, default_stream(), Wait::kYes);
}
CUresult handle_cuMemcpyAtoHAsync_v2(void* dstHost, CUarray srcArray, size_t srcOffset, size_t ByteCount,
                                     CUstream hStream) noexcept {
  return copy_array(nullptr, 0, value_of(dstHost), CU_MEMORYTYPE_HOST, srcArray, srcOffset, 0, CU_MEMORYTYPE_ARRAY,
                    ByteCount, hStream, Wait::kNo);
}
CUresult handle_cuMemcpyAtoD_v2(CUdeviceptr dstDevice, CUarray srcArray, size_t srcOffset, size_t ByteCount) noexcept {
  return copy_array(nullptr, 0, dstDevice, CU_MEMORYTYPE_DEVICE, srcArray, srcOffset, 0, CU_MEMORYTYPE_ARRAY, ByteCount,
                    default_stream(), Wait::kYes);
}
CUresult handle_cuMemcpyDtoA_v2(CUarray dstArray, size_t dstOffset, CUdeviceptr srcDevice, size_t ByteCount) noexcept {
  return copy_array(dstArray, dstOffset, 0, CU_MEMORYTYPE_ARRAY, nullptr, 0, srcDevice, CU_MEMORYTYPE_DEVICE, ByteCount,
                    default_stream(), Wait::kYes);
}
CUresult handle_cuMemcpyAtoA_v2(CUarray dstArray, size_t dstOffset, CUarray srcArray, size_t srcOffset,
                                size_t ByteCount) noexcept {
  return copy_array(dstArray, dstOffset, 0, CU_MEMORYTYPE_ARRAY, srcArray, srcOffset, 0, CU_MEMORYTYPE_ARRAY, ByteCount,
                    default_stream(), Wait::kYes);
}

}  // namespace bf::client
