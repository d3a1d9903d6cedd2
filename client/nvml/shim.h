// The state of this process's NVML: initialised or not, and the devices of the lease. Never destroyed, so that NVML can
// be called until the very end of the program, from any thread; nothing is printed.
#pragma once

#include <memory>
#include <optional>

#include "client/nvml/lease_view.h"
#include "nvml/nvml_api.h"

namespace bf::nvml {

using client::LeaseView;
using DevicePointer = std::shared_ptr<const LeaseView::Device>;

// nvmlInit and nvmlShutdown count. Without a lease there is no driver: NVML_ERROR_DRIVER_NOT_LOADED.
nvmlReturn_t initialise();
nvmlReturn_t shut_down();
// nullptr before nvmlInit and after the last nvmlShutdown.
LeaseView* view();

// Handles are addresses of ours; what is not one of them names no device.
nvmlDevice_t handle_of(size_t index);
std::optional<size_t> index_of(nvmlDevice_t device);

// The device's reading. INVALID_ARGUMENT for a handle that is none, GPU_IS_LOST when the server does not answer any
// more.
nvmlReturn_t read_device(nvmlDevice_t device, LeaseView::Want want, DevicePointer& reading);

// Runs an entry point that is answered by hand: UNINITIALIZED before nvmlInit, and nothing thrown leaves it.
template <typename Handler>
nvmlReturn_t guarded(Handler handler) noexcept {
  try {
    return handler();
  } catch (...) {
    return NVML_ERROR_MEMORY;  // nothing here throws but an allocation
  }
}

// A row whose answer is always an error.
nvmlReturn_t refuse(nvmlReturn_t error) noexcept;

}  // namespace bf::nvml
