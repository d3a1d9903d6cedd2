// GPUDirect: staging in the GPU's own memory, which a network card reads there (docs/rdma.md). Copies from the GPU then
// touch the server's memory no more.
//
// The memory is taken when a worker warms up, so that it is part of what a context is measured to cost. Sessions use it
// if they have one GPU and a link that can read it; in all other cases nothing is different.
#pragma once

#include <cstddef>
#include <vector>

#include "proto/api/cuda_api.h"
#include "transport/transport.h"

namespace bf {
struct DriverApi;
}

namespace bf::server {

class DeviceStaging {
 public:
  static constexpr size_t kSlotBytes = 2 * limits::kBulkBlockBytes;
  static constexpr size_t kSlots = 16;  // 32 MiB: more than a 100 Gb/s card has under way

  explicit DeviceStaging(const DriverApi& driver) : driver_(driver) {}

  // Whether workers here should have it: the administrator lets them (BF_GPUDIRECT), and there is RDMA.
  static bool wanted();

  // With the context of one more device current. Takes nothing where the device cannot share its memory.
  void warm();
  // Shows the memory to the session's link. Then take() gives slots.
  void open(transport::Bulk& bulk);
  // Null: none is free, or this session has none.
  std::byte* take();
  void give(std::byte* slot);
  // Slots that were taken and not given back.
  bool busy() const { return bulk_ && free_.size() < kSlots; }
  // Before the context ends, when not busy. For good: the session goes on with host memory.
  void close();

 private:
  const DriverApi& driver_;
  std::vector<CUdeviceptr> slabs_;  // by device
  transport::Bulk* bulk_ = nullptr;
  std::vector<std::byte*> free_;
};

}  // namespace bf::server
