// Green contexts: shares of a device's multiprocessors. A CUcontext stands for each (cuCtxFromGreenCtx), which threads make
// current; what they then make belongs to the primary context, which lives at least as long.
#include "api/remote.h"
#include "client/contexts.h"

namespace bf::client {

namespace {

// The green context, or for NULL the calling thread's.
CUresult find_green(CUgreenCtx green, Context** context) {
  GreenContext* object = state().green_contexts.find(value_of(green));
  const uint64_t value = object ? object->context : green ? 0 : current_green();
  *context = value ? state().contexts.find(value) : nullptr;
  return *context ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

}  // namespace

CUresult handle_cuGreenCtxCreate(CUgreenCtx* phCtx, CUdevResourceDesc desc, CUdevice dev, unsigned int flags) noexcept {
  if (!phCtx) return CUDA_ERROR_INVALID_VALUE;
  CUcontext primary;
  if (CUresult result = handle_cuDevicePrimaryCtxRetain(&primary, dev); result != CUDA_SUCCESS) return result;
  CUgreenCtx made = nullptr;
  CUcontext context = nullptr;
  CUresult result = remote_cuGreenCtxCreate(&made, desc, dev, flags);
  if (result == CUDA_SUCCESS) {
    result = remote_cuCtxFromGreenCtx(&context, made);
    if (result != CUDA_SUCCESS) remote_cuGreenCtxDestroy(made);
  }
  if (result != CUDA_SUCCESS) {
    handle_cuDevicePrimaryCtxRelease_v2(dev);
    return result;
  }
  state().green_contexts.find(value_of(made))->context = value_of(context);
  begin_green_context(value_of(context), value_of(made), value_of(primary));
  *phCtx = made;
  return CUDA_SUCCESS;
}

CUresult handle_cuGreenCtxDestroy(CUgreenCtx hCtx) noexcept {
  Context* context;
  if (!hCtx) return CUDA_ERROR_INVALID_CONTEXT;
  if (CUresult result = find_green(hCtx, &context); result != CUDA_SUCCESS) return result;
  const int device = context->device;
  end_green_context(state().green_contexts.find(value_of(hCtx))->context);
  CUresult result = remote_cuGreenCtxDestroy(hCtx);
  CUresult released = handle_cuDevicePrimaryCtxRelease_v2(device);
  return result == CUDA_SUCCESS ? released : result;
}

CUresult handle_cuCtxFromGreenCtx(CUcontext* pContext, CUgreenCtx hCtx) noexcept {
  if (!pContext) return CUDA_ERROR_INVALID_VALUE;
  GreenContext* green = state().green_contexts.find(value_of(hCtx));
  if (!green) return CUDA_ERROR_INVALID_CONTEXT;
  *pContext = as_handle<CUcontext>(green->context);
  return CUDA_SUCCESS;
}

CUresult handle_cuGreenCtxGetId(CUgreenCtx greenCtx, unsigned long long* greenCtxId) noexcept {
  if (!greenCtxId) return CUDA_ERROR_INVALID_VALUE;
  Context* context;
  if (CUresult result = find_green(greenCtx, &context); result != CUDA_SUCCESS) return result;
  *greenCtxId = context_id(*context);
  return CUDA_SUCCESS;
}

// The driver wants the context named, also where one is current (580.159.04).
CUresult handle_cuCtxGetDevResource(CUcontext hCtx, CUdevResource* resource, CUdevResourceType type) noexcept {
  return hCtx ? remote_cuCtxGetDevResource(hCtx, resource, type) : CUDA_ERROR_INVALID_CONTEXT;
}

}  // namespace bf::client
