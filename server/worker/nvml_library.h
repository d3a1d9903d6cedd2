// The vendor's NVML, loaded at run time: never linked, and never Backfield's own.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/status.h"
#include "nvml/nvml_api.h"

namespace bf::server {

class NvmlLibrary {
 public:
  // Loads $BF_NVML, or the libnvidia-ml.so.1 that the loader knows, and initialises it. kUnavailable says why not.
  // Never unloaded.
  static Result<NvmlLibrary> load();

  // nullptr if the library has no such function.
  void* function(const char* name) const;

  // The functions that Backfield itself needs.
  decltype(&nvml::nvmlDeviceGetHandleByUUID) by_uuid = nullptr;
  decltype(&nvml::nvmlDeviceGetMemoryInfo) memory_info = nullptr;
  decltype(&nvml::nvmlDeviceGetFieldValues) field_values = nullptr;
  decltype(&nvml::nvmlDeviceGetCount_v2) count = nullptr;
  decltype(&nvml::nvmlDeviceGetHandleByIndex_v2) by_index = nullptr;
  decltype(&nvml::nvmlDeviceGetUUID) uuid = nullptr;

  std::optional<uint64_t> free_bytes(const std::string& uuid_text) const;

 private:
  void* library_ = nullptr;
};

}  // namespace bf::server
