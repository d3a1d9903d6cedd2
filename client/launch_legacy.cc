// The launch interface from before CUDA 4.0, by cuLaunchKernel.
#include "api/remote.h"
#include "client/contexts.h"
#include "client/functions.h"

namespace bf::client {

namespace {

// Runs `body(legacy, function)` on what the function remembers.
template <typename Body>
CUresult with_legacy(CUfunction hfunc, Body body) {
  Function* function = state().code(hfunc);
  if (!function) return CUDA_ERROR_INVALID_HANDLE;
  std::lock_guard guard(function->legacy_mutex);
  if (!function->legacy) function->legacy = std::make_unique<abi::LegacyLaunch>();
  return body(*function->legacy, *function);
}

CUresult set_parameter(CUfunction hfunc, int offset, const void* value, size_t bytes) {
  return with_legacy(hfunc, [&](abi::LegacyLaunch& legacy, Function&) { return legacy.set(offset, value, bytes); });
}

CUresult launch(CUfunction hfunc, int width, int height, CUstream stream) {
  return with_legacy(hfunc, [&](abi::LegacyLaunch& legacy, Function& function) {
    return legacy.run(handle_cuLaunchKernel, hfunc, width, height, stream, function.parameter_bytes);
  });
}

}  // namespace

CUresult handle_cuFuncSetBlockShape(CUfunction hfunc, int x, int y, int z) noexcept {
  return with_legacy(hfunc, [&](abi::LegacyLaunch& legacy, Function& function) {
    return legacy.set_block(x, y, z, function.attribute(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 0));
  });
}

CUresult handle_cuFuncSetSharedSize(CUfunction hfunc, unsigned int bytes) noexcept {
  return with_legacy(hfunc, [&](abi::LegacyLaunch& legacy, Function& function) {
    return legacy.set_shared(bytes, size_t(function.attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 0)));
  });
}

CUresult handle_cuParamSetSize(CUfunction hfunc, unsigned int numbytes) noexcept {
  return with_legacy(hfunc, [&](abi::LegacyLaunch& legacy, Function&) { return legacy.set_size(numbytes); });
}

CUresult handle_cuParamSeti(CUfunction hfunc, int offset, unsigned int value) noexcept {
  return set_parameter(hfunc, offset, &value, sizeof value);
}
CUresult handle_cuParamSetf(CUfunction hfunc, int offset, float value) noexcept {
  return set_parameter(hfunc, offset, &value, sizeof value);
}
CUresult handle_cuParamSetv(CUfunction hfunc, int offset, void* ptr, unsigned int numbytes) noexcept {
  return set_parameter(hfunc, offset, ptr, numbytes);
}

CUresult handle_cuLaunch(CUfunction f) noexcept { return launch(f, 1, 1, nullptr); }
CUresult handle_cuLaunchGrid(CUfunction f, int grid_width, int grid_height) noexcept {
  return launch(f, grid_width, grid_height, nullptr);
}
CUresult handle_cuLaunchGridAsync(CUfunction f, int grid_width, int grid_height, CUstream hStream) noexcept {
  return launch(f, grid_width, grid_height, hStream);
}

}  // namespace bf::client
