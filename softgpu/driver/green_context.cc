// Green contexts: a share of a device's multiprocessors. Kernels of the software GPU run on whatever processors there
// are, so the share is counted, not enforced. The context that stands for one has a default stream of its own; what is
// made while it is current belongs to the primary context (Context::underlying).
#include "softgpu/driver/green_context.h"

#include <algorithm>
#include <cstring>

#include "softgpu/driver/driver.h"
#include "softgpu/driver/stream.h"

namespace bf::softgpu {
namespace {

// Of compute capability 8.0 (CUDA programming guide, "Green contexts"); without coscheduling, of any.
constexpr uint32_t kGroup = 4, kAlignment = 2;
constexpr uint32_t kLooseGroup = 2;

// What a resource says beyond its public part.
struct Origin {
  uint32_t device = 0;
  uint32_t first = 0;  // multiprocessor
  uint64_t split = 0;  // number of the split that made it; 0: none
};

std::atomic<uint64_t> g_last_split{0};

Origin origin_of(const CUdevResource& resource) {
  Origin origin;
  std::memcpy(&origin, resource._internal_padding, sizeof origin);
  return origin;
}

CUdevResource make_resource(const Origin& origin, uint32_t count, bool loose = false) {
  CUdevResource resource{};
  if (count == 0) return resource;  // CU_DEV_RESOURCE_TYPE_INVALID
  resource.type = CU_DEV_RESOURCE_TYPE_SM;
  std::memcpy(resource._internal_padding, &origin, sizeof origin);
  resource.sm.smCount = count;
  resource.sm.minSmPartitionSize = loose ? kLooseGroup : kGroup;
  resource.sm.smCoscheduledAlignment = kAlignment;
  return resource;
}

CUresult give_resource(CUdevResource* resource, CUdevResourceType type, const CUdevResource& have) {
  if (!resource) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_DEV_RESOURCE_TYPE_SM) return CUDA_ERROR_INVALID_RESOURCE_TYPE;
  *resource = have;
  return CUDA_SUCCESS;
}

CUdevResource whole(const Device& device) { return make_resource({uint32_t(device.ordinal), 0, 0}, kMultiprocessors); }

// The resources that a descriptor stands for; it lives as long as the process.
struct Descriptor {
  CUdevResourceDesc handle = nullptr;
  CUdevResource resource{};
};
using DescriptorRegistry = Registry<CUdevResourceDesc, Descriptor, ObjectKind::kResourceDescriptor>;

DescriptorRegistry& descriptors() {
  static auto* registry = new DescriptorRegistry;
  return *registry;
}

void end(GreenContext& green) {
  green.context->active = false;
  green.context->destroyed = true;
  green.context->legacy = nullptr;
  contexts().remove(green.context->handle);
}

// What `body(green)` says of the green context of `handle`.
template <typename Body>
CUresult with(CUgreenCtx handle, Body body) {
  const auto green = green_contexts().find(handle);
  return green ? body(*green) : CUDA_ERROR_INVALID_CONTEXT;
}

}  // namespace

GreenContextRegistry& green_contexts() {
  static auto* registry = new GreenContextRegistry;
  return *registry;
}

void end_green_contexts(const ContextRef& primary) {
  const auto ended = green_contexts().remove_if([&](const GreenContext& green) { return green.context->underlying == primary; });
  for (const auto& green : ended) end(*green);
}

BF_API CUresult cuDeviceGetDevResource(CUdevice dev, CUdevResource* resource, CUdevResourceType type) {
  BF_ENTER();
  Device* device = device_at(dev);
  if (!device) return CUDA_ERROR_INVALID_DEVICE;
  return give_resource(resource, type, whole(*device));
}

BF_API CUresult cuCtxGetDevResource(CUcontext handle, CUdevResource* resource, CUdevResourceType type) {
  BF_ENTER();
  const ContextRef context = contexts().find(handle);  // NULL is none (580.159.04)
  if (!context) return CUDA_ERROR_INVALID_CONTEXT;
  const auto green = green_contexts().find(context->green);
  return give_resource(resource, type, green ? green->resource : whole(*context->device));
}

BF_API CUresult cuGreenCtxGetDevResource(CUgreenCtx handle, CUdevResource* resource, CUdevResourceType type) {
  BF_ENTER();
  return with(handle, [&](GreenContext& green) { return give_resource(resource, type, green.resource); });
}

BF_API CUresult cuDevSmResourceSplitByCount(CUdevResource* result, unsigned int* groups, const CUdevResource* input,
                                            CUdevResource* remaining, unsigned int flags, unsigned int least) {
  BF_ENTER();
  if (!groups || !input || (flags & ~unsigned(CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING))) return CUDA_ERROR_INVALID_VALUE;
  if (input->type != CU_DEV_RESOURCE_TYPE_SM) return CUDA_ERROR_INVALID_RESOURCE_TYPE;
  const Origin origin = origin_of(*input);
  if (origin.split != 0) return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
  if (least > input->sm.smCount) return CUDA_ERROR_INVALID_VALUE;
  const bool loose = flags & CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING;
  const uint32_t size = std::max((least + kAlignment - 1) / kAlignment * kAlignment, loose ? kLooseGroup : kGroup);
  const uint32_t most = input->sm.smCount / size;
  const uint32_t made = result ? std::min(*groups, most) : most;
  const uint64_t split = ++g_last_split;
  for (uint32_t i = 0; result && i < made; ++i) {
    result[i] = make_resource({origin.device, origin.first + i * size, split}, size, loose);
  }
  if (remaining) {
    *remaining = make_resource({origin.device, origin.first + made * size, split}, input->sm.smCount - made * size, loose);
  }
  *groups = made;
  return CUDA_SUCCESS;
}

BF_API CUresult cuDevResourceGenerateDesc(CUdevResourceDesc* handle, CUdevResource* resources, unsigned int count) {
  BF_ENTER();
  if (!handle || !resources || count == 0) return CUDA_ERROR_INVALID_VALUE;
  auto descriptor = std::make_shared<Descriptor>();
  Origin origin = origin_of(resources[0]);
  uint32_t processors = 0;
  for (const CUdevResource& resource : std::span(resources, count)) {
    if (resource.type != CU_DEV_RESOURCE_TYPE_SM) return CUDA_ERROR_INVALID_RESOURCE_TYPE;
    const Origin other = origin_of(resource);
    if (other.device != origin.device || (count > 1 && (other.split == 0 || other.split != origin.split)))
      return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    processors += resource.sm.smCount;
  }
  origin.split = 0;  // what a green context has can be split again
  descriptor->resource = make_resource(origin, processors);
  *handle = descriptors().add(descriptor);
  return CUDA_SUCCESS;
}

BF_API CUresult cuGreenCtxCreate(CUgreenCtx* handle, CUdevResourceDesc desc, CUdevice dev, unsigned int flags) {
  BF_ENTER();
  Device* device = device_at(dev);
  const auto descriptor = descriptors().find(desc);
  if (!handle || !descriptor || flags != CU_GREEN_CTX_DEFAULT_STREAM) return CUDA_ERROR_INVALID_VALUE;
  if (!device) return CUDA_ERROR_INVALID_DEVICE;
  if (origin_of(descriptor->resource).device != uint32_t(dev)) return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
  CUcontext primary;
  BF_TRY(cuDevicePrimaryCtxRetain(&primary, dev));
  auto green = std::make_shared<GreenContext>();
  green->resource = descriptor->resource;
  green->context = make_context(*device);
  green->context->underlying = device->primary;
  green->context->active = true;
  contexts().add(green->context);
  green->context->legacy = make_stream(device->primary, 0, 0);
  green->context->legacy->green = green->context;
  *handle = green_contexts().add(green);
  green->context->green = *handle;
  return CUDA_SUCCESS;
}

BF_API CUresult cuGreenCtxDestroy(CUgreenCtx handle) {
  BF_ENTER();
  const auto green = green_contexts().remove(handle);
  if (!green) return CUDA_ERROR_INVALID_CONTEXT;
  cuStreamDestroy_v2(green->context->legacy->handle);
  end(*green);
  return cuDevicePrimaryCtxRelease_v2(green->context->device->ordinal);
}

BF_API CUresult cuCtxFromGreenCtx(CUcontext* context, CUgreenCtx handle) {
  BF_ENTER();
  if (!context) return CUDA_ERROR_INVALID_VALUE;
  return with(handle, [&](GreenContext& green) {
    *context = green.context->handle;
    return CUDA_SUCCESS;
  });
}

BF_API CUresult cuGreenCtxGetId(CUgreenCtx handle, unsigned long long* id) {
  BF_ENTER();
  if (!id) return CUDA_ERROR_INVALID_VALUE;
  const ContextRef current = current_as_set();
  return with(handle || !current ? handle : current->green, [&](GreenContext& green) {
    *id = green.context->id;
    return CUDA_SUCCESS;
  });
}

BF_API CUresult cuGreenCtxStreamCreate(CUstream* stream, CUgreenCtx handle, unsigned int flags, int priority) {
  BF_ENTER();
  if (!stream || flags != CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
  return with(handle, [&](GreenContext& green) {
    const StreamRef made = make_stream(green.context->underlying, flags, priority);
    made->green = green.context;
    *stream = made->handle;
    return CUDA_SUCCESS;
  });
}

BF_API CUresult cuStreamGetGreenCtx(CUstream handle, CUgreenCtx* green) {
  BF_ENTER();
  if (!green) return CUDA_ERROR_INVALID_VALUE;
  CUcontext context;
  return cuStreamGetCtx_v2(handle, &context, green);
}

BF_API CUresult cuGreenCtxRecordEvent(CUgreenCtx handle, CUevent event) {
  BF_ENTER();
  return with(handle, [&](GreenContext& green) { return record_event(green.context, event); });
}

BF_API CUresult cuGreenCtxWaitEvent(CUgreenCtx handle, CUevent event) {
  BF_ENTER();
  return with(handle, [&](GreenContext& green) { return wait_event(green.context, event); });
}

}  // namespace bf::softgpu
