// Pinned staging: where device-to-host bytes wait for the network, and where rows are gathered for 2D and 3D copies.
// Two sizes of slots, made in slabs on demand and kept.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "base/limits.h"
#include "server/worker/device_staging.h"
#include "server/worker/fences.h"

namespace bf::server {

struct StagingSlot {
  std::byte* data = nullptr;
  bool large = false;
  bool device = false;  // `data` is an address of the GPU's
  bool pinned = false;  // it was when it was taken
};

class Staging {
 public:
  static constexpr size_t kSmallBytes = limits::kInlineBytes;         // what fits a Data frame
  static constexpr size_t kLargeBytes = 2 * limits::kBulkBlockBytes;  // two blocks: enough to hide a driver call
  static constexpr size_t kSmallSlots = 256;                          // 16 MiB of `.item()`s
  static constexpr size_t kLargeSlots = 128;                          // 256 MiB: 20 ms of a PCIe 5 card's output

  // `device`: with slots in the GPU's memory too, where that can be.
  Staging(const DriverApi& driver, bool device) : driver_(driver), wants_device_(device), device_(driver) {}

  // A slot of at least `bytes` (<= kLargeBytes); no data: all slots are taken. With a context current.
  StagingSlot take(size_t bytes);
  // For a copy from the GPU to the network: a large slot in the GPU's memory; no data if there is none.
  StagingSlot take_device();
  // The session's link, which may be able to read those.
  void open(transport::Bulk& bulk) { device_.open(bulk); }
  // From any thread.
  void give(const StagingSlot& slot);
  // Makes the first slabs, so that the first copy need not. With each device's context current.
  void warm();
  // Before the context that knows the slabs is destroyed, and after another one was made current.
  void unpin();
  void renew();

 private:
  // Another slab, if none of that size is free. Not under mutex_: the driver may let us wait for the GPU meanwhile (copies.h), and
  // the GPU for what give() sets free.
  bool grow(bool large);

  const DriverApi& driver_;
  std::mutex growing_;  // before mutex_
  std::mutex mutex_;
  std::vector<PinnedRegion> slabs_;
  std::vector<std::byte*> free_[2];  // small, large
  size_t made_[2] = {0, 0};
  const bool wants_device_;
  DeviceStaging device_;
};

// Waiting for the device or the network by polling: long enough not to burn a processor, short beside a copy.
void sleep_briefly();

}  // namespace bf::server
