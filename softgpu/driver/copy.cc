// What CUDA promises about asynchronous copies: the source may be changed as soon as the call returns if it is pageable
// memory, and the destination is complete when the call returns if *that* is pageable. Small pageable sources are
// staged; large ones, and pageable destinations, make the call wait. Pinned and device memory are touched when the
// stream gets there. In a capture nothing is staged: graphs read and write host memory at launch.
#include "softgpu/driver/copy.h"

#include <time.h>

#include <cstring>

#include "softgpu/driver/array.h"
#include "softgpu/driver/driver.h"
#include "softgpu/driver/graph.h"
#include "softgpu/driver/stream.h"

namespace bf::softgpu {
namespace {

constexpr uint64_t kStagedBytes = 1 << 20;

struct SideDescription {
  size_t x_bytes, y, z;
  CUmemorytype type;
  void* host;
  CUdeviceptr device;
  CUarray array;
  size_t pitch, height;
};

CUresult resolve_array(const SideDescription& side, size_t width, size_t height, size_t depth, CopySide* out) {
  out->array = arrays().find(side.array);
  if (!out->array) return CUDA_ERROR_INVALID_VALUE;
  const Array& array = *out->array;
  out->base = (uint8_t*)array.base;
  out->pitch = array.pitch();
  out->height = array.rows();
  bool inside =
      side.x_bytes + width <= array.pitch() && side.y + height <= array.rows() && side.z + depth <= array.slices();
  return inside ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult resolve_side(const SideDescription& side, size_t width, size_t height, size_t depth, CopySide* out,
                      bool* pageable) {
  out->x_bytes = side.x_bytes;
  out->y = side.y;
  out->z = side.z;
  if (side.type == CU_MEMORYTYPE_ARRAY) return resolve_array(side, width, height, depth, out);
  bool host = side.type == CU_MEMORYTYPE_HOST;
  if (!host && side.type != CU_MEMORYTYPE_DEVICE && side.type != CU_MEMORYTYPE_UNIFIED) return CUDA_ERROR_INVALID_VALUE;
  out->base = host ? (uint8_t*)side.host : (uint8_t*)side.device;
  out->pitch = side.pitch ? side.pitch : side.x_bytes + width;
  out->height = side.height ? side.height : side.y + height;
  if (height * depth > 1 && out->pitch < side.x_bytes + width) return CUDA_ERROR_INVALID_VALUE;
  if (depth > 1 && out->height < side.y + height) return CUDA_ERROR_INVALID_VALUE;
  if (width == 0 || height == 0 || depth == 0) return CUDA_SUCCESS;
  uint64_t first = uint64_t(out->row(0, 0)), end = uint64_t(out->row(height - 1, depth - 1)) + width;
  AllocationRef allocation = AddressSpace::instance().find(first);
  if (!allocation) {
    if (side.type == CU_MEMORYTYPE_DEVICE || !out->base) return CUDA_ERROR_INVALID_VALUE;
    *pageable = true;
    return CUDA_SUCCESS;
  }
  // A copy may run over several mappings of one reservation, never over the end of what CUDA knows.
  for (uint64_t covered = allocation->end(); covered < end && !allocation->host(); covered = allocation->end()) {
    allocation = AddressSpace::instance().find(covered);
    if (!allocation || allocation->kind != MemoryKind::kMapped) return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

CUDA_MEMCPY3D flat(CUmemorytype to_type, uint64_t to, CUmemorytype from_type, uint64_t from, size_t bytes) {
  CUDA_MEMCPY3D copy{};
  copy.srcMemoryType = from_type;
  copy.srcHost = (const void*)from;
  copy.srcDevice = from;
  copy.dstMemoryType = to_type;
  copy.dstHost = (void*)to;
  copy.dstDevice = to;
  copy.WidthInBytes = bytes;
  copy.Height = copy.Depth = 1;
  return copy;
}

CUresult submit(CUstream handle, const CUDA_MEMCPY3D& description, bool synchronous) {
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  ResolvedCopy copy;
  BF_TRY(resolve_copy(description, &copy));
  if (copy.work.bytes() == 0) return CUDA_SUCCESS;
  bool capturing = is_capturing(*stream);
  bool wait = synchronous || (copy.pageable_destination && !capturing);
  if (!synchronous && copy.pageable_source && !capturing && !wait) {
    uint64_t bytes = copy.work.bytes();
    if (bytes > kStagedBytes) {
      wait = true;
    } else {
      auto staged = std::make_shared<std::vector<uint8_t>>(bytes);
      CopyWork stage = copy.work;
      stage.destination = {};
      stage.destination.base = staged->data();
      stage.destination.pitch = stage.width_bytes;
      stage.destination.height = stage.height;
      for (size_t z = 0; z < stage.depth; z++)
        for (size_t y = 0; y < stage.height; y++)
          memcpy(stage.destination.row(y, z), stage.source.row(y, z), stage.width_bytes);
      copy.work.source = stage.destination;
      copy.work.staged = std::move(staged);
    }
  }
  return enqueue(stream, std::move(copy.work), wait ? Delivery::kWait : Delivery::kAsync);
}

CUDA_MEMCPY3D widen(const CUDA_MEMCPY2D& copy) {
  CUDA_MEMCPY3D wide{};
  wide.srcXInBytes = copy.srcXInBytes;
  wide.srcY = copy.srcY;
  wide.srcMemoryType = copy.srcMemoryType;
  wide.srcHost = copy.srcHost;
  wide.srcDevice = copy.srcDevice;
  wide.srcArray = copy.srcArray;
  wide.srcPitch = copy.srcPitch;
  wide.dstXInBytes = copy.dstXInBytes;
  wide.dstY = copy.dstY;
  wide.dstMemoryType = copy.dstMemoryType;
  wide.dstHost = copy.dstHost;
  wide.dstDevice = copy.dstDevice;
  wide.dstArray = copy.dstArray;
  wide.dstPitch = copy.dstPitch;
  wide.WidthInBytes = copy.WidthInBytes;
  wide.Height = copy.Height;
  wide.Depth = 1;
  return wide;
}

// The peer form differs in two context fields where the plain one has reserved words.
CUDA_MEMCPY3D narrow(const CUDA_MEMCPY3D_PEER& copy) {
  static_assert(sizeof(CUDA_MEMCPY3D) == sizeof(CUDA_MEMCPY3D_PEER));
  CUDA_MEMCPY3D plain;
  memcpy(&plain, &copy, sizeof plain);
  plain.reserved0 = plain.reserved1 = nullptr;
  return plain;
}

// 1D offsets into arrays count bytes through the rows; a piece may not leave its row.
CUDA_MEMCPY3D with_array(CUDA_MEMCPY3D copy, CUarray source, size_t source_offset, CUarray destination,
                         size_t destination_offset) {
  if (source) {
    copy.srcMemoryType = CU_MEMORYTYPE_ARRAY;
    copy.srcArray = source;
    copy.srcXInBytes = source_offset;
  }
  if (destination) {
    copy.dstMemoryType = CU_MEMORYTYPE_ARRAY;
    copy.dstArray = destination;
    copy.dstXInBytes = destination_offset;
  }
  return copy;
}

constexpr auto kHost = CU_MEMORYTYPE_HOST;
constexpr auto kDevice = CU_MEMORYTYPE_DEVICE;
constexpr auto kUnified = CU_MEMORYTYPE_UNIFIED;

}  // namespace

CUresult resolve_copy(const CUDA_MEMCPY3D& d, ResolvedCopy* copy) {
  copy->work.description = d;
  copy->work.width_bytes = d.WidthInBytes;
  copy->work.height = d.Height;
  copy->work.depth = d.Depth;
  SideDescription source{d.srcXInBytes, d.srcY,     d.srcZ,     d.srcMemoryType, const_cast<void*>(d.srcHost),
                         d.srcDevice,   d.srcArray, d.srcPitch, d.srcHeight};
  SideDescription destination{d.dstXInBytes, d.dstY,     d.dstZ,     d.dstMemoryType, d.dstHost,
                              d.dstDevice,   d.dstArray, d.dstPitch, d.dstHeight};
  BF_TRY(resolve_side(source, d.WidthInBytes, d.Height, d.Depth, &copy->work.source, &copy->pageable_source));
  return resolve_side(destination, d.WidthInBytes, d.Height, d.Depth, &copy->work.destination,
                      &copy->pageable_destination);
}

void run_copy(Context&, const CopyWork& work) {
  if (uint64_t slow = faults().slow_copy_us_per_mib) {
    uint64_t ns = work.bytes() * slow * 1000 >> 20;
    timespec pause{time_t(ns / 1'000'000'000), long(ns % 1'000'000'000)};
    nanosleep(&pause, nullptr);
  }
  bool dense = work.source.pitch == work.width_bytes && work.destination.pitch == work.width_bytes;
  for (size_t z = 0; z < work.depth; z++) {
    if (dense) {
      memmove(work.destination.row(0, z), work.source.row(0, z), work.width_bytes * work.height);
      continue;
    }
    for (size_t y = 0; y < work.height; y++)
      memmove(work.destination.row(y, z), work.source.row(y, z), work.width_bytes);
  }
}

// ------------------------------------------------------------------------------------------------------------- 1D
// copies

BF_API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
  BF_ENTER();
  return submit(nullptr, flat(kDevice, to, kHost, uint64_t(from), bytes), true);
}
BF_API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  BF_ENTER();
  return submit(stream, flat(kDevice, to, kHost, uint64_t(from), bytes), false);
}
BF_API CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
  BF_ENTER();
  return submit(nullptr, flat(kHost, uint64_t(to), kDevice, from, bytes), true);
}
BF_API CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  BF_ENTER();
  return submit(stream, flat(kHost, uint64_t(to), kDevice, from, bytes), false);
}

// Between device addresses even the synchronous form does not wait, but is ordered by the default stream.
BF_API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  BF_ENTER();
  return submit(stream, flat(kDevice, to, kDevice, from, bytes), false);
}
BF_API CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  BF_ENTER();
  BF_TRY(refuse_implicit_capture());
  return cuMemcpyDtoDAsync_v2(to, from, bytes, nullptr);
}
BF_API CUresult cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  BF_ENTER();
  return submit(nullptr, flat(kUnified, to, kUnified, from, bytes), true);
}
BF_API CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  BF_ENTER();
  return submit(stream, flat(kUnified, to, kUnified, from, bytes), false);
}

BF_API CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context,
                                  size_t bytes, CUstream stream) {
  BF_ENTER();
  ContextRef context;
  BF_TRY(find_context(to_context, &context));
  BF_TRY(find_context(from_context, &context));
  return submit(stream, flat(kDevice, to, kDevice, from, bytes), false);
}
BF_API CUresult cuMemcpyPeer(CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context,
                             size_t bytes) {
  BF_ENTER();
  // Orders after everything on both devices.
  for (CUcontext handle : {to_context, from_context}) {
    ContextRef context;
    BF_TRY(find_context(handle, &context));
    BF_TRY(synchronize(*context));
  }
  return submit(nullptr, flat(kDevice, to, kDevice, from, bytes), true);
}

// ---------------------------------------------------------------------------------------------------- 1D copies of
// arrays

BF_API CUresult cuMemcpyDtoA_v2(CUarray to, size_t offset, CUdeviceptr from, size_t bytes) {
  BF_ENTER();
  return submit(nullptr, with_array(flat(kDevice, 0, kDevice, from, bytes), nullptr, 0, to, offset), true);
}
BF_API CUresult cuMemcpyAtoD_v2(CUdeviceptr to, CUarray from, size_t offset, size_t bytes) {
  BF_ENTER();
  return submit(nullptr, with_array(flat(kDevice, to, kDevice, 0, bytes), from, offset, nullptr, 0), true);
}
BF_API CUresult cuMemcpyHtoAAsync_v2(CUarray to, size_t offset, const void* from, size_t bytes, CUstream stream) {
  BF_ENTER();
  return submit(stream, with_array(flat(kDevice, 0, kHost, uint64_t(from), bytes), nullptr, 0, to, offset), false);
}
BF_API CUresult cuMemcpyHtoA_v2(CUarray to, size_t offset, const void* from, size_t bytes) {
  BF_ENTER();
  return submit(nullptr, with_array(flat(kDevice, 0, kHost, uint64_t(from), bytes), nullptr, 0, to, offset), true);
}
BF_API CUresult cuMemcpyAtoHAsync_v2(void* to, CUarray from, size_t offset, size_t bytes, CUstream stream) {
  BF_ENTER();
  return submit(stream, with_array(flat(kHost, uint64_t(to), kDevice, 0, bytes), from, offset, nullptr, 0), false);
}
BF_API CUresult cuMemcpyAtoH_v2(void* to, CUarray from, size_t offset, size_t bytes) {
  BF_ENTER();
  return submit(nullptr, with_array(flat(kHost, uint64_t(to), kDevice, 0, bytes), from, offset, nullptr, 0), true);
}
BF_API CUresult cuMemcpyAtoA_v2(CUarray to, size_t to_offset, CUarray from, size_t from_offset, size_t bytes) {
  BF_ENTER();
  return submit(nullptr, with_array(flat(kDevice, 0, kDevice, 0, bytes), from, from_offset, to, to_offset), true);
}

// ------------------------------------------------------------------------------------------------------- 2D and 3D
// copies

BF_API CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* copy, CUstream stream) {
  BF_ENTER();
  return copy ? submit(stream, widen(*copy), false) : CUDA_ERROR_INVALID_VALUE;
}
BF_API CUresult cuMemcpy2D_v2(const CUDA_MEMCPY2D* copy) {
  BF_ENTER();
  return copy ? submit(nullptr, widen(*copy), true) : CUDA_ERROR_INVALID_VALUE;
}
BF_API CUresult cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D* copy) {
  BF_ENTER();
  return cuMemcpy2D_v2(copy);
}
BF_API CUresult cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D* copy, CUstream stream) {
  BF_ENTER();
  return copy ? submit(stream, *copy, false) : CUDA_ERROR_INVALID_VALUE;
}
BF_API CUresult cuMemcpy3D_v2(const CUDA_MEMCPY3D* copy) {
  BF_ENTER();
  return copy ? submit(nullptr, *copy, true) : CUDA_ERROR_INVALID_VALUE;
}
BF_API CUresult cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D_PEER* copy, CUstream stream) {
  BF_ENTER();
  return copy ? submit(stream, narrow(*copy), false) : CUDA_ERROR_INVALID_VALUE;
}
BF_API CUresult cuMemcpy3DPeer(const CUDA_MEMCPY3D_PEER* copy) {
  BF_ENTER();
  return copy ? submit(nullptr, narrow(*copy), true) : CUDA_ERROR_INVALID_VALUE;
}

// ---------------------------------------------------------------------------------------------------------------
// batches

namespace {

// CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL: the source is free when the call returns, wherever it lies.
bool during_call(CUmemcpySrcAccessOrder order) { return order == CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL; }

CUresult real_stream(CUstream handle) {
  return handle && handle != CU_STREAM_LEGACY ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUDA_MEMCPY3D operand_copy(const CUDA_MEMCPY3D_BATCH_OP& op, CUresult* result) {
  CUDA_MEMCPY3D copy{};
  uint32_t texel = 1;
  auto side = [&](const CUmemcpy3DOperand& operand, size_t& x, size_t& y, size_t& z, CUmemorytype& type,
                  CUdeviceptr& device, CUarray& array, size_t& pitch, size_t& height) {
    if (operand.type == CU_MEMCPY_OPERAND_TYPE_ARRAY) {
      ArrayRef found = arrays().find(operand.op.array.array);
      if (!found) *result = CUDA_ERROR_INVALID_HANDLE;
      if (found) texel = found->texel_bytes();
      type = CU_MEMORYTYPE_ARRAY;
      array = operand.op.array.array;
      x = operand.op.array.offset.x * texel;
      y = operand.op.array.offset.y;
      z = operand.op.array.offset.z;
    } else if (operand.type == CU_MEMCPY_OPERAND_TYPE_POINTER) {
      type = CU_MEMORYTYPE_UNIFIED;
      device = operand.op.ptr.ptr;
      pitch = operand.op.ptr.rowLength;
      height = operand.op.ptr.layerHeight;
    } else {
      *result = CUDA_ERROR_INVALID_VALUE;
    }
  };
  side(op.src, copy.srcXInBytes, copy.srcY, copy.srcZ, copy.srcMemoryType, copy.srcDevice, copy.srcArray, copy.srcPitch,
       copy.srcHeight);
  side(op.dst, copy.dstXInBytes, copy.dstY, copy.dstZ, copy.dstMemoryType, copy.dstDevice, copy.dstArray, copy.dstPitch,
       copy.dstHeight);
  copy.srcPitch *= texel;
  copy.dstPitch *= texel;
  copy.WidthInBytes = op.extent.width * texel;
  copy.Height = op.extent.height;
  copy.Depth = op.extent.depth;
  copy.srcHost = (const void*)copy.srcDevice;
  copy.dstHost = (void*)copy.dstDevice;
  return copy;
}

}  // namespace

BF_API CUresult cuMemcpyBatchAsync_v2(CUdeviceptr* dsts, CUdeviceptr* srcs, size_t* sizes, size_t count,
                                      CUmemcpyAttributes* attrs, size_t* attrs_indices, size_t attrs_count,
                                      CUstream stream) {
  BF_ENTER();
  if (!dsts || !srcs || !sizes || count == 0 || attrs_count > count) return CUDA_ERROR_INVALID_VALUE;
  if (attrs_count && (!attrs || !attrs_indices || attrs_indices[0] != 0)) return CUDA_ERROR_INVALID_VALUE;
  BF_TRY(real_stream(stream));
  size_t attribute = 0;
  for (size_t i = 0; i < count; i++) {
    while (attribute + 1 < attrs_count && attrs_indices[attribute + 1] <= i) attribute++;
    bool now = attrs_count && during_call(attrs[attribute].srcAccessOrder);
    BF_TRY(submit(stream, flat(kUnified, dsts[i], kUnified, srcs[i], sizes[i]), now));
  }
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemcpyBatchAsync(CUdeviceptr* dsts, CUdeviceptr* srcs, size_t* sizes, size_t count,
                                   CUmemcpyAttributes* attrs, size_t* attrs_indices, size_t attrs_count,
                                   size_t* fail_index, CUstream stream) {
  BF_ENTER();
  if (fail_index) *fail_index = SIZE_MAX;
  return cuMemcpyBatchAsync_v2(dsts, srcs, sizes, count, attrs, attrs_indices, attrs_count, stream);
}

BF_API CUresult cuMemcpy3DBatchAsync_v2(size_t count, CUDA_MEMCPY3D_BATCH_OP* operations, unsigned long long flags,
                                        CUstream stream) {
  BF_ENTER();
  if (count == 0 || !operations || flags) return CUDA_ERROR_INVALID_VALUE;
  BF_TRY(real_stream(stream));
  for (size_t i = 0; i < count; i++) {
    CUresult result = CUDA_SUCCESS;
    CUDA_MEMCPY3D copy = operand_copy(operations[i], &result);
    BF_TRY(result);
    BF_TRY(submit(stream, copy, during_call(operations[i].srcAccessOrder)));
  }
  return CUDA_SUCCESS;
}

BF_API CUresult cuMemcpy3DBatchAsync(size_t count, CUDA_MEMCPY3D_BATCH_OP* operations, size_t* fail_index,
                                     unsigned long long flags, CUstream stream) {
  BF_ENTER();
  if (fail_index) *fail_index = SIZE_MAX;
  return cuMemcpy3DBatchAsync_v2(count, operations, flags, stream);
}

}  // namespace bf::softgpu
