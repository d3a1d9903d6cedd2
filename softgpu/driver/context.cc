#include "softgpu/driver/context.h"

#include <sys/mman.h>

#include <cstdio>

#include "proto/abi/context_storage.h"
#include "softgpu/driver/array.h"
#include "softgpu/driver/driver.h"
#include "softgpu/driver/green_context.h"
#include "softgpu/driver/module.h"
#include "softgpu/driver/pool.h"
#include "softgpu/driver/stream.h"
#include "softgpu/driver/thread_value.h"

namespace bf::softgpu {
namespace {

std::mutex g_primary_mutex;  // retain counts and state changes of primary contexts
std::atomic<uint64_t> g_last_context_id{0};

struct StackTag;
std::vector<ContextRef>& context_stack() { return thread_value<std::vector<ContextRef>, StackTag>(); }

constexpr uint32_t kKnownFlags = CU_CTX_FLAGS_MASK;

CUresult check_flags(uint32_t flags) {
  uint32_t schedule = flags & CU_CTX_SCHED_MASK;
  bool known = schedule == 0 || schedule == CU_CTX_SCHED_SPIN || schedule == CU_CTX_SCHED_YIELD ||
               schedule == CU_CTX_SCHED_BLOCKING_SYNC;
  return known && (flags & ~kKnownFlags) == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// Gives the context its memory and its default stream.
CUresult activate(const ContextRef& context) {
  if (!context->device->memory.charge(kContextBytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  context->fault = CUDA_SUCCESS;
  context->legacy = std::make_shared<Stream>();
  context->legacy->context = context;
  context->legacy->legacy = true;
  context->legacy->id = 1;
  context->legacy->handle = CU_STREAM_LEGACY;
  context->streams.push_back(context->legacy);
  context->destroyed = false;
  context->active = true;
  return CUDA_SUCCESS;
}

// Ends everything that lives in the context. Destructors of context-local storage run first, without locks, when the
// context is already dead.
void deactivate(const ContextRef& context) {
  context->active = false;
  context->destroyed = true;
  abi::storage_context_died(context->handle);
  end_green_contexts(context);
  synchronize(*context);
  streams().remove_if([&](const Stream& stream) { return stream.context == context; });
  events().remove_if([&](const Event& event) { return event.context == context; });
  modules().remove_if([&](const Module& module) { return module.context == context; });
  functions().remove_if([&](const Function& function) { return function.context.get() == context.get(); });
  drop_library_instances(*context);
  arrays().remove_if([&](const Array& array) { return array.context_id == context->id; });
  for (const AllocationRef& allocation : AddressSpace::instance().remove_if([&](const Allocation& allocation) {
         return allocation.context_id == context->id && allocation.kind != MemoryKind::kMapped;
       }))
    release_memory(*allocation);
  {
    std::lock_guard lock(context->mutex);
    context->streams.clear();
    context->legacy = nullptr;
    context->heap = nullptr;
    context->peers.clear();
  }
  context->device->memory.uncharge(kContextBytes);
}

}  // namespace

ContextRegistry& contexts() {
  static ContextRegistry* registry = new ContextRegistry;
  return *registry;
}

ContextRef make_context(Device& device) {
  auto context = std::make_shared<Context>();
  context->device = &device;
  context->id = ++g_last_context_id;
  return context;
}

void make_primary_context(Device& device) {
  ContextRef context = make_context(device);
  context->primary = true;
  contexts().add(context);
  device.primary = context;
}

static ContextRef owner_of(const ContextRef& context) {
  return context && context->underlying ? context->underlying : context;
}

ContextRef current_as_set() {
  auto& stack = context_stack();
  return stack.empty() ? nullptr : stack.back();
}

ContextRef current_or_null() { return owner_of(current_as_set()); }

ContextRef current_green() {
  ContextRef context = current_as_set();
  return context && context->underlying ? context : nullptr;
}

CUresult usable(const Context& context) {
  if (!context.active) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  return context.fault;
}

CUresult current_context(ContextRef* context) {
  ContextRef set = current_as_set();
  if (!set) return CUDA_ERROR_INVALID_CONTEXT;
  BF_TRY(usable(*set));
  *context = owner_of(set);
  return usable(**context);
}

CUresult find_context(CUcontext handle, ContextRef* context) {
  if (!handle) return current_context(context);
  ContextRef found = contexts().find(handle);
  if (!found) return CUDA_ERROR_INVALID_CONTEXT;
  BF_TRY(usable(*found));
  *context = owner_of(found);
  return usable(**context);
}

CUresult synchronize(Context& context) {
  std::vector<OperationRef> tails;
  {
    std::lock_guard lock(context.mutex);
    for (const auto& stream : context.streams)
      if (stream->tail) tails.push_back(stream->tail);
    tails.insert(tails.end(), context.orphans.begin(), context.orphans.end());
    context.orphans.clear();
  }
  for (const OperationRef& tail : tails) tail->wait();
  flush_printed(context);
  return context.fault;
}

void print_text(Context& context, std::string_view text) {
  std::lock_guard lock(context.print_mutex);
  context.printed.emplace_back(text);
  context.printed_bytes += text.size();
  // A full buffer loses its oldest output, as on a GPU.
  while (context.printed_bytes > context.printf_bytes && context.printed.size() > 1) {
    context.printed_bytes -= context.printed.front().size();
    context.printed.pop_front();
  }
}

void flush_printed(Context& context) {
  std::lock_guard lock(context.print_mutex);
  for (const std::string& text : context.printed) fwrite(text.data(), 1, text.size(), stdout);
  if (!context.printed.empty()) fflush(stdout);
  context.printed.clear();
  context.printed_bytes = 0;
}

// ---------------------------------------------------------------------------------------------------- primary contexts

BF_API CUresult cuDevicePrimaryCtxRetain(CUcontext* pctx, CUdevice dev) {
  BF_ENTER();
  Device* device = device_at(dev);
  if (!pctx) return CUDA_ERROR_INVALID_VALUE;
  if (!device) return CUDA_ERROR_INVALID_DEVICE;
  std::lock_guard lock(g_primary_mutex);
  Context& context = *device->primary;
  if (!context.active) BF_TRY(activate(device->primary));
  context.retains++;
  *pctx = context.handle;
  return CUDA_SUCCESS;
}

BF_API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice dev) {
  BF_ENTER();
  Device* device = device_at(dev);
  if (!device) return CUDA_ERROR_INVALID_DEVICE;
  {
    std::lock_guard lock(g_primary_mutex);
    if (device->primary->retains == 0) return CUDA_ERROR_INVALID_CONTEXT;
    if (--device->primary->retains > 0) return CUDA_SUCCESS;
  }
  deactivate(device->primary);
  return CUDA_SUCCESS;
}

BF_API CUresult cuDevicePrimaryCtxReset_v2(CUdevice dev) {
  BF_ENTER();
  Device* device = device_at(dev);
  if (!device) return CUDA_ERROR_INVALID_DEVICE;
  {
    std::lock_guard lock(g_primary_mutex);
    device->primary->retains = 0;
    if (!device->primary->active) return CUDA_SUCCESS;
  }
  deactivate(device->primary);
  device->primary->flags = 0;
  return CUDA_SUCCESS;
}

BF_API CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice dev, unsigned int flags) {
  BF_ENTER();
  Device* device = device_at(dev);
  if (!device) return CUDA_ERROR_INVALID_DEVICE;
  BF_TRY(check_flags(flags));
  device->primary->flags = flags;
  return CUDA_SUCCESS;
}

BF_API CUresult cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int* flags, int* active) {
  BF_ENTER();
  Device* device = device_at(dev);
  if (!device) return CUDA_ERROR_INVALID_DEVICE;
  if (!flags || !active) return CUDA_ERROR_INVALID_VALUE;
  *flags = device->primary->flags;
  *active = device->primary->active;
  return CUDA_SUCCESS;
}

// ----------------------------------------------------------------------------------------------------- created
// contexts

BF_API CUresult cuCtxCreate_v2(CUcontext* pctx, unsigned int flags, CUdevice dev) {
  BF_ENTER();
  Device* device = device_at(dev);
  if (!pctx) return CUDA_ERROR_INVALID_VALUE;
  if (!device) return CUDA_ERROR_INVALID_DEVICE;
  BF_TRY(check_flags(flags));
  ContextRef context = make_context(*device);
  context->flags = flags;
  BF_TRY(activate(context));
  *pctx = contexts().add(context);
  context_stack().push_back(context);
  return CUDA_SUCCESS;
}

BF_API CUresult cuCtxCreate_v3(CUcontext* pctx, CUexecAffinityParam* params, int count, unsigned int flags,
                               CUdevice dev) {
  BF_ENTER();
  if (count != 0 || params) return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
  return cuCtxCreate_v2(pctx, flags, dev);
}

BF_API CUresult cuCtxCreate_v4(CUcontext* pctx, CUctxCreateParams* params, unsigned int flags, CUdevice dev) {
  BF_ENTER();
  if (params && (params->numExecAffinityParams || params->cigParams)) return CUDA_ERROR_NOT_SUPPORTED;
  return cuCtxCreate_v2(pctx, flags, dev);
}

BF_API CUresult cuCtxDestroy_v2(CUcontext handle) {
  BF_ENTER();
  if (!handle) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context = contexts().find(handle);
  if (!context || context->primary || context->underlying) return CUDA_ERROR_INVALID_CONTEXT;
  deactivate(context);
  contexts().remove(handle);
  auto& stack = context_stack();
  if (!stack.empty() && stack.back() == context) stack.pop_back();
  return CUDA_SUCCESS;
}

BF_API CUresult cuCtxPushCurrent_v2(CUcontext handle) {
  BF_ENTER();
  if (!handle) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context = contexts().find(handle);
  if (!context) return CUDA_ERROR_INVALID_CONTEXT;
  context_stack().push_back(std::move(context));
  return CUDA_SUCCESS;
}

BF_API CUresult cuCtxPopCurrent_v2(CUcontext* pctx) {
  BF_ENTER();
  auto& stack = context_stack();
  if (stack.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  if (pctx) *pctx = stack.back()->handle;
  stack.pop_back();
  return CUDA_SUCCESS;
}

BF_API CUresult cuCtxSetCurrent(CUcontext handle) {
  BF_ENTER();
  auto& stack = context_stack();
  if (!handle) {
    if (!stack.empty()) stack.pop_back();
    return CUDA_SUCCESS;
  }
  if (!stack.empty() && stack.back()->handle == handle) return CUDA_SUCCESS;
  ContextRef context = contexts().find(handle);
  if (!context) return CUDA_ERROR_INVALID_CONTEXT;
  if (stack.empty())
    stack.push_back(std::move(context));
  else
    stack.back() = std::move(context);
  return CUDA_SUCCESS;
}

BF_API CUresult cuCtxGetCurrent(CUcontext* pctx) {
  BF_ENTER();
  if (!pctx) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context = current_as_set();
  *pctx = context ? context->handle : nullptr;
  return CUDA_SUCCESS;
}

BF_API CUresult cuCtxGetDevice_v2(CUdevice* device, CUcontext handle) {
  BF_ENTER();
  if (!device) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context = handle ? contexts().find(handle) : current_or_null();
  if (!context) return CUDA_ERROR_INVALID_CONTEXT;
  *device = context->device->ordinal;
  return CUDA_SUCCESS;
}

BF_API CUresult cuCtxGetDevice(CUdevice* device) {
  BF_ENTER();
  return cuCtxGetDevice_v2(device, nullptr);
}

BF_API CUresult cuCtxGetFlags(unsigned int* flags) {
  BF_ENTER();
  if (!flags) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context = current_or_null();
  if (!context) return CUDA_ERROR_INVALID_CONTEXT;
  *flags = context->flags | (context->primary ? CU_CTX_MAP_HOST : 0);  // its state does not show the bit (580.159.04)
  return CUDA_SUCCESS;
}

BF_API CUresult cuCtxSetFlags(unsigned int flags) {
  BF_ENTER();
  ContextRef context;
  BF_TRY(current_context(&context));
  BF_TRY(check_flags(flags));
  context->flags = flags;
  return CUDA_SUCCESS;
}

BF_API CUresult cuCtxGetId(CUcontext handle, unsigned long long* id) {
  BF_ENTER();
  if (!id) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context = handle ? contexts().find(handle) : current_as_set();
  if (!context) return CUDA_ERROR_INVALID_CONTEXT;
  *id = context->id;
  return CUDA_SUCCESS;
}

BF_API CUresult cuCtxSynchronize_v2(CUcontext handle) {
  BF_ENTER();
  ContextRef context;
  BF_TRY(find_context(handle, &context));
  BF_TRY(check_not_capturing());
  return synchronize(*context);
}

BF_API CUresult cuCtxSynchronize() {
  BF_ENTER();
  return cuCtxSynchronize_v2(nullptr);
}

BF_API CUresult cuCtxGetApiVersion(CUcontext handle, unsigned int* version) {
  BF_ENTER();
  if (!version) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context = handle ? contexts().find(handle) : current_or_null();
  if (!context || !context->active) return CUDA_ERROR_INVALID_CONTEXT;
  *version = context->api_version;
  return CUDA_SUCCESS;
}

BF_API CUresult cuCtxAttach(CUcontext* pctx, unsigned int flags) {
  BF_ENTER();
  if (!pctx || flags) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context;
  BF_TRY(current_context(&context));
  *pctx = context->handle;
  return CUDA_SUCCESS;
}

BF_API CUresult cuCtxDetach(CUcontext handle) {
  BF_ENTER();
  ContextRef context = contexts().find(handle);
  return context && context == current_as_set() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

// ---------------------------------------------------------------------------------------------------------------
// limits

namespace {

size_t* limit_field(Context& context, CUlimit limit) {
  switch (limit) {
    case CU_LIMIT_STACK_SIZE:
      return &context.stack_bytes;
    case CU_LIMIT_PRINTF_FIFO_SIZE:
      return &context.printf_bytes;
    case CU_LIMIT_MALLOC_HEAP_SIZE:
      return &context.heap_bytes;
    case CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH:
      return &context.runtime_sync_depth;
    case CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT:
      return &context.runtime_pending_launches;
    case CU_LIMIT_MAX_L2_FETCH_GRANULARITY:
      return &context.max_l2_granularity;
    case CU_LIMIT_PERSISTING_L2_CACHE_SIZE:
      return &context.persisting_l2_bytes;
    default:
      return nullptr;
  }
}

}  // namespace

BF_API CUresult cuCtxSetLimit(CUlimit limit, size_t value) {
  BF_ENTER();
  ContextRef context;
  BF_TRY(current_context(&context));
  std::lock_guard lock(context->mutex);
  size_t* field = limit_field(*context, limit);
  if (!field) return limit < CU_LIMIT_MAX ? CUDA_ERROR_UNSUPPORTED_LIMIT : CUDA_ERROR_INVALID_VALUE;
  if (limit == CU_LIMIT_STACK_SIZE && value > (512 << 10)) return CUDA_ERROR_INVALID_VALUE;
  if (limit == CU_LIMIT_MALLOC_HEAP_SIZE && context->heap)
    return CUDA_ERROR_INVALID_VALUE;  // fixed by the first launch
  *field = limit == CU_LIMIT_STACK_SIZE ? (value + 15) / 16 * 16 : value;
  return CUDA_SUCCESS;
}

BF_API CUresult cuCtxGetLimit(size_t* value, CUlimit limit) {
  BF_ENTER();
  if (!value) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context;
  BF_TRY(current_context(&context));
  std::lock_guard lock(context->mutex);
  size_t* field = limit_field(*context, limit);
  if (!field) return limit < CU_LIMIT_MAX ? CUDA_ERROR_UNSUPPORTED_LIMIT : CUDA_ERROR_INVALID_VALUE;
  *value = *field;
  return CUDA_SUCCESS;
}

BF_API CUresult cuCtxGetCacheConfig(CUfunc_cache* config) {
  BF_ENTER();
  if (!config) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context;
  BF_TRY(current_context(&context));
  *config = context->cache_config;
  return CUDA_SUCCESS;
}

BF_API CUresult cuCtxSetCacheConfig(CUfunc_cache config) {
  BF_ENTER();
  if (unsigned(config) > CU_FUNC_CACHE_PREFER_EQUAL) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context;
  BF_TRY(current_context(&context));
  context->cache_config = config;
  return CUDA_SUCCESS;
}

BF_API CUresult cuCtxGetSharedMemConfig(CUsharedconfig* config) {
  BF_ENTER();
  if (!config) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context;
  BF_TRY(current_context(&context));
  *config = context->shared_config;
  return CUDA_SUCCESS;
}

BF_API CUresult cuCtxSetSharedMemConfig(CUsharedconfig config) {
  BF_ENTER();
  if (unsigned(config) > CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context;
  return current_context(&context);  // the banks of this generation are fixed; the call is accepted
}

BF_API CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  BF_ENTER();
  ContextRef context;
  BF_TRY(current_context(&context));
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return CUDA_SUCCESS;
}

BF_API CUresult cuCtxResetPersistingL2Cache() {
  BF_ENTER();
  ContextRef context;
  return current_context(&context);
}

BF_API CUresult cuCtxGetExecAffinity(CUexecAffinityParam* affinity, CUexecAffinityType type) {
  BF_ENTER();
  ContextRef context;
  BF_TRY(current_context(&context));
  if (!affinity || type != CU_EXEC_AFFINITY_TYPE_SM_COUNT) return CUDA_ERROR_INVALID_VALUE;
  return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
}

// ----------------------------------------------------------------------------------------------------------- peer
// access

BF_API CUresult cuDeviceCanAccessPeer(int* can, CUdevice dev, CUdevice peer) {
  BF_ENTER();
  if (!can) return CUDA_ERROR_INVALID_VALUE;
  if (!device_at(dev) || !device_at(peer)) return CUDA_ERROR_INVALID_DEVICE;
  *can = dev != peer;
  return CUDA_SUCCESS;
}

BF_API CUresult cuCtxEnablePeerAccess(CUcontext peer_handle, unsigned int flags) {
  BF_ENTER();
  ContextRef context, peer = contexts().find(peer_handle);
  BF_TRY(current_context(&context));
  if (flags) return CUDA_ERROR_INVALID_VALUE;
  if (!peer) return CUDA_ERROR_INVALID_CONTEXT;
  if (peer->device == context->device) return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
  std::lock_guard lock(context->mutex);
  return context->peers.insert(peer_handle).second ? CUDA_SUCCESS : CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
}

BF_API CUresult cuCtxDisablePeerAccess(CUcontext peer_handle) {
  BF_ENTER();
  ContextRef context, peer = contexts().find(peer_handle);
  BF_TRY(current_context(&context));
  if (!peer) return CUDA_ERROR_INVALID_CONTEXT;
  std::lock_guard lock(context->mutex);
  return context->peers.erase(peer_handle) ? CUDA_SUCCESS : CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
}

BF_API CUresult cuDeviceGetP2PAttribute(int* value, CUdevice_P2PAttribute attribute, CUdevice source,
                                        CUdevice destination) {
  BF_ENTER();
  if (!value) return CUDA_ERROR_INVALID_VALUE;
  if (!device_at(source) || !device_at(destination) || source == destination) return CUDA_ERROR_INVALID_DEVICE;
  switch (attribute) {
    case CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK:
      *value = 0;
      return CUDA_SUCCESS;
    case CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED:
    case CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED:
    case CU_DEVICE_P2P_ATTRIBUTE_CUDA_ARRAY_ACCESS_SUPPORTED:
      *value = 1;
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

}  // namespace bf::softgpu
