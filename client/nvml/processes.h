// The processes of the lease that use a device.
#pragma once

#include <vector>

#include "client/nvml/shim.h"

namespace bf::nvml {

nvmlReturn_t processes_of(nvmlDevice_t device, std::vector<control::LeaseProcess>& processes);

}  // namespace bf::nvml
