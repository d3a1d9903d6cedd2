// What the private tables need of the driver they belong to. The shim and the software GPU each supply one.
#pragma once

#include <cstdint>

#include "proto/api/cuda_api.h"

namespace bf::abi {

enum class ContextState : uint8_t {
  kUnknown,   // no context of ours
  kInactive,  // a primary context that was not retained yet
  kActive,
  kDead,  // destroyed, reset or released for the last time, and not retained again
};

struct PciAddress {
  int32_t domain = 0, bus = 0, device = 0;  // device attributes 50, 33, 34
};

// Every function may be called from any thread, must not block on the network, and must not throw.
struct DriverHooks {
  // False after the process ran its exit handlers: every slot then answers CUDA_ERROR_DEINITIALIZED.
  bool (*alive)() noexcept;
  // The value that cuDriverGetVersion answers.
  int (*driver_version)() noexcept;
  // The calling thread's current context, or NULL.
  CUcontext (*current_context)() noexcept;
  ContextState (*context_state)(CUcontext context) noexcept;
  // Handle of the device's primary context, neither retained nor made: the value of cuDevicePrimaryCtxRetain.
  // CUDA_ERROR_INVALID_DEVICE for a bad ordinal.
  CUresult (*primary_context)(CUcontext* context, CUdevice device) noexcept;
  // What cuCtxGetId and cuStreamGetId answer; unknown handles: CUDA_ERROR_INVALID_CONTEXT, CUDA_ERROR_INVALID_HANDLE.
  CUresult (*context_id)(CUcontext context, uint64_t* id) noexcept;
  CUresult (*stream_id)(CUstream stream, uint64_t* id) noexcept;
  // For a context made from a green context: the device's primary context; else NULL.
  CUcontext (*underlying_context)(CUcontext context) noexcept;
  // cuDeviceGetCount, cuDeviceGetUuid and the PCI attributes, as this process sees them.
  int (*device_count)() noexcept;
  bool (*device_identity)(int ordinal, CUuuid* uuid, PciAddress* pci) noexcept;
  // cuModuleLoadData and its relatives.
  CUresult (*load_module)(CUmodule* module, const void* fatbin) noexcept;
  CUresult (*function_count)(unsigned int* count, CUmodule module) noexcept;
  CUresult (*enumerate_functions)(CUfunction* functions, unsigned int count, CUmodule module) noexcept;
  CUresult (*function_name)(const char** name, CUfunction function) noexcept;
};

// Call once, before any table is handed out; `hooks` must live for ever. Defined in private_tables.cc.
void set_driver_hooks(const DriverHooks* hooks) noexcept;
const DriverHooks& driver_hooks() noexcept;

}  // namespace bf::abi
