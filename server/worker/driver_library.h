// The CUDA driver that the worker replays calls on.
#pragma once

#include <string>

#include "api/driver_api.h"
#include "base/status.h"

namespace bf::server {

struct DriverLibrary {
  DriverApi api;
  std::string path;       // as found
  bool software = false;  // Backfield's software GPU
};

// Loads BF_DRIVER, or, when that is empty, libcuda.so.1 by the loader's own path, and runs cuInit. Never the shim: that
// would send the calls around in a circle. kImpossible, kInvalid: CUDA_VISIBLE_DEVICES leaves
// no device, or names one twice.
Result<DriverLibrary> load_driver();

// "out of memory (CUDA_ERROR_OUT_OF_MEMORY)", as far as the driver has words.
std::string describe(const DriverApi& api, CUresult result);

// Is the library at `path` Backfield's own, for clients? It lies beside a bfworker; drivers do not.
bool is_shim(const std::string& path);

}  // namespace bf::server
