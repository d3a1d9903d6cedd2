// Allocations and copies: every byte of device memory that a client gets is charged to its partition (charges.h).
#include "proto/shared_memory.h"
#include "server/worker/session.h"

namespace bf::server {
namespace {

// Allocates by `make(address, bytes that back it)`, charges, and undoes it by cuMemFree if the partition is full.
template <typename Make>
CUresult charged(Call& call, uint64_t at_least, CUdeviceptr* address, Make make) {
  Session& session = session_of(call);
  size_t device = 0;
  if (!session.contexts.current_device(device)) return make(address, at_least);  // the driver says what is wrong
  if (!session.pools.may_fit(device, at_least)) return CUDA_ERROR_OUT_OF_MEMORY;
  uint64_t bytes = at_least;
  const CUresult result = make(address, bytes);
  if (result != CUDA_SUCCESS) return result;
  if (session.charges.add({device, *address, bytes, session.contexts.owner(), false})) return result;
  call.driver.cuMemFree_v2(*address);
  *address = 0;
  return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult refuse_copy(Call& call, uint64_t transfer) {
  if (transfer) session_of(call).inbox.discard(transfer);
  return CUDA_ERROR_INVALID_VALUE;
}

CUstream default_stream(Call& call) { return call.per_thread() ? CU_STREAM_PER_THREAD : CU_STREAM_LEGACY; }

}  // namespace

// --- Allocations
// ---------------------------------------------------------------------------------------------------------

CUresult handle_cuMemGetInfo_v2(Call& call, size_t* free, size_t* total) {
  Session& session = session_of(call);
  size_t device = 0, real_free = 0, real_total = 0;
  // The driver first: it knows whether there is a context and whether it still works.
  if (CUresult result = call.driver.cuMemGetInfo_v2(&real_free, &real_total); result != CUDA_SUCCESS) return result;
  if (!session.contexts.current_device(device)) return CUDA_ERROR_INVALID_CONTEXT;
  session.pools.settle_all();
  if (free) *free = session.charges.free(device);
  if (total) *total = session.charges.total(device);
  return CUDA_SUCCESS;
}

CUresult handle_cuMemAlloc_v2(Call& call, CUdeviceptr* dptr, size_t bytesize) {
  if (!dptr) return CUDA_ERROR_INVALID_VALUE;
  return charged(call, bytesize, dptr,
                 [&](CUdeviceptr* address, uint64_t&) { return call.driver.cuMemAlloc_v2(address, bytesize); });
}

CUresult handle_cuMemAllocPitch_v2(Call& call, CUdeviceptr* dptr, size_t* pPitch, size_t WidthInBytes, size_t Height,
                                   unsigned int ElementSizeBytes) {
  if (!dptr || !pPitch) return CUDA_ERROR_INVALID_VALUE;
  size_t at_least = 0;
  if (__builtin_mul_overflow(WidthInBytes, Height, &at_least)) return CUDA_ERROR_OUT_OF_MEMORY;
  return charged(call, at_least, dptr, [&](CUdeviceptr* address, uint64_t& bytes) {
    const CUresult result = call.driver.cuMemAllocPitch_v2(address, pPitch, WidthInBytes, Height, ElementSizeBytes);
    if (result == CUDA_SUCCESS) bytes = uint64_t{*pPitch} * Height;
    return result;
  });
}

CUresult handle_cuMemFree_v2(Call& call, CUdeviceptr dptr) {
  Charges& charges = session_of(call).charges;
  const auto record = charges.take(dptr);
  const CUresult result = call.driver.cuMemFree_v2(dptr);
  if (!record) return result;
  if (result == CUDA_SUCCESS) {
    charges.settle(*record);
  } else {
    charges.restore(*record);
  }
  return result;
}

CUresult handle_bfHostFill(Call& call, uint64_t ticket, uint32_t value, uint32_t element, uint64_t bytes, uint64_t stream) {
  uint64_t real = stream;
  if (stream > 2 && !call.resolve(HandleKind::kStream, stream, real)) return CUDA_ERROR_INVALID_HANDLE;
  if ((element != 1 && element != 2 && element != 4) || bytes % element) return CUDA_ERROR_INVALID_VALUE;
  return session_of(call).copies.fill(value, element, bytes, ticket, reinterpret_cast<CUstream>(real));
}

// --- Copies
// --------------------------------------------------------------------------------------------------------------

CUresult handle_cuMemcpyHtoD_v2(Call& call, CUdeviceptr dstDevice, const void*, size_t ByteCount, uint64_t transfer) {
  if (transfer == 0) {
    if (call.payload.size() != ByteCount) return CUDA_ERROR_INVALID_VALUE;
    const auto copy = call.per_thread() ? call.driver.cuMemcpyHtoD_v2_ptds : call.driver.cuMemcpyHtoD_v2;
    return copy(dstDevice, call.payload.data(), ByteCount);
  }
  const CUstream stream = default_stream(call);
  const CUresult result = session_of(call).copies.to_device(dstDevice, ByteCount, {}, transfer, stream, {});
  return result == CUDA_SUCCESS ? call.driver.cuStreamSynchronize(stream) : result;
}

CUresult handle_cuMemcpyHtoDAsync_v2(Call& call, CUdeviceptr dstDevice, const void*, size_t ByteCount, CUstream hStream,
                                     uint64_t transfer) {
  Session& session = session_of(call);
  return session.copies.to_device(dstDevice, ByteCount, call.payload, transfer, hStream, [&] { return session.holds_up(call, hStream); });
}

CUresult handle_cuMemcpyDtoH_v2(Call& call, void*, CUdeviceptr srcDevice, size_t ByteCount, uint64_t ticket) {
  const CUstream stream = default_stream(call);
  const CUresult result = session_of(call).copies.from_device(srcDevice, ByteCount, ticket, stream, {});
  return result == CUDA_SUCCESS ? call.driver.cuStreamSynchronize(stream) : result;
}

CUresult handle_cuMemcpyDtoHAsync_v2(Call& call, void*, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream,
                                     uint64_t ticket) {
  Session& session = session_of(call);
  return session.copies.from_device(srcDevice, ByteCount, ticket, hStream, [&] { return session.holds_up(call, hStream); });
}

// What the client calls a copy within the worker: between memory of the device, or pinned memory that both ends map. The
// driver is told which of the two only by its unified form.
CUresult handle_cuMemcpyDtoD_v2(Call& call, CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount) {
  const DriverApi& driver = call.driver;
  const bool host = in_shared_memory(dstDevice) || in_shared_memory(srcDevice);
  const auto copy = call.per_thread() ? (host ? driver.cuMemcpy_ptds : driver.cuMemcpyDtoD_v2_ptds)
                                      : (host ? driver.cuMemcpy : driver.cuMemcpyDtoD_v2);
  return copy(dstDevice, srcDevice, ByteCount);
}

CUresult handle_cuMemcpyDtoDAsync_v2(Call& call, CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream) {
  const bool host = in_shared_memory(dstDevice) || in_shared_memory(srcDevice);
  const auto copy = host ? call.driver.cuMemcpyAsync : call.driver.cuMemcpyDtoDAsync_v2;
  return copy(dstDevice, srcDevice, ByteCount, hStream);
}

CUresult handle_cuMemcpy3D_v2(Call& call, const CUDA_MEMCPY3D* pCopy, uint64_t transfer, uint64_t ticket) {
  if (!pCopy) return refuse_copy(call, transfer);
  const CUstream stream = default_stream(call);
  const CUresult result = session_of(call).copies.box(*pCopy, call.payload, transfer, ticket, stream, {});
  return result == CUDA_SUCCESS ? call.driver.cuStreamSynchronize(stream) : result;
}

CUresult handle_cuMemcpy3DAsync_v2(Call& call, const CUDA_MEMCPY3D* pCopy, CUstream hStream, uint64_t transfer,
                                   uint64_t ticket) {
  if (!pCopy) return refuse_copy(call, transfer);
  Session& session = session_of(call);
  return session.copies.box(*pCopy, call.payload, transfer, ticket, hStream, [&] { return session.holds_up(call, hStream); });
}

}  // namespace bf::server
