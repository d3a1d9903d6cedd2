#include "client/nvml/shim.h"

#include <pthread.h>

#include <atomic>
#include <mutex>

#include "base/limits.h"

// Its address is all that counts.
struct bf::nvml::nvmlDevice_st {
  char nothing[16];
};

namespace bf::nvml {
namespace {

struct State {
  std::mutex mutex;
  uint32_t initialised = 0;
  std::atomic<LeaseView*> view{nullptr};  // made once, kept over nvmlShutdown: another thread may be in it
  std::atomic<bool> usable{false};
};

State& state() {
  static auto* state = new State;
  return *state;
}

nvmlDevice_st g_devices[limits::kDevices];

// A thread of the parent may hold a lock when another one forks; the child has only the other one.
void before_fork() {
  state().mutex.lock();
  if (LeaseView* view = state().view) view->lock();
}
void after_fork() {
  if (LeaseView* view = state().view) view->unlock();
  state().mutex.unlock();
}
const int g_at_fork = pthread_atfork(before_fork, after_fork, after_fork);

nvmlReturn_t error_of(const Status& status) {
  return status.code() == StatusCode::kDenied ? NVML_ERROR_NO_PERMISSION : NVML_ERROR_GPU_IS_LOST;
}

}  // namespace

nvmlReturn_t initialise() {
  State& s = state();
  std::lock_guard lock(s.mutex);
  if (s.view == nullptr) {
    auto settings = client::AttachSettings::from_environment();
    if (!settings.ok()) return NVML_ERROR_DRIVER_NOT_LOADED;
    auto opened = LeaseView::open(std::move(*settings));
    if (!opened.ok()) return NVML_ERROR_DRIVER_NOT_LOADED;
    s.view = opened->release();
  }
  s.initialised++;
  s.usable = true;
  return NVML_SUCCESS;
}

nvmlReturn_t shut_down() {
  State& s = state();
  std::lock_guard lock(s.mutex);
  if (s.initialised == 0) return NVML_ERROR_UNINITIALIZED;
  if (--s.initialised == 0) s.usable = false;
  return NVML_SUCCESS;
}

LeaseView* view() { return state().usable ? state().view.load() : nullptr; }

nvmlDevice_t handle_of(size_t index) { return &g_devices[index]; }

std::optional<size_t> index_of(nvmlDevice_t device) {
  const LeaseView* lease = view();
  for (size_t i = 0; lease != nullptr && i < lease->devices(); i++)
    if (device == &g_devices[i]) return i;
  return std::nullopt;
}

nvmlReturn_t read_device(nvmlDevice_t device, LeaseView::Want want, DevicePointer& reading) {
  LeaseView* lease = view();
  if (lease == nullptr) return NVML_ERROR_UNINITIALIZED;
  const auto index = index_of(device);
  if (!index) return NVML_ERROR_INVALID_ARGUMENT;
  auto result = lease->device(*index, want);
  if (!result.ok()) return error_of(result.status());
  reading = std::move(*result);
  return NVML_SUCCESS;
}

nvmlReturn_t refuse(nvmlReturn_t error) noexcept { return view() == nullptr ? NVML_ERROR_UNINITIALIZED : error; }

}  // namespace bf::nvml
