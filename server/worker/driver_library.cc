#include "server/worker/driver_library.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/log.h"

namespace bf::server {

bool is_shim(const std::string& path) {
  std::error_code error;
  const auto real = std::filesystem::canonical(path, error);
  return !error && std::filesystem::exists(real.parent_path() / "bfworker", error);
}

std::string describe(const DriverApi& api, CUresult result) {
  const char* name = nullptr;
  const char* words = nullptr;
  if (api.cuGetErrorName) api.cuGetErrorName(result, &name);
  if (api.cuGetErrorString) api.cuGetErrorString(result, &words);
  return fmt::format("{} ({})", words ? words : "error", name ? name : std::to_string(int(result)));
}

Result<DriverLibrary> load_driver() {
  if (const char* preload = getenv("LD_PRELOAD"); preload && *preload)
    return Status(StatusCode::kInvalid, fmt::format("LD_PRELOAD is set ('{}'): the worker must load the real driver; "
                                                    "start bfserver without it",
                                                    preload));
  const char* wanted = getenv("BF_DRIVER");
  const std::string name = wanted && *wanted ? wanted : "libcuda.so.1";
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    return Status(StatusCode::kUnavailable,
                  fmt::format("no CUDA driver: {}; install NVIDIA's driver, or try --software-gpus", dlerror()));
  }
  DriverLibrary driver;
  driver.api.load(library);
  Dl_info info{};
  if (driver.api.cuInit && dladdr(reinterpret_cast<void*>(driver.api.cuInit), &info) && info.dli_fname)
    driver.path = info.dli_fname;
  if (!driver.api.cuInit || !driver.api.cuMemAlloc_v2)
    return Status(StatusCode::kInvalid, fmt::format("{} is not a CUDA driver", name));
  if (is_shim(driver.path)) {
    return Status(StatusCode::kInvalid,
                  fmt::format("{} is Backfield's own client library, not a driver; take its folder out of "
                              "LD_LIBRARY_PATH where bfserver is started",
                              driver.path));
  }
  driver.software = getenv("BF_SOFTGPU_COUNT") != nullptr;  // bfserver says so, and only for it
  if (CUresult result = driver.api.cuInit(0); result != CUDA_SUCCESS) {
    const StatusCode code = result == CUDA_ERROR_NO_DEVICE        ? StatusCode::kImpossible
                            : result == CUDA_ERROR_INVALID_DEVICE ? StatusCode::kInvalid
                                                                  : StatusCode::kUnavailable;
    return Status(code,
                  fmt::format("the CUDA driver {} does not start: {}", driver.path, describe(driver.api, result)));
  }
  return driver;
}

}  // namespace bf::server
