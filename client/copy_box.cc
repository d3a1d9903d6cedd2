// 2D, 3D and array copies. Every one becomes a box copy; a host side travels dense.
#include "api/remote.h"
#include "client/capture.h"
#include "client/contexts.h"
#include "client/copies.h"
#include "client/mirrors.h"

namespace bf::client {

namespace {

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
  if (side.type == CU_MEMORYTYPE_ARRAY) return side.array ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
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
    if (CUresult result = synchronize(stream); result != CUDA_SUCCESS) return result;
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

// Under unified addressing the driver knows where every pointer lies; the contexts say nothing more, and may be NULL
// (580.159.04).
CUresult copy_peer(const CUDA_MEMCPY3D_PEER* given, CUstream stream, Wait wait) {
  if (!given) return CUDA_ERROR_INVALID_VALUE;
  for (CUcontext context : {given->srcContext, given->dstContext}) {
    if (context && !state().contexts.find(value_of(context))) return CUDA_ERROR_INVALID_CONTEXT;
  }
  CUDA_MEMCPY3D copy{};
  copy.srcXInBytes = given->srcXInBytes;
  copy.srcY = given->srcY;
  copy.srcZ = given->srcZ;
  copy.srcLOD = given->srcLOD;
  copy.srcMemoryType = given->srcMemoryType;
  copy.srcHost = given->srcHost;
  copy.srcDevice = given->srcDevice;
  copy.srcArray = given->srcArray;
  copy.srcPitch = given->srcPitch;
  copy.srcHeight = given->srcHeight;
  copy.dstXInBytes = given->dstXInBytes;
  copy.dstY = given->dstY;
  copy.dstZ = given->dstZ;
  copy.dstLOD = given->dstLOD;
  copy.dstMemoryType = given->dstMemoryType;
  copy.dstHost = given->dstHost;
  copy.dstDevice = given->dstDevice;
  copy.dstArray = given->dstArray;
  copy.dstPitch = given->dstPitch;
  copy.dstHeight = given->dstHeight;
  copy.WidthInBytes = given->WidthInBytes;
  copy.Height = given->Height;
  copy.Depth = given->Depth;
  return copy_box(&copy, stream, wait);
}

CUresult handle_cuMemcpy3DPeer(const CUDA_MEMCPY3D_PEER* pCopy) noexcept { return copy_peer(pCopy, default_stream(), Wait::kYes); }
CUresult handle_cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D_PEER* pCopy, CUstream hStream) noexcept {
  return copy_peer(pCopy, hStream, Wait::kNo);
}

namespace {

size_t format_bytes(CUarray_format format) {
  switch (format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8: return 1;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF: return 2;
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_FLOAT: return 4;
    default: return 0;
  }
}

// Extents, rows and offsets of a batch are counted in elements: an array's, or bytes between plain memory (cuda.h 13.0).
CUresult element_bytes(const CUDA_MEMCPY3D_BATCH_OP& operation, size_t* bytes) {
  *bytes = 1;
  for (const CUmemcpy3DOperand* operand : {&operation.src, &operation.dst}) {
    if (operand->type == CU_MEMCPY_OPERAND_TYPE_POINTER) continue;
    if (operand->type != CU_MEMCPY_OPERAND_TYPE_ARRAY) return CUDA_ERROR_INVALID_VALUE;
    CUDA_ARRAY3D_DESCRIPTOR description{};
    CUresult result = remote_cuArray3DGetDescriptor_v2(&description, operand->op.array.array);
    if (result != CUDA_SUCCESS) return result;
    const size_t size = format_bytes(description.Format) * description.NumChannels;
    if (size == 0) return CUDA_ERROR_NOT_SUPPORTED;
    if (*bytes != 1 && *bytes != size) return CUDA_ERROR_INVALID_VALUE;
    *bytes = size;
  }
  return CUDA_SUCCESS;
}

CUresult as_box(const CUDA_MEMCPY3D_BATCH_OP& operation, CUDA_MEMCPY3D* copy) {
  const CUextent3D& extent = operation.extent;
  if (extent.width == 0 || extent.height == 0 || extent.depth == 0) return CUDA_ERROR_INVALID_VALUE;
  size_t unit;
  if (CUresult result = element_bytes(operation, &unit); result != CUDA_SUCCESS) return result;
  *copy = {};
  copy->WidthInBytes = extent.width * unit;
  copy->Height = extent.height;
  copy->Depth = extent.depth;
  if (operation.src.type == CU_MEMCPY_OPERAND_TYPE_ARRAY) {
    const auto& side = operation.src.op.array;
    copy->srcMemoryType = CU_MEMORYTYPE_ARRAY;
    copy->srcArray = side.array;
    copy->srcXInBytes = side.offset.x * unit;
    copy->srcY = side.offset.y;
    copy->srcZ = side.offset.z;
  } else {
    const auto& side = operation.src.op.ptr;
    copy->srcMemoryType = CU_MEMORYTYPE_UNIFIED;
    copy->srcDevice = side.ptr;
    copy->srcPitch = side.rowLength * unit;
    copy->srcHeight = side.layerHeight;
  }
  if (operation.dst.type == CU_MEMCPY_OPERAND_TYPE_ARRAY) {
    const auto& side = operation.dst.op.array;
    copy->dstMemoryType = CU_MEMORYTYPE_ARRAY;
    copy->dstArray = side.array;
    copy->dstXInBytes = side.offset.x * unit;
    copy->dstY = side.offset.y;
    copy->dstZ = side.offset.z;
  } else {
    const auto& side = operation.dst.op.ptr;
    copy->dstMemoryType = CU_MEMORYTYPE_UNIFIED;
    copy->dstDevice = side.ptr;
    copy->dstPitch = side.rowLength * unit;
    copy->dstHeight = side.layerHeight;
  }
  return CUDA_SUCCESS;
}

}  // namespace

CUresult handle_cuMemcpy3DBatchAsync_v2(size_t numOps, CUDA_MEMCPY3D_BATCH_OP* opList, unsigned long long flags,
                                        CUstream hStream) noexcept {
  if (numOps == 0 || !opList || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (!hStream || hStream == CU_STREAM_LEGACY) return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < numOps; ++i) {
    CUDA_MEMCPY3D copy;
    if (CUresult result = as_box(opList[i], &copy); result != CUDA_SUCCESS) return result;
    if (CUresult result = copy_box(&copy, hStream, Wait::kNo); result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

CUresult handle_cuMemcpy3DBatchAsync(size_t numOps, CUDA_MEMCPY3D_BATCH_OP* opList, size_t* failIdx, unsigned long long flags,
                                     CUstream hStream) noexcept {
  if (failIdx) *failIdx = SIZE_MAX;  // "no particular copy failed"
  return handle_cuMemcpy3DBatchAsync_v2(numOps, opList, flags, hStream);
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
