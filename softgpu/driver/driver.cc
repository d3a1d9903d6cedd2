#include "softgpu/driver/driver.h"

#include <pthread.h>

#include <atomic>
#include <cstdlib>
#include <mutex>

#include "softgpu/driver/device.h"

namespace bf::softgpu {
namespace {

enum class Phase { kFresh, kReady, kEnded, kForked };
std::atomic<Phase> g_phase{Phase::kFresh};
std::atomic<uint64_t> g_calls{0};
std::mutex g_init_mutex;

void at_exit() { g_phase = Phase::kEnded; }
void in_forked_child() {
  if (g_phase == Phase::kReady) g_phase = Phase::kForked;
}

}  // namespace

CUresult enter_call() noexcept {
  switch (g_phase.load(std::memory_order_acquire)) {
    case Phase::kReady:
      break;
    case Phase::kEnded:
      return CUDA_ERROR_DEINITIALIZED;
    default:
      return CUDA_ERROR_NOT_INITIALIZED;
  }
  uint64_t limit = faults().lost_after_calls;
  if (limit != UINT64_MAX && g_calls.fetch_add(1, std::memory_order_relaxed) >= limit)
    return CUDA_ERROR_DEVICE_UNAVAILABLE;
  return CUDA_SUCCESS;
}

BF_API CUresult cuInit(unsigned int flags) {
  if (flags) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(g_init_mutex);
  switch (g_phase.load()) {
    case Phase::kEnded:
      return CUDA_ERROR_DEINITIALIZED;
    case Phase::kForked:
      return CUDA_ERROR_NOT_INITIALIZED;
    case Phase::kFresh:
      initialise_devices();
      if (device_named_twice()) return CUDA_ERROR_INVALID_DEVICE;
      if (device_count() == 0) return CUDA_ERROR_NO_DEVICE;
      pthread_atfork(nullptr, nullptr, in_forked_child);
      atexit(at_exit);
      g_phase = Phase::kReady;
      break;
    case Phase::kReady:
      break;
  }
  return CUDA_SUCCESS;
}

BF_API CUresult cuDriverGetVersion(int* version) {
  if (!version) return CUDA_ERROR_INVALID_VALUE;
  *version = kDriverVersion;
  return CUDA_SUCCESS;
}

BF_API CUresult cuProfilerStart() {
  BF_ENTER();
  return CUDA_SUCCESS;
}
BF_API CUresult cuProfilerStop() {
  BF_ENTER();
  return CUDA_SUCCESS;
}

}  // namespace bf::softgpu
