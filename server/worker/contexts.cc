#include "server/worker/contexts.h"

#include <algorithm>
#include <optional>

#include "server/worker/session.h"

namespace bf::server {
namespace {

// Makes `context` current for a scope.
class Use {
 public:
  Use(const DriverApi& driver, CUcontext context) : driver_(driver) {
    driver_.cuCtxGetCurrent(&before_);
    driver_.cuCtxSetCurrent(context);
  }
  ~Use() { driver_.cuCtxSetCurrent(before_); }
  Use(const Use&) = delete;

 private:
  const DriverApi& driver_;
  CUcontext before_ = nullptr;
};

}  // namespace

AnyContext::AnyContext(Session& session) : driver_(session.driver) {
  CUcontext current = nullptr;
  if (driver_.cuCtxGetCurrent(&current) == CUDA_SUCCESS && current) return;
  for (CUcontext primary : session.prepared.primary)
    if (primary && driver_.cuCtxPushCurrent_v2(primary) == CUDA_SUCCESS) {
      pushed_ = true;
      return;
    }
}

AnyContext::~AnyContext() {
  CUcontext popped;
  if (pushed_) driver_.cuCtxPopCurrent_v2(&popped);
}

bool Contexts::current_device(size_t& device) const {
  CUdevice current = 0;
  if (session_.driver.cuCtxGetDevice(&current) != CUDA_SUCCESS) return false;
  device = size_t(current);
  return device < session_.config.devices.size();
}

void Contexts::begin(CUcontext context, size_t device) {
  live_.push_back({context, device});
  count();
  session_.forget_errors();
  Use use(session_.driver, context);
  session_.copies.renew();
}

void Contexts::before_end(CUcontext context) {
  Use use(session_.driver, context);
  session_.copies.quiesce();
  session_.mirrors.drop_context(context);
  session_.functions.drop(context);
}

void Contexts::after_end(CUcontext context) {
  const auto found =
      std::find_if(live_.begin(), live_.end(), [&](const Live& live) { return live.context == context; });
  if (found != live_.end()) {
    session_.charges.remove_context(context);
    session_.charges.remove_context_cost(found->device);
    live_.erase(found);
    count();
  }
  if (live_.empty()) return;
  Use use(session_.driver, live_.front().context);
  session_.copies.renew();
}

CUresult Contexts::retain_primary(CUdevice device, CUcontext* context) {
  if (device < 0 || size_t(device) >= session_.config.devices.size()) return CUDA_ERROR_INVALID_DEVICE;
  std::lock_guard guard(mutex_);
  CUcontext& primary = session_.prepared.primary[size_t(device)];
  if (std::any_of(live_.begin(), live_.end(), [&](const Live& live) { return live.context == primary; })) {
    *context = primary;
    return CUDA_SUCCESS;
  }
  if (!session_.charges.add_context(size_t(device))) return CUDA_ERROR_OUT_OF_MEMORY;
  if (!primary) {
    if (CUresult result = session_.driver.cuDevicePrimaryCtxRetain(&primary, device); result != CUDA_SUCCESS) {
      primary = nullptr;
      session_.charges.remove_context_cost(size_t(device));
      return result;
    }
  }
  begin(primary, size_t(device));
  *context = primary;
  return CUDA_SUCCESS;
}

CUresult Contexts::end_primary(CUdevice device) {
  if (device < 0 || size_t(device) >= session_.config.devices.size()) return CUDA_ERROR_INVALID_DEVICE;
  std::lock_guard guard(mutex_);
  const CUcontext primary = session_.prepared.primary[size_t(device)];
  if (std::none_of(live_.begin(), live_.end(), [&](const Live& live) { return live.context == primary; }))
    return CUDA_ERROR_INVALID_CONTEXT;
  std::vector<Green> greens;
  {
    std::lock_guard greens_guard(greens_mutex_);
    greens = greens_;
  }
  for (const Green& green : greens)
    if (green.device == size_t(device)) end_green(green);
  before_end(primary);
  // The worker holds the only reference, so this destroys it.
  const CUresult result = session_.driver.cuDevicePrimaryCtxRelease_v2(device);
  session_.prepared.primary[size_t(device)] = nullptr;
  session_.handles.erase_real(HandleKind::kContext, uint64_t(primary));
  after_end(primary);
  return result;
}

CUresult Contexts::create(CUcontext* context, unsigned int flags, CUdevice device) {
  if (device < 0 || size_t(device) >= session_.config.devices.size()) return CUDA_ERROR_INVALID_DEVICE;
  std::lock_guard guard(mutex_);
  if (!session_.charges.add_context(size_t(device))) return CUDA_ERROR_OUT_OF_MEMORY;
  if (CUresult result = session_.driver.cuCtxCreate_v2(context, flags, device); result != CUDA_SUCCESS) {
    session_.charges.remove_context_cost(size_t(device));
    return result;
  }
  begin(*context, size_t(device));
  return CUDA_SUCCESS;
}

CUresult Contexts::destroy(CUcontext context) {
  std::lock_guard guard(mutex_);
  // The driver refuses to destroy primary contexts this way, and so do we before anything is lost.
  const auto& primary = session_.prepared.primary;
  if (std::find(primary.begin(), primary.end(), context) != primary.end()) return CUDA_ERROR_INVALID_CONTEXT;
  before_end(context);
  const CUresult result = session_.driver.cuCtxDestroy_v2(context);
  after_end(context);
  return result;
}

// --- Green contexts ------------------------------------------------------------------------------------------------------

void Contexts::count() {
  std::lock_guard guard(greens_mutex_);
  others_.store(std::max<size_t>(live_.size() + greens_.size(), 1) - 1, std::memory_order_relaxed);
}

CUcontext Contexts::owner() const {
  CUcontext current = nullptr;
  session_.driver.cuCtxGetCurrent(&current);
  std::lock_guard guard(greens_mutex_);
  const auto found = std::find_if(greens_.begin(), greens_.end(), [&](const Green& green) { return green.context == current; });
  return found == greens_.end() ? current : session_.prepared.primary[found->device];
}

CUresult Contexts::create_green(CUgreenCtx* green, CUdevResourceDesc resources, CUdevice device, unsigned int flags) {
  std::lock_guard guard(mutex_);
  // The client retains the primary context first: another one would be out of the account.
  if (device < 0 || size_t(device) >= session_.config.devices.size()) return CUDA_ERROR_INVALID_DEVICE;
  const CUcontext primary = session_.prepared.primary[size_t(device)];
  if (std::none_of(live_.begin(), live_.end(), [&](const Live& live) { return live.context == primary; }))
    return CUDA_ERROR_INVALID_CONTEXT;
  Green made{nullptr, nullptr, size_t(device)};
  CUresult result = session_.driver.cuGreenCtxCreate(&made.green, resources, device, flags);
  if (result != CUDA_SUCCESS) return result;
  result = session_.driver.cuCtxFromGreenCtx(&made.context, made.green);
  if (result != CUDA_SUCCESS) {
    session_.driver.cuGreenCtxDestroy(made.green);
    return result;
  }
  {
    std::lock_guard greens_guard(greens_mutex_);
    greens_.push_back(made);
  }
  count();
  *green = made.green;
  return CUDA_SUCCESS;
}

CUresult Contexts::end_green(const Green& green) {
  session_.handles.erase_real(HandleKind::kContext, uint64_t(green.context));
  session_.handles.erase_real(HandleKind::kGreenContext, uint64_t(green.green));
  {
    std::lock_guard greens_guard(greens_mutex_);
    std::erase_if(greens_, [&](const Green& other) { return other.green == green.green; });
  }
  count();
  CUcontext current = nullptr;
  if (session_.driver.cuCtxGetCurrent(&current) == CUDA_SUCCESS && current == green.context)
    session_.driver.cuCtxSetCurrent(nullptr);
  return session_.driver.cuGreenCtxDestroy(green.green);
}

CUresult Contexts::destroy_green(CUgreenCtx green) {
  std::lock_guard guard(mutex_);
  std::optional<Green> found;
  {
    std::lock_guard greens_guard(greens_mutex_);
    for (const Green& other : greens_)
      if (other.green == green) found = other;
  }
  return found ? end_green(*found) : CUDA_ERROR_INVALID_CONTEXT;
}

// --- Calls
// ---------------------------------------------------------------------------------------------------------------

CUresult handle_bfContextUse(Call& call, uint64_t context) {
  uint64_t real = 0;
  if (context != 0 && !call.resolve(HandleKind::kContext, context, real)) {
    call.driver.cuCtxSetCurrent(nullptr);
    return CUDA_ERROR_INVALID_CONTEXT;
  }
  return call.driver.cuCtxSetCurrent(reinterpret_cast<CUcontext>(real));
}

CUresult handle_cuDevicePrimaryCtxRetain(Call& call, CUcontext* pctx, CUdevice dev) {
  return session_of(call).contexts.retain_primary(dev, pctx);
}

CUresult handle_cuDevicePrimaryCtxRelease_v2(Call& call, CUdevice dev) {
  return session_of(call).contexts.end_primary(dev);
}

CUresult handle_cuDevicePrimaryCtxReset_v2(Call& call, CUdevice dev) {
  return session_of(call).contexts.end_primary(dev);
}

CUresult handle_cuCtxCreate_v2(Call& call, CUcontext* pctx, unsigned int flags, CUdevice dev) {
  return session_of(call).contexts.create(pctx, flags, dev);
}

CUresult handle_cuGreenCtxCreate(Call& call, CUgreenCtx* phCtx, CUdevResourceDesc desc, CUdevice dev, unsigned int flags) {
  return session_of(call).contexts.create_green(phCtx, desc, dev, flags);
}

CUresult handle_cuGreenCtxDestroy(Call& call, CUgreenCtx hCtx) { return session_of(call).contexts.destroy_green(hCtx); }

CUresult handle_cuCtxDestroy_v2(Call& call, CUcontext ctx) {
  if (!ctx) return CUDA_ERROR_INVALID_CONTEXT;
  return session_of(call).contexts.destroy(ctx);
}

}  // namespace bf::server
