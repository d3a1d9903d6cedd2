#include "server/worker/pools.h"

#include <algorithm>

#include "server/worker/session.h"

namespace bf::server {

CUresult Pools::create(CUmemoryPool* pool, const CUmemPoolProps* props) {
  if (!props) return CUDA_ERROR_INVALID_VALUE;
  if (props->location.type >= CU_MEM_LOCATION_TYPE_HOST && props->location.type <= CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT)
    return CUDA_ERROR_NOT_SUPPORTED;
  const CUresult result = session_.driver.cuMemPoolCreate(pool, props);
  if (result != CUDA_SUCCESS) return result;
  std::lock_guard guard(mutex_);
  devices_[*pool] = size_t(props->location.id);
  return CUDA_SUCCESS;
}

CUresult Pools::destroy(CUmemoryPool pool) {
  const CUresult result = session_.driver.cuMemPoolDestroy(pool);
  if (result != CUDA_SUCCESS) return result;
  session_.charges.set_pool(pool, 0, 0);
  std::lock_guard guard(mutex_);
  devices_.erase(pool);
  return CUDA_SUCCESS;
}

bool Pools::device_of(CUmemoryPool pool, size_t& device) const {
  {
    std::lock_guard guard(mutex_);
    if (const auto found = devices_.find(pool); found != devices_.end()) {
      device = found->second;
      return device < session_.config.devices.size();
    }
  }
  return session_.contexts.current_device(device);
}

bool Pools::settle(CUmemoryPool pool, size_t device) {
  cuuint64_t reserved = 0;
  if (session_.driver.cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reserved) != CUDA_SUCCESS)
    return true;
  return session_.charges.set_pool(pool, device, reserved);
}

void Pools::settle_all() {
  for (const auto& pool : session_.charges.pools())
    if (!Graphs::is_memory(pool.pool)) settle(pool.pool, pool.device);
  session_.graphs.settle_memory();
}

bool Pools::may_fit(size_t device, uint64_t bytes) {
  if (session_.charges.may_fit(device, bytes)) return true;
  settle_all();
  return session_.charges.may_fit(device, bytes);
}

bool Pools::has_room(size_t device, size_t bytes, CUmemoryPool pool) {
  if (may_fit(device, bytes)) return true;
  cuuint64_t used = 0;
  session_.driver.cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used);
  const uint64_t charged = session_.charges.pool_charge(pool);
  const uint64_t idle = charged - std::min<uint64_t>(used, charged);
  return bytes / Charges::kBlockBytes * Charges::kBlockBytes <= session_.charges.free(device) + idle;
}

void Pools::give_back(CUdeviceptr address, CUmemoryPool pool, size_t device, CUstream stream) {
  session_.driver.cuMemFreeAsync(address, stream);
  session_.driver.cuStreamSynchronize(stream);
  session_.driver.cuMemPoolTrimTo(pool, 0);
  settle(pool, device);
}

// --- Calls ---------------------------------------------------------------------------------------------------------------

CUresult handle_cuMemPoolCreate(Call& call, CUmemoryPool* pool, const CUmemPoolProps* poolProps) {
  return session_of(call).pools.create(pool, poolProps);
}

CUresult handle_cuMemPoolDestroy(Call& call, CUmemoryPool pool) { return session_of(call).pools.destroy(pool); }

CUresult handle_cuMemPoolTrimTo(Call& call, CUmemoryPool pool, size_t minBytesToKeep) {
  const CUresult result = call.driver.cuMemPoolTrimTo(pool, minBytesToKeep);
  session_of(call).pools.settle_all();
  return result;
}

CUresult handle_cuMemAllocAsync(Call& call, CUdeviceptr* dptr, size_t bytesize, CUstream hStream) {
  if (!dptr) return CUDA_ERROR_INVALID_VALUE;
  Session& session = session_of(call);
  const auto make = [&](CUdeviceptr* address) { return call.driver.cuMemAllocAsync(address, bytesize, hStream); };
  size_t device = 0;
  CUmemoryPool pool = nullptr;
  // While a stream captures this makes a graph node: the memory comes with the launch.
  if (session.graphs.captures_memory(hStream) || !session.contexts.current_device(device) ||
      call.driver.cuDeviceGetMemPool(&pool, CUdevice(device)) != CUDA_SUCCESS) {
    return make(dptr);
  }
  return session.pools.allocate(dptr, bytesize, pool, hStream, make);
}

CUresult handle_cuMemAllocFromPoolAsync(Call& call, CUdeviceptr* dptr, size_t bytesize, CUmemoryPool pool, CUstream hStream) {
  if (!dptr) return CUDA_ERROR_INVALID_VALUE;
  Session& session = session_of(call);
  const auto make = [&](CUdeviceptr* address) {
    return call.driver.cuMemAllocFromPoolAsync(address, bytesize, pool, hStream);
  };
  if (session.graphs.captures_memory(hStream)) return make(dptr);
  return session.pools.allocate(dptr, bytesize, pool, hStream, make);
}

CUresult handle_cuMemFreeAsync(Call& call, CUdeviceptr dptr, CUstream hStream) {
  session_of(call).pools.note_free();
  return call.driver.cuMemFreeAsync(dptr, hStream);
}

}  // namespace bf::server
