// The life of the driver in its process, and what every exported function does on entry.
#pragma once

#include "softgpu/driver/cuda_api.h"

namespace bf::softgpu {

// Whether calls may be made now: CUDA_ERROR_NOT_INITIALIZED before cuInit and in a forked child,
// CUDA_ERROR_DEINITIALIZED once exit handlers ran, CUDA_ERROR_DEVICE_UNAVAILABLE for a device that fell off the bus.
CUresult enter_call() noexcept;
// Refuses calls that must not happen while a stream captures, and breaks the captures concerned.
CUresult check_not_capturing();

}  // namespace bf::softgpu

// First statement of every exported function but the few that must answer before cuInit and after exit.
#define BF_ENTER() BF_TRY(::bf::softgpu::enter_call())
