// Host-to-device: up to kInlineBytes inside the call's frame, more as a bulk transfer straight from the program's memory.
// Device-to-host: a ticket names where the bytes land; a reply that lets the program see the copy's completion comes
// after them. While a stream captures, host memory is read and written at launch instead, through staging.
#include "client/copies.h"

#include <cstring>
#include <utility>

#include "api/remote.h"
#include "client/capture.h"
#include "client/contexts.h"
#include "client/mirrors.h"

namespace bf::client {

namespace {

Session& session() { return *Session::get(); }

// Host memory that is still to be written in stream order must be so before it is read here: by copies that have not
// landed, and by host functions.
CUresult settle_source(const void* data, size_t bytes, CUstream stream) {
  if (!session().landing().overlaps(data, bytes) && !session().callbacks().outstanding()) [[likely]] return CUDA_SUCCESS;
  return synchronize(stream);
}

bool device_covers(CUdeviceptr address, size_t bytes) { return state().ranges.device_covers(address, bytes); }

// Does the worker have the memory? Then it copies it, in stream order, whatever the program calls it.
bool on_worker(uint64_t address) {
  auto range = state().ranges.find(address);
  return range && range->reachable();
}

bool is_mirrored(uint64_t address) {
  if (!state().ranges.any_mirrored()) return false;
  auto range = state().ranges.find(address);
  return range && range->mirrored;
}

// Is a side that the call says is the device's in pinned memory that the device does not reach? Legal, as all memory has
// one address space.
bool hidden_side(uint64_t one, uint64_t other = 0) {
  const RangeTable& ranges = state().ranges;
  return ranges.any_hidden() && (ranges.hidden(one) || ranges.hidden(other));
}

// A copy by the worker alone.
CUresult copy_on_worker(CUdeviceptr destination, CUdeviceptr source, size_t bytes, CUstream stream, Wait wait) {
  if (!device_covers(source, bytes) || !device_covers(destination, bytes)) return CUDA_ERROR_INVALID_VALUE;
  const bool host = is_mirrored(source) || is_mirrored(destination);
  if (host) {
    if (CUresult result = publish_changes(stream); result != CUDA_SUCCESS) return result;
  }
  if (wait == Wait::kNo) return post_cuMemcpyDtoDAsync_v2(destination, source, bytes, stream);
  CUresult result = post_cuMemcpyDtoD_v2(destination, source, bytes);
  return host && result == CUDA_SUCCESS ? synchronize(stream) : result;  // between GPUs' memory it does not wait
}

CUDA_MEMCPY3D linear_box(size_t bytes) {
  CUDA_MEMCPY3D copy{};
  copy.WidthInBytes = bytes;
  copy.Height = copy.Depth = 1;
  return copy;
}

// Captures a copy between the device side of `copy` (linear: `address`) and staging that stands for `host`.
CUresult capture_copy(Capture& capture, const HostLayout& host, CUDA_MEMCPY3D copy, CUdeviceptr address, bool to_device,
                      CUstream stream) {
  CUresult result;
  auto staging = make_staging(host, &result);
  if (!staging) return result;
  if (address) {
    result = to_device ? post_cuMemcpyDtoDAsync_v2(address, staging->address, host.bytes(), stream)
                       : post_cuMemcpyDtoDAsync_v2(staging->address, address, host.bytes(), stream);
  } else {
    put_staging(copy, to_device, staging->address);
    result = post_cuMemcpy3DAsync_v2(&copy, stream, 0, 0, Payload());
  }
  if (result == CUDA_SUCCESS) capture_add(capture, std::move(staging));
  return result;
}

// --- The two directions, linear or box ---------------------------------------------------------------------------------------

// `address` 0: the device side is that of `copy`.
CUresult send(const HostLayout& source, CUDA_MEMCPY3D copy, CUdeviceptr address, CUstream stream, Wait wait) {
  const size_t bytes = source.bytes();
  state().ranges.note_copy(value_of(source.base));
  if (auto capture = capture_of(stream); capture && wait == Wait::kNo) {
    return capture_copy(*capture, source, copy, address, true, stream);
  }
  if (CUresult result = settle_source(source.base, source.extent(), stream); result != CUDA_SUCCESS) return result;
  const bool dense = source.is_dense();
  if (bytes <= limits::kInlineBytes) {
    std::vector<std::byte> packed;
    iovec part{source.base, bytes};
    if (!dense) {
      packed.resize(bytes);
      source.gather(0, packed.data(), bytes);
      part.iov_base = packed.data();
    }
    Payload payload(&part, 1);
    CUresult result = reach_pointers({static_cast<std::byte*>(part.iov_base), bytes});
    if (result != CUDA_SUCCESS) return result;
    if (wait == Wait::kYes) {
      result = address ? remote_cuMemcpyHtoD_v2(address, nullptr, bytes, 0, payload)
                       : remote_cuMemcpy3D_v2(&copy, 0, 0, payload);
      return session().take_async_error(result);
    }
    return address ? post_cuMemcpyHtoDAsync_v2(address, nullptr, bytes, stream, 0, payload)
                   : post_cuMemcpy3DAsync_v2(&copy, stream, 0, 0, payload);
  }
  // The frame is posted even for a synchronous copy, so that the bytes can follow it; then the stream is waited for.
  auto post = [&](uint64_t transfer) {
    return address ? post_cuMemcpyHtoDAsync_v2(address, nullptr, bytes, stream, transfer, Payload())
                   : post_cuMemcpy3DAsync_v2(&copy, stream, transfer, 0, Payload());
  };
  CUresult result;
  if (dense) {
    bool hold = wait == Wait::kYes || !is_pinned(source.base, bytes);
    result = session().send_bulk(source.base, bytes, hold, nullptr, post);
  } else {
    std::shared_ptr<std::byte[]> packed(new (std::nothrow) std::byte[bytes]);
    if (!packed) return CUDA_ERROR_OUT_OF_MEMORY;
    source.gather(0, packed.get(), bytes);
    result = session().send_bulk(packed.get(), bytes, false, packed, post);
  }
  if (result == CUDA_SUCCESS && wait == Wait::kYes) result = synchronize(stream);
  return result;
}

CUresult receive(const HostLayout& destination, CUDA_MEMCPY3D copy, CUdeviceptr address, CUstream stream, Wait wait) {
  const size_t bytes = destination.bytes();
  state().ranges.note_copy(value_of(destination.base));
  if (auto capture = capture_of(stream); capture && wait == Wait::kNo) {
    return capture_copy(*capture, destination, copy, address, false, stream);
  }
  Landing& landing = session().landing();
  uint64_t ticket = landing.issue(destination);
  CUresult result;
  if (wait == Wait::kYes) {
    result = address ? remote_cuMemcpyDtoH_v2(nullptr, address, bytes, ticket)
                     : remote_cuMemcpy3D_v2(&copy, 0, ticket, Payload());
    result = session().take_async_error(result);
  } else {
    result = address ? post_cuMemcpyDtoHAsync_v2(nullptr, address, bytes, stream, ticket)
                     : post_cuMemcpy3DAsync_v2(&copy, stream, 0, ticket, Payload());
    if (result == CUDA_SUCCESS && !is_pinned(destination.base, destination.extent())) result = synchronize(stream);
  }
  if (result != CUDA_SUCCESS) landing.forget(ticket);
  return result;
}

CUresult check(CUstream stream, size_t bytes, bool* empty) {
  *empty = bytes == 0;
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  if (CUresult result = need_stream(stream); result != CUDA_SUCCESS) return result;
  return check_legacy(stream);
}

}  // namespace

CUresult synchronize(CUstream stream) {
  const uint64_t before = session().appended();
  CUresult result = session().take_async_error(remote_cuStreamSynchronize(stream));
  if (result == CUDA_SUCCESS && session().appended() == before + 1) this_thread().idle = {stream, current_context(), before + 1};
  return result;
}

bool just_synchronized(CUstream stream) {
  const auto idle = std::exchange(this_thread().idle, {});
  return idle.appended != 0 && idle.appended == session().appended() && idle.stream == stream && idle.context == current_context();
}

bool is_pinned(const void* data, size_t bytes) {
  auto range = state().ranges.find(value_of(data));
  return range && range->host() && bytes <= range->base + range->bytes - value_of(data);
}

void put_staging(CUDA_MEMCPY3D& copy, bool source, CUdeviceptr staging) {
  if (source) {
    copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.srcDevice = staging;
    copy.srcHost = nullptr;
    copy.srcXInBytes = copy.srcY = copy.srcZ = 0;
    copy.srcPitch = copy.WidthInBytes;
    copy.srcHeight = copy.Height;
  } else {
    copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.dstDevice = staging;
    copy.dstHost = nullptr;
    copy.dstXInBytes = copy.dstY = copy.dstZ = 0;
    copy.dstPitch = copy.WidthInBytes;
    copy.dstHeight = copy.Height;
  }
}

CUresult copy_box_to_device(const HostLayout& source, CUDA_MEMCPY3D copy, CUstream stream, Wait wait) {
  copy.srcMemoryType = CU_MEMORYTYPE_HOST;
  copy.srcHost = nullptr;
  copy.srcXInBytes = copy.srcY = copy.srcZ = 0;
  copy.srcPitch = copy.WidthInBytes;
  copy.srcHeight = copy.Height;
  return send(source, copy, 0, stream, wait);
}

CUresult copy_box_from_device(const HostLayout& destination, CUDA_MEMCPY3D copy, CUstream stream, Wait wait) {
  copy.dstMemoryType = CU_MEMORYTYPE_HOST;
  copy.dstHost = nullptr;
  copy.dstXInBytes = copy.dstY = copy.dstZ = 0;
  copy.dstPitch = copy.WidthInBytes;
  copy.dstHeight = copy.Height;
  return receive(destination, copy, 0, stream, wait);
}

CUresult copy_to_device(CUdeviceptr destination, const void* source, size_t bytes, CUstream stream, Wait wait) {
  bool empty;
  if (CUresult result = check(stream, bytes, &empty); result != CUDA_SUCCESS || empty) return result;
  if (hidden_side(destination)) return copy_any(destination, value_of(source), bytes, stream, wait);
  if (is_mirrored(value_of(source))) return copy_on_worker(destination, value_of(source), bytes, stream, wait);
  if (!source || !device_covers(destination, bytes)) return CUDA_ERROR_INVALID_VALUE;
  if (is_mirrored(destination)) {
    if (CUresult result = publish_changes(stream); result != CUDA_SUCCESS) return result;
  }
  return send(HostLayout::dense(source, bytes), linear_box(bytes), destination, stream, wait);
}

CUresult copy_from_device(void* destination, CUdeviceptr source, size_t bytes, CUstream stream, Wait wait) {
  bool empty;
  if (CUresult result = check(stream, bytes, &empty); result != CUDA_SUCCESS || empty) return result;
  if (hidden_side(source)) return copy_any(value_of(destination), source, bytes, stream, wait);
  if (is_mirrored(value_of(destination))) return copy_on_worker(value_of(destination), source, bytes, stream, wait);
  if (!destination || !device_covers(source, bytes)) return CUDA_ERROR_INVALID_VALUE;
  if (is_mirrored(source)) {
    if (CUresult result = publish_changes(stream); result != CUDA_SUCCESS) return result;
  }
  return receive(HostLayout::dense(destination, bytes), linear_box(bytes), source, stream, wait);
}

CUresult copy_any(uint64_t destination, uint64_t source, size_t bytes, CUstream stream, Wait wait) {
  const bool from_device = on_worker(source), to_device = on_worker(destination);
  if (from_device && !to_device) return copy_from_device(reinterpret_cast<void*>(destination), source, bytes, stream, wait);
  if (!from_device && to_device) return copy_to_device(destination, reinterpret_cast<void*>(source), bytes, stream, wait);
  bool empty;
  if (CUresult result = check(stream, bytes, &empty); result != CUDA_SUCCESS || empty) return result;
  if (from_device) return copy_on_worker(destination, source, bytes, stream, wait);
  if (!source || !destination) return CUDA_ERROR_INVALID_VALUE;
  if (capture_of(stream)) return CUDA_ERROR_NOT_SUPPORTED;
  if (CUresult result = synchronize(stream); result != CUDA_SUCCESS) return result;
  std::memmove(reinterpret_cast<void*>(destination), reinterpret_cast<void*>(source), bytes);
  return CUDA_SUCCESS;
}

// A copy out of the graph that may not happen is given what it would write over.
CUresult copy_graph_inputs(const GraphExec& exec, CUstream stream) {
  for (const StagedCopy& copy : exec.copies) {
    const bool may_not_happen = (copy.flags & GraphPart::kMaybeSkipped) || exec.skips_nodes;
    if (!(copy.flags & GraphPart::kReadsHost) && !may_not_happen) continue;
    const Staging& staging = *copy.staging;
    CUresult result = send(staging.host, linear_box(staging.host.bytes()), staging.address, stream, Wait::kNo);
    if (result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

// Unlike a copy that the program asks for, one into pageable memory does not hold up the launch: the bytes land before
// the program can see that the graph has completed.
CUresult copy_graph_outputs(const GraphExec& exec, CUstream stream) {
  Landing& landing = session().landing();
  for (const StagedCopy& copy : exec.copies) {
    if (!(copy.flags & GraphPart::kWritesHost) || (copy.flags & GraphPart::kDelivered)) continue;
    const Staging& staging = *copy.staging;
    uint64_t ticket = landing.issue(staging.host);
    CUresult result = post_cuMemcpyDtoHAsync_v2(nullptr, staging.address, staging.host.bytes(), stream, ticket);
    if (result != CUDA_SUCCESS) {
      landing.forget(ticket);
      return result;
    }
  }
  return CUDA_SUCCESS;
}

// --- Linear copies ---------------------------------------------------------------------------------------------------------------

CUresult handle_cuMemcpyHtoD_v2(CUdeviceptr dstDevice, const void* srcHost, size_t ByteCount) noexcept {
  return copy_to_device(dstDevice, srcHost, ByteCount, default_stream(), Wait::kYes);
}
CUresult handle_cuMemcpyHtoDAsync_v2(CUdeviceptr dstDevice, const void* srcHost, size_t ByteCount, CUstream hStream) noexcept {
  return copy_to_device(dstDevice, srcHost, ByteCount, hStream, Wait::kNo);
}
CUresult handle_cuMemcpyDtoH_v2(void* dstHost, CUdeviceptr srcDevice, size_t ByteCount) noexcept {
  return copy_from_device(dstHost, srcDevice, ByteCount, default_stream(), Wait::kYes);
}
CUresult handle_cuMemcpyDtoHAsync_v2(void* dstHost, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream) noexcept {
  return copy_from_device(dstHost, srcDevice, ByteCount, hStream, Wait::kNo);
}
CUresult handle_cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount) noexcept {
  return copy_any(dst, src, ByteCount, default_stream(), Wait::kYes);
}
CUresult handle_cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream hStream) noexcept {
  return copy_any(dst, src, ByteCount, hStream, Wait::kNo);
}

CUresult handle_cuMemcpyDtoD_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount) noexcept {
  bool empty;
  if (CUresult result = check(default_stream(), ByteCount, &empty); result != CUDA_SUCCESS || empty) return result;
  if (hidden_side(dstDevice, srcDevice)) return copy_any(dstDevice, srcDevice, ByteCount, default_stream(), Wait::kYes);
  return copy_on_worker(dstDevice, srcDevice, ByteCount, default_stream(), Wait::kYes);
}

CUresult handle_cuMemcpyDtoDAsync_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream) noexcept {
  bool empty;
  if (CUresult result = check(hStream, ByteCount, &empty); result != CUDA_SUCCESS || empty) return result;
  if (hidden_side(dstDevice, srcDevice)) return copy_any(dstDevice, srcDevice, ByteCount, hStream, Wait::kNo);
  return copy_on_worker(dstDevice, srcDevice, ByteCount, hStream, Wait::kNo);
}

CUresult handle_cuMemcpyPeer(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice, CUcontext srcContext,
                             size_t ByteCount) noexcept {
  bool empty;
  if (CUresult result = check(default_stream(), ByteCount, &empty); result != CUDA_SUCCESS) return result;
  // NULL will do: an address says where it is (580.159.04).
  for (CUcontext context : {dstContext, srcContext}) {
    if (context && !state().contexts.find(value_of(context))) return CUDA_ERROR_INVALID_CONTEXT;
  }
  if (empty) return CUDA_SUCCESS;
  if (!device_covers(srcDevice, ByteCount) || !device_covers(dstDevice, ByteCount)) return CUDA_ERROR_INVALID_VALUE;
  return post_cuMemcpyPeer(dstDevice, dstContext ? dstContext : as_handle<CUcontext>(current_context()), srcDevice,
                           srcContext ? srcContext : as_handle<CUcontext>(current_context()), ByteCount);
}

CUresult handle_cuMemcpyPeerAsync(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice, CUcontext srcContext,
                                  size_t ByteCount, CUstream hStream) noexcept {
  bool empty;
  if (CUresult result = check(hStream, ByteCount, &empty); result != CUDA_SUCCESS) return result;
  // NULL will do: an address says where it is (580.159.04).
  for (CUcontext context : {dstContext, srcContext}) {
    if (context && !state().contexts.find(value_of(context))) return CUDA_ERROR_INVALID_CONTEXT;
  }
  if (empty) return CUDA_SUCCESS;
  if (!device_covers(srcDevice, ByteCount) || !device_covers(dstDevice, ByteCount)) return CUDA_ERROR_INVALID_VALUE;
  return post_cuMemcpyPeerAsync(dstDevice, dstContext ? dstContext : as_handle<CUcontext>(current_context()), srcDevice,
                                srcContext ? srcContext : as_handle<CUcontext>(current_context()), ByteCount, hStream);
}

CUresult handle_cuMemcpyBatchAsync_v2(CUdeviceptr* dsts, CUdeviceptr* srcs, size_t* sizes, size_t count,
                                      CUmemcpyAttributes* attrs, size_t* attrsIdxs, size_t numAttrs, CUstream hStream) noexcept {
  if (!dsts || !srcs || !sizes || count == 0 || !attrs || !attrsIdxs || numAttrs == 0 || numAttrs > count) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (!hStream || hStream == CU_STREAM_LEGACY) return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < count; ++i) {
    CUresult result = copy_any(dsts[i], srcs[i], sizes[i], hStream, Wait::kNo);
    if (result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

}  // namespace bf::client
