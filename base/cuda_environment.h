// The environment variables that a CUDA driver reads when it is initialised, as NVIDIA's driver reads them (measured on
// 580.159.04). The shim, the daemon and the software GPU all go by this.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace bf {

struct CudaEnvironment {
  std::optional<std::string> visible_devices;  // CUDA_VISIBLE_DEVICES; set and empty hides all
  bool pci_order = false;                      // CUDA_DEVICE_ORDER=PCI_BUS_ID
  bool launch_blocking = false;                // CUDA_LAUNCH_BLOCKING: a launch waits, and returns its error
  bool eager_loading = false;                  // CUDA_MODULE_LOADING=EAGER

  static CudaEnvironment read();
};

struct VisibleDevices {
  std::vector<size_t> devices;  // positions in `uuids`, in the order the program sees them
  bool twice = false;           // one was named twice: cuInit fails with INVALID_DEVICE
};

// `text` is a list of indices or of "GPU-..." prefixes, not both; the first entry that names no device ends it.
VisibleDevices choose_devices(const std::optional<std::string>& text, std::span<const std::string> uuids);

}  // namespace bf
