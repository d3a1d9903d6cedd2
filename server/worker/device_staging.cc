#include "server/worker/device_staging.h"

#include <cstdlib>
#include <cstring>

#include "api/driver_api.h"
#include "base/fd.h"
#include "base/log.h"
#include "transport/rdma.h"

namespace bf::server {
namespace {

constexpr size_t kSlabBytes = DeviceStaging::kSlots * DeviceStaging::kSlotBytes;

}  // namespace

bool DeviceStaging::wanted() {
  const char* setting = getenv("BF_GPUDIRECT");
  return setting && strcmp(setting, "on") == 0 && transport::rdma_available().ok();
}

void DeviceStaging::warm() {
  CUdevice device;
  int supported = 0;
  if (driver_.cuCtxGetDevice(&device) != CUDA_SUCCESS ||
      driver_.cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED, device) != CUDA_SUCCESS || !supported)
    return;
  CUdeviceptr slab = 0;
  if (driver_.cuMemAlloc_v2(&slab, kSlabBytes) == CUDA_SUCCESS) slabs_.push_back(slab);
}

void DeviceStaging::open(transport::Bulk& bulk) {
  if (slabs_.size() != 1) return;
  int descriptor = -1;
  if (driver_.cuMemGetHandleForAddressRange(&descriptor, slabs_[0], kSlabBytes, CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD, 0) != CUDA_SUCCESS)
    return;
  const Fd dmabuf(descriptor);
  auto* slab = reinterpret_cast<std::byte*>(slabs_[0]);
  if (!bulk.remember_device(slab, kSlabBytes, dmabuf.get())) return;
  bulk_ = &bulk;
  for (size_t i = 0; i < kSlots; ++i) free_.push_back(slab + i * kSlotBytes);
  BF_DEBUG("GPUDirect: the network reads GPU memory");
}

std::byte* DeviceStaging::take() {
  if (free_.empty()) return nullptr;
  std::byte* slot = free_.back();
  free_.pop_back();
  return slot;
}

void DeviceStaging::give(std::byte* slot) {
  if (bulk_) free_.push_back(slot);
}

void DeviceStaging::close() {
  if (bulk_) bulk_->forget(reinterpret_cast<const void*>(slabs_[0]));
  bulk_ = nullptr;
  free_.clear();
  for (CUdeviceptr slab : slabs_) driver_.cuMemFree_v2(slab);
  slabs_.clear();
}

}  // namespace bf::server
