// Contexts: what the client keeps (contexts.h), and the cuCtx* and cuDevicePrimaryCtx* families.
#include <algorithm>

#include "client/contexts.h"
#include "client/managed.h"
#include "client/mirrors.h"
#include "api/remote.h"
#include "proto/abi/context_storage.h"

namespace bf::client {

namespace {

std::vector<uint64_t> g_primary;  // by device; written once, before the gate opens
std::atomic<uint64_t> g_next_id{1};

// Serialises beginnings and ends of lives. Never held while destructors of local storage run.
std::mutex& lifecycle() {
  static auto* mutex = new std::mutex;
  return *mutex;
}

void begin_life(Context& context, uint32_t flags) {
  const DeviceSnapshot* device = device_snapshot(context.device);
  context.flags.store(flags, std::memory_order_relaxed);
  context.api_version.store(device ? device->context_api_version : 0, std::memory_order_relaxed);
  context_id(context);
  if (!context.alive()) context.epoch.fetch_add(1, std::memory_order_release);
}

// Marks it dead, then runs the destructors of its local storage on this thread.
void end_life(uint64_t value, Context& context) {
  if (!context.alive()) return;
  context.epoch.fetch_add(1, std::memory_order_release);
  abi::storage_context_died(as_handle<CUcontext>(value));
}

template <typename Table>
void drop_all_of(Table& table, uint64_t context) {
  std::vector<uint64_t> dead;
  table.for_each([&](uint64_t value, auto& object) {
    if (object.context == context) dead.push_back(value);
  });
  for (uint64_t value : dead) table.erase(value);
}

void forget_objects(uint64_t context) {
  std::vector<uint64_t> greens;
  state().contexts.for_each([&](uint64_t value, Context& green) {
    if (green.owner == context) greens.push_back(value);
  });
  for (uint64_t green : greens) {
    const uint64_t handle = state().contexts.find(green)->green;
    end_green_context(green);
    state().green_contexts.erase(handle);
  }
  drop_all_of(state().streams, context);
  drop_all_of(state().events, context);
  drop_all_of(state().modules, context);
  drop_all_of(state().functions, context);
  for (uint64_t address : state().ranges.remove_context(context)) Mirrors::instance().forget(address);
  forget_managed(context);
  Session::get()->clear_errors();
}

// The calling thread's lane no longer knows what its twin has current.
void twin_unknown() {
  if (Lane* lane = this_thread().lane) lane->twin_context = ~uint64_t{0};
}

// `context`, or the current one for NULL.
Context* find_context(CUcontext context) {
  uint64_t value = context ? value_of(context) : current_as_set();
  return value ? state().contexts.find(value) : nullptr;
}

}  // namespace

// --- contexts.h --------------------------------------------------------------------------------------------------------------

void make_primary_contexts(const SessionSnapshot& snapshot) {
  for (size_t device = 0; device < snapshot.devices.size(); ++device) {
    uint64_t value = state().contexts.make();
    Context* context = state().contexts.find(value);
    context->device = int(device);
    context->primary = true;
    context->flags.store(snapshot.devices[device].primary_flags, std::memory_order_relaxed);
    g_primary.push_back(value);
  }
}

uint64_t primary_context(int device) { return device >= 0 && size_t(device) < g_primary.size() ? g_primary[size_t(device)] : 0; }

uint64_t current_context() {
  const uint64_t value = current_as_set();
  Context* context = value ? state().contexts.find(value) : nullptr;
  return context && context->owner ? context->owner : value;
}

uint64_t current_green() {
  const uint64_t value = current_as_set();
  Context* context = value ? state().contexts.find(value) : nullptr;
  return context && context->owner ? value : 0;
}

void begin_green_context(uint64_t value, uint64_t green, uint64_t owner) {
  Context& context = *state().contexts.find(value);
  const Context& primary = *state().contexts.find(owner);
  context.device = primary.device;
  context.owner = owner;
  context.green = green;
  begin_life(context, primary.flags.load(std::memory_order_relaxed));
}

void end_green_context(uint64_t value) {
  end_life(value, *state().contexts.find(value));
  state().contexts.erase(value);
}

uint64_t context_id(Context& context) {
  std::lock_guard guard(context.lock);
  if (context.id == 0) context.id = g_next_id.fetch_add(1, std::memory_order_relaxed);
  return context.id;
}

void use_current_context(ThreadState& thread) {
  uint64_t wanted = thread.contexts.empty() ? 0 : thread.contexts.back();
  uint32_t epoch = 0;
  if (wanted) {
    Context* context = state().contexts.find(wanted);
    epoch = context ? context->epoch.load(std::memory_order_acquire) : 0;
    if (!(epoch & 1)) wanted = epoch = 0;  // dead: the twin has none, too
  }
  Lane& lane = *thread.lane;
  if (lane.twin_context == wanted && lane.twin_epoch == epoch) [[likely]] return;
  lane.twin_context = wanted;
  lane.twin_epoch = epoch;
  post_bfContextUse(wanted);
}

// --- Primary contexts ----------------------------------------------------------------------------------------------------------

CUresult handle_cuDevicePrimaryCtxRetain(CUcontext* pctx, CUdevice dev) noexcept {
  if (!pctx) return CUDA_ERROR_INVALID_VALUE;
  uint64_t value = primary_context(dev);
  if (!value) return CUDA_ERROR_INVALID_DEVICE;
  Context& context = *state().contexts.find(value);
  std::lock_guard guard(lifecycle());
  if (context.retains == 0 || !context.alive()) {
    auto made = as_handle<CUcontext>(value);
    if (CUresult result = remote_cuDevicePrimaryCtxRetain(&made, dev); result != CUDA_SUCCESS) return result;
    context.retains = 0;
    begin_life(context, context.flags.load(std::memory_order_relaxed));
  }
  ++context.retains;
  *pctx = as_handle<CUcontext>(value);
  return CUDA_SUCCESS;
}

CUresult handle_cuDevicePrimaryCtxRelease_v2(CUdevice dev) noexcept {
  uint64_t value = primary_context(dev);
  if (!value) return CUDA_ERROR_INVALID_DEVICE;
  Context& context = *state().contexts.find(value);
  {
    std::lock_guard guard(lifecycle());
    if (context.retains == 0) return CUDA_ERROR_INVALID_CONTEXT;
    if (--context.retains > 0) return CUDA_SUCCESS;
  }
  end_life(value, context);
  CUresult result = remote_cuDevicePrimaryCtxRelease_v2(dev);
  forget_objects(value);
  return result;
}

CUresult handle_cuDevicePrimaryCtxReset_v2(CUdevice dev) noexcept {
  uint64_t value = primary_context(dev);
  if (!value) return CUDA_ERROR_INVALID_DEVICE;
  Context& context = *state().contexts.find(value);
  {
    std::lock_guard guard(lifecycle());
    if (!context.alive()) return CUDA_SUCCESS;
    context.retains = 0;
  }
  end_life(value, context);
  CUresult result = remote_cuDevicePrimaryCtxReset_v2(dev);
  forget_objects(value);
  return result;
}

CUresult handle_cuDevicePrimaryCtxSetFlags_v2(CUdevice dev, unsigned int flags) noexcept {
  uint64_t value = primary_context(dev);
  if (!value) return CUDA_ERROR_INVALID_DEVICE;
  CUresult result = remote_cuDevicePrimaryCtxSetFlags_v2(dev, flags);
  if (result == CUDA_SUCCESS) state().contexts.find(value)->flags.store(flags, std::memory_order_relaxed);
  return result;
}

CUresult handle_cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int* flags, int* active) noexcept {
  uint64_t value = primary_context(dev);
  if (!value) return CUDA_ERROR_INVALID_DEVICE;
  if (!flags || !active) return CUDA_ERROR_INVALID_VALUE;
  Context& context = *state().contexts.find(value);
  *flags = context.flags.load(std::memory_order_relaxed);
  *active = context.alive();
  return CUDA_SUCCESS;
}

// --- Creating and destroying -----------------------------------------------------------------------------------------------------

CUresult handle_cuCtxCreate_v2(CUcontext* pctx, unsigned int flags, CUdevice dev) noexcept {
  if (!pctx) return CUDA_ERROR_INVALID_VALUE;
  if (!device_snapshot(dev)) return CUDA_ERROR_INVALID_DEVICE;
  CUcontext made = nullptr;
  CUresult result = remote_cuCtxCreate_v2(&made, flags, dev);
  twin_unknown();
  if (result != CUDA_SUCCESS) return result;
  Context& context = *state().contexts.find(value_of(made));
  context.device = dev;
  begin_life(context, flags);
  this_thread().contexts.push_back(value_of(made));
  *pctx = made;
  return CUDA_SUCCESS;
}

CUresult handle_cuCtxCreate_v3(CUcontext* pctx, CUexecAffinityParam* params, int count, unsigned int flags, CUdevice dev) noexcept {
  if (count < 0 || (count > 0 && !params)) return CUDA_ERROR_INVALID_VALUE;
  return count == 0 ? handle_cuCtxCreate_v2(pctx, flags, dev) : CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
}

CUresult handle_cuCtxCreate_v4(CUcontext* pctx, CUctxCreateParams* params, unsigned int flags, CUdevice dev) noexcept {
  if (!params) return handle_cuCtxCreate_v2(pctx, flags, dev);
  if (params->cigParams) return CUDA_ERROR_NOT_SUPPORTED;
  return handle_cuCtxCreate_v3(pctx, params->execAffinityParams, params->numExecAffinityParams, flags, dev);
}

CUresult handle_cuCtxDestroy_v2(CUcontext ctx) noexcept {
  if (!ctx) return CUDA_ERROR_INVALID_VALUE;  // measured, 580.159.04
  Context* context = state().contexts.find(value_of(ctx));
  if (!context || context->primary || context->owner || !context->alive()) return CUDA_ERROR_INVALID_CONTEXT;
  end_life(value_of(ctx), *context);
  CUresult result = remote_cuCtxDestroy_v2(ctx);
  twin_unknown();
  forget_objects(value_of(ctx));
  state().contexts.erase(value_of(ctx));
  auto& stack = this_thread().contexts;
  if (!stack.empty() && stack.back() == value_of(ctx)) stack.pop_back();
  return result;
}

CUresult handle_cuCtxAttach(CUcontext* pctx, unsigned int flags) noexcept {
  if (!pctx || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  Context* context;
  if (CUresult result = need_context(&context); result != CUDA_SUCCESS) return result;
  if (context->primary) return CUDA_ERROR_INVALID_CONTEXT;
  std::lock_guard guard(lifecycle());
  ++context->retains;
  *pctx = as_handle<CUcontext>(current_context());
  return CUDA_SUCCESS;
}

CUresult handle_cuCtxDetach(CUcontext ctx) noexcept {
  Context* context = ctx ? state().contexts.find(value_of(ctx)) : nullptr;
  if (!context || value_of(ctx) != current_as_set()) return CUDA_ERROR_INVALID_CONTEXT;
  if (context->primary || context->owner) return CUDA_SUCCESS;  // it is counted by cuDevicePrimaryCtxRetain (580.159.04)
  {
    std::lock_guard guard(lifecycle());
    if (context->retains > 0) {
      --context->retains;
      return CUDA_SUCCESS;
    }
  }
  return handle_cuCtxDestroy_v2(ctx);
}

// --- The thread's stack ------------------------------------------------------------------------------------------------------------

CUresult handle_cuCtxPushCurrent_v2(CUcontext ctx) noexcept {
  if (!ctx) return CUDA_ERROR_INVALID_VALUE;
  if (!state().contexts.find(value_of(ctx))) return CUDA_ERROR_INVALID_CONTEXT;
  this_thread().contexts.push_back(value_of(ctx));
  return CUDA_SUCCESS;
}

CUresult handle_cuCtxPopCurrent_v2(CUcontext* pctx) noexcept {
  auto& stack = this_thread().contexts;
  if (stack.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  if (pctx) *pctx = as_handle<CUcontext>(stack.back());
  stack.pop_back();
  return CUDA_SUCCESS;
}

CUresult handle_cuCtxSetCurrent(CUcontext ctx) noexcept {
  auto& stack = this_thread().contexts;
  if (!ctx) {
    if (!stack.empty()) stack.pop_back();
    return CUDA_SUCCESS;
  }
  if (!state().contexts.find(value_of(ctx))) return CUDA_ERROR_INVALID_CONTEXT;
  if (stack.empty()) {
    stack.push_back(value_of(ctx));
  } else {
    stack.back() = value_of(ctx);
  }
  return CUDA_SUCCESS;
}

CUresult handle_cuCtxGetCurrent(CUcontext* pctx) noexcept {
  if (!pctx) return CUDA_ERROR_INVALID_VALUE;
  *pctx = as_handle<CUcontext>(current_as_set());
  return CUDA_SUCCESS;
}

// --- Questions -------------------------------------------------------------------------------------------------------------------------

CUresult handle_cuCtxGetDevice(CUdevice* device) noexcept {
  if (!device) return CUDA_ERROR_INVALID_VALUE;
  uint64_t value = current_context();
  if (!value) return CUDA_ERROR_INVALID_CONTEXT;
  Context* context = state().contexts.find(value);
  if (!context) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  *device = context->device;
  return CUDA_SUCCESS;
}

CUresult handle_cuCtxGetDevice_v2(CUdevice* device, CUcontext ctx) noexcept {
  if (!ctx) return handle_cuCtxGetDevice(device);
  if (!device) return CUDA_ERROR_INVALID_VALUE;
  Context* context = state().contexts.find(value_of(ctx));
  if (!context) return CUDA_ERROR_INVALID_CONTEXT;
  *device = context->device;
  return CUDA_SUCCESS;
}

CUresult handle_cuCtxGetId(CUcontext ctx, unsigned long long* ctxId) noexcept {
  if (!ctxId) return CUDA_ERROR_INVALID_VALUE;
  Context* context = find_context(ctx);
  if (!context) return ctx || !current_as_set() ? CUDA_ERROR_INVALID_CONTEXT : CUDA_ERROR_CONTEXT_IS_DESTROYED;
  *ctxId = context_id(*context);
  return CUDA_SUCCESS;
}

CUresult handle_cuCtxGetFlags(unsigned int* flags) noexcept {
  if (!flags) return CUDA_ERROR_INVALID_VALUE;
  if (!current_context()) return CUDA_ERROR_INVALID_CONTEXT;
  Context* context = state().contexts.find(current_context());
  if (!context) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  *flags = context->flags.load(std::memory_order_relaxed);
  // A primary context always maps host memory; its state (cuDevicePrimaryCtxGetState) does not say so (580.159.04).
  if (context->primary) *flags |= CU_CTX_MAP_HOST;
  return CUDA_SUCCESS;
}

CUresult handle_cuCtxSetFlags(unsigned int flags) noexcept {
  Context* context;
  if (CUresult result = need_context(&context); result != CUDA_SUCCESS) return result;
  if (flags & ~unsigned(CU_CTX_FLAGS_MASK)) return CUDA_ERROR_INVALID_VALUE;
  context->flags.store(flags, std::memory_order_relaxed);
  return CUDA_SUCCESS;
}

CUresult handle_cuCtxGetApiVersion(CUcontext ctx, unsigned int* version) noexcept {
  if (!version) return CUDA_ERROR_INVALID_VALUE;
  Context* context = find_context(ctx);
  if (!context || !context->alive()) return CUDA_ERROR_INVALID_CONTEXT;
  *version = context->api_version.load(std::memory_order_relaxed);
  return CUDA_SUCCESS;
}

CUresult handle_cuCtxGetStreamPriorityRange(int* least, int* greatest) noexcept {
  Context* context;
  if (CUresult result = need_context(&context); result != CUDA_SUCCESS) return result;
  const DeviceSnapshot& device = *device_snapshot(context->device);
  if (least) *least = device.least_priority;
  if (greatest) *greatest = device.greatest_priority;
  return CUDA_SUCCESS;
}

// --- Synchronising -----------------------------------------------------------------------------------------------------------------------

CUresult handle_cuCtxSynchronize() noexcept {
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  Session& session = *Session::get();
  uint64_t graphs = session.callbacks().graphs_launched();
  CUresult result = session.take_async_error(remote_cuCtxSynchronize());
  if (result == CUDA_SUCCESS) session.callbacks().graphs_completed(graphs);
  return result;
}

CUresult handle_cuCtxSynchronize_v2(CUcontext ctx) noexcept {
  if (!ctx) return handle_cuCtxSynchronize();
  if (!state().contexts.find(value_of(ctx))) return CUDA_ERROR_INVALID_CONTEXT;
  CurrentContext current(value_of(ctx));
  return handle_cuCtxSynchronize();
}

}  // namespace bf::client
