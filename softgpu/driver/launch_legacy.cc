// The launch interface from before CUDA 4.0, by cuLaunchKernel.
#include <map>
#include <mutex>

#include "proto/abi/legacy_launch.h"
#include "softgpu/driver/driver.h"
#include "softgpu/driver/launch.h"
#include "softgpu/driver/module.h"

namespace bf::softgpu {
namespace {

// What functions remember. A function that is gone leaves a few bytes behind.
template <typename Body>
CUresult with_legacy(CUfunction handle, Body body) {
  static auto* mutex = new std::mutex;
  static auto* remembered = new std::map<CUfunction, abi::LegacyLaunch>;
  ContextRef context;
  BF_TRY(current_context(&context));
  FunctionRef function;
  BF_TRY(find_function(handle, context, &function));
  std::lock_guard lock(*mutex);
  return body((*remembered)[handle], *function);
}

CUresult set_parameter(CUfunction handle, int offset, const void* value, size_t bytes) {
  return with_legacy(handle, [&](abi::LegacyLaunch& legacy, Function&) { return legacy.set(offset, value, bytes); });
}

CUresult launch(CUfunction handle, int width, int height, CUstream stream) {
  return with_legacy(handle, [&](abi::LegacyLaunch& legacy, Function& function) {
    return legacy.run(cuLaunchKernel, handle, width, height, stream, function.info->param_bytes);
  });
}

}  // namespace

BF_API CUresult cuFuncSetBlockShape(CUfunction handle, int x, int y, int z) {
  BF_ENTER();
  int most = 0;
  BF_TRY(cuFuncGetAttribute(&most, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, handle));
  return with_legacy(handle, [&](abi::LegacyLaunch& legacy, Function&) { return legacy.set_block(x, y, z, most); });
}

BF_API CUresult cuFuncSetSharedSize(CUfunction handle, unsigned int bytes) {
  BF_ENTER();
  int most = 0;
  BF_TRY(cuFuncGetAttribute(&most, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, handle));
  return with_legacy(handle, [&](abi::LegacyLaunch& legacy, Function&) { return legacy.set_shared(bytes, size_t(most)); });
}

BF_API CUresult cuParamSetSize(CUfunction handle, unsigned int bytes) {
  BF_ENTER();
  return with_legacy(handle, [&](abi::LegacyLaunch& legacy, Function&) { return legacy.set_size(bytes); });
}

BF_API CUresult cuParamSeti(CUfunction handle, int offset, unsigned int value) {
  BF_ENTER();
  return set_parameter(handle, offset, &value, sizeof value);
}
BF_API CUresult cuParamSetf(CUfunction handle, int offset, float value) {
  BF_ENTER();
  return set_parameter(handle, offset, &value, sizeof value);
}
BF_API CUresult cuParamSetv(CUfunction handle, int offset, void* value, unsigned int bytes) {
  BF_ENTER();
  return set_parameter(handle, offset, value, bytes);
}

BF_API CUresult cuLaunch(CUfunction handle) {
  BF_ENTER();
  return launch(handle, 1, 1, nullptr);
}
BF_API CUresult cuLaunchGrid(CUfunction handle, int width, int height) {
  BF_ENTER();
  return launch(handle, width, height, nullptr);
}
BF_API CUresult cuLaunchGridAsync(CUfunction handle, int width, int height, CUstream stream) {
  BF_ENTER();
  return launch(handle, width, height, stream);
}

}  // namespace bf::softgpu
