#include "base/cuda_environment.h"
#include "softgpu/driver/graph.h"
#include "softgpu/driver/launch.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstring>

#include "base/log.h"
#include "softgpu/driver/driver.h"
#include "softgpu/driver/stream.h"
#include "softgpu/driver/texture.h"

namespace bf::softgpu {
namespace {

// What a kernel sees of its context.
class Environment final : public ptx::LaunchEnvironment {
 public:
  explicit Environment(Context& context) : context_(context) {
    static std::atomic<uint64_t> last_grid{0};
    multiprocessors = kMultiprocessors;
    grid_id = ++last_grid;
    std::lock_guard lock(context.mutex);
    stack_bytes = context.stack_bytes;
    if (!context.heap) make_heap();
    heap = context.heap.get();
    for (CUcontext peer : context.peers)
      if (ContextRef other = contexts().find(peer)) peers_.push_back(other->device->ordinal);
  }

  ptx::MemoryRange find_memory(uint64_t address) override {
    AllocationRef allocation = AddressSpace::instance().find(address);
    if (!allocation || !allocation->visible || !reachable(*allocation)) return {};
    return {allocation->begin, allocation->end(), allocation->writable};
  }
  void print(std::string_view text) override { print_text(context_, text); }
  void assertion_failed(const ptx::AssertFailure& failure) override {
    const auto& at = failure.where;
    fprintf(stderr, "%s:%u: %s: block: [%u,%u,%u], thread: [%u,%u,%u] Assertion `%s` failed.\n", failure.file.c_str(),
            failure.line, failure.function.c_str(), at.block.x, at.block.y, at.block.z, at.thread.x, at.thread.y,
            at.thread.z, failure.message.c_str());
  }
  bool fetch_texture(const ptx::TextureRequest& request, uint32_t (&texel)[4]) override {
    return sample_texture(request, texel);
  }
  bool read_surface(const ptx::SurfaceRequest& request, void* data) override {
    return access_surface(request, data, false);
  }
  bool write_surface(const ptx::SurfaceRequest& request, const void* data) override {
    return access_surface(request, const_cast<void*>(data), true);
  }
  uint32_t query_texture(uint64_t object, int axis) override { return texture_extent(object, axis); }

 private:
  // Memory of another device is reachable once peer access is on; managed, pinned and mapped memory always is.
  bool reachable(const Allocation& allocation) const {
    if (allocation.kind != MemoryKind::kDevice && allocation.kind != MemoryKind::kVariable) return true;
    if (allocation.device == context_.device->ordinal) return true;
    return std::find(peers_.begin(), peers_.end(), allocation.device) != peers_.end();
  }

  // The heap of device malloc(): address space only, until a kernel uses it.
  void make_heap() {
    size_t bytes = (context_.heap_bytes + 4095) / 4096 * 4096;
    if (bytes == 0) return;
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return;
    auto range = std::make_shared<Allocation>();
    range->begin = uint64_t(memory);
    range->bytes = bytes;
    range->kind = MemoryKind::kHeap;
    range->device = context_.device->ordinal;
    range->context_id = context_.id;
    range->context = context_.handle;
    AddressSpace::instance().insert(range);
    context_.heap = std::make_unique<ptx::DeviceHeap>(range->begin, bytes);
  }

  Context& context_;
  std::vector<int> peers_;
};

CUresult fault_of(ptx::LaunchCode code) {
  switch (code) {
    case ptx::LaunchCode::kOk:
      return CUDA_SUCCESS;
    case ptx::LaunchCode::kIllegalAddress:
      return CUDA_ERROR_ILLEGAL_ADDRESS;
    case ptx::LaunchCode::kMisalignedAddress:
      return CUDA_ERROR_MISALIGNED_ADDRESS;
    case ptx::LaunchCode::kInvalidAddressSpace:
      return CUDA_ERROR_INVALID_ADDRESS_SPACE;
    case ptx::LaunchCode::kInvalidProgramCounter:
      return CUDA_ERROR_INVALID_PC;
    case ptx::LaunchCode::kIllegalInstruction:
      return CUDA_ERROR_ILLEGAL_INSTRUCTION;
    case ptx::LaunchCode::kAssert:
      return CUDA_ERROR_ASSERT;
    case ptx::LaunchCode::kStackOverflow:
      return CUDA_ERROR_HARDWARE_STACK_ERROR;
    case ptx::LaunchCode::kDeadlock:
      return CUDA_ERROR_LAUNCH_TIMEOUT;
    case ptx::LaunchCode::kTrap:
    case ptx::LaunchCode::kAborted:
    case ptx::LaunchCode::kInvalidLaunch:
      break;
  }
  return CUDA_ERROR_LAUNCH_FAILED;
}

}  // namespace

void run_kernel(Context& context, const KernelWork& work) {
  if (++context.device->launches > faults().sticky_after_launches) return context.fail(CUDA_ERROR_ILLEGAL_ADDRESS);
  Environment environment(context);
  ptx::LaunchOutcome outcome =
      ptx::launch(*work.function->module->image, *work.function->info, work.grid, work.arguments, environment);
  if (outcome.ok()) return;
  BF_WARN("kernel fault: {}", outcome.message);
  context.fail(fault_of(outcome.code));
}

int occupancy(const Function& function, uint64_t block_threads, uint64_t dynamic_shared_bytes) {
  const ptx::KernelInfo& info = *function.info;
  if (block_threads == 0 || block_threads > info.max_threads) return 0;
  uint64_t warps = (block_threads + 31) / 32;
  uint64_t shared = info.static_shared_bytes + dynamic_shared_bytes;
  if (shared > uint64_t(kSharedPerBlockOptin)) return 0;
  uint64_t shared_unit = (shared + kSharedReserved + 127) / 128 * 128;
  uint64_t blocks = std::min<uint64_t>(kBlocksPerMultiprocessor, kThreadsPerMultiprocessor / 32 / warps);
  blocks = std::min<uint64_t>(blocks, kSharedPerMultiprocessor / shared_unit);
  uint64_t registers_per_warp = (uint64_t(info.registers) * 32 + 255) / 256 * 256;
  if (registers_per_warp)
    blocks = std::min<uint64_t>(blocks, std::max<uint64_t>(kRegisters / registers_per_warp / warps, 1));
  return int(blocks);
}

CUresult check_launch(const Function& function, const LaunchShape& shape) {
  const ptx::KernelInfo& info = *function.info;
  const ptx::Dim3 &grid = shape.grid, &block = shape.block;
  if (grid.count() == 0 || block.count() == 0) return CUDA_ERROR_INVALID_VALUE;
  if (grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) return CUDA_ERROR_INVALID_VALUE;
  if (block.x > 1024 || block.y > 1024 || block.z > 64 || block.count() > kMaxThreadsPerBlock)
    return CUDA_ERROR_INVALID_VALUE;
  if (block.count() > info.max_threads) return CUDA_ERROR_INVALID_VALUE;  // launch bounds: registers never limit here
  const ptx::Dim3& required = info.required_block;
  if (required.x && (required.x != block.x || required.y != block.y || required.z != block.z))
    return CUDA_ERROR_INVALID_VALUE;
  if (shape.dynamic_shared_bytes > uint32_t(std::max(0, function.settings->get(&FunctionSettings::max_dynamic_shared))))
    return CUDA_ERROR_INVALID_VALUE;
  if (shape.cooperative) {
    int resident = occupancy(function, block.count(), shape.dynamic_shared_bytes);
    if (grid.count() > uint64_t(resident) * kMultiprocessors) return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
  }
  return CUDA_SUCCESS;
}

CUresult pack_arguments(const Function& function, void** parameters, void** extra, std::vector<uint8_t>* arguments) {
  const ptx::KernelInfo& info = *function.info;
  arguments->assign(info.param_bytes, 0);
  if (parameters && extra) return CUDA_ERROR_INVALID_VALUE;
  if (parameters) {
    for (size_t i = 0; i < info.params.size(); i++)
      memcpy(arguments->data() + info.params[i].offset, parameters[i], info.params[i].bytes);
    return CUDA_SUCCESS;
  }
  const void* buffer = nullptr;
  const size_t* bytes = nullptr;
  for (size_t i = 0; extra && extra[i] != CU_LAUNCH_PARAM_END; i += 2) {
    if (extra[i] == CU_LAUNCH_PARAM_BUFFER_POINTER)
      buffer = extra[i + 1];
    else if (extra[i] == CU_LAUNCH_PARAM_BUFFER_SIZE)
      bytes = (const size_t*)extra[i + 1];
    else
      return CUDA_ERROR_INVALID_VALUE;
  }
  if (info.params.empty()) return CUDA_SUCCESS;
  if (!buffer || !bytes || *bytes < info.param_bytes) return CUDA_ERROR_INVALID_VALUE;
  memcpy(arguments->data(), buffer, info.param_bytes);
  return CUDA_SUCCESS;
}

CUresult make_kernel_work(FunctionRef function, const LaunchShape& shape, void** parameters, void** extra,
                          KernelWork* work) {
  BF_TRY(check_launch(*function, shape));
  BF_TRY(pack_arguments(*function, parameters, extra, &work->arguments));
  work->grid.grid = shape.grid;
  work->grid.block = shape.block;
  work->grid.dynamic_shared_bytes = shape.dynamic_shared_bytes;
  work->grid.cooperative = shape.cooperative;
  work->function = std::move(function);
  return CUDA_SUCCESS;
}

// --------------------------------------------------------------------------------------------------------- entry
// points

static CUresult launch(const CUlaunchConfig* config, const StreamRef& stream, CUfunction handle, void** parameters, void** extra) {
  FunctionRef function;
  BF_TRY(find_function(handle, stream->context, &function));
  if (function->context != stream->context) return CUDA_ERROR_INVALID_HANDLE;
  function->loaded = true;
  LaunchShape shape{{config->gridDimX, config->gridDimY, config->gridDimZ},
                    {config->blockDimX, config->blockDimY, config->blockDimZ},
                    config->sharedMemBytes};
  KernelWork work;
  std::shared_ptr<Event> after;
  for (unsigned i = 0; i < config->numAttrs; i++) {
    const CUlaunchAttribute& attribute = config->attrs[i];
    work.attributes.push_back(attribute);
    switch (attribute.id) {
      case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
        shape.cooperative = attribute.value.cooperative != 0;
        break;
      case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION: {
        const auto& cluster = attribute.value.clusterDim;
        if (cluster.x != 1 || cluster.y != 1 || cluster.z != 1) return CUDA_ERROR_INVALID_CLUSTER_SIZE;
        break;
      }
      case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT:
      case CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT:
        after = events().find(attribute.value.launchCompletionEvent.event);
        if (!after) return CUDA_ERROR_INVALID_HANDLE;
        break;
      case CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE:
        return CUDA_ERROR_NOT_SUPPORTED;
      default:
        if (unsigned(attribute.id) >= CU_LAUNCH_ATTRIBUTE_MAX) return CUDA_ERROR_INVALID_VALUE;
        break;  // hints
    }
  }
  BF_TRY(make_kernel_work(std::move(function), shape, parameters, extra, &work));
  BF_TRY(enqueue(stream, std::move(work)));
  return after ? record_event(stream, after, 0) : CUDA_SUCCESS;
}

BF_API CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction handle, void** parameters, void** extra) {
  BF_ENTER();
  if (!config || (config->numAttrs && !config->attrs)) return CUDA_ERROR_INVALID_VALUE;
  StreamRef stream;
  BF_TRY(find_stream(config->hStream, &stream));
  CUresult result = launch(config, stream, handle, parameters, extra);
  static const bool blocking = CudaEnvironment::read().launch_blocking;
  if (result == CUDA_SUCCESS) return blocking && !is_capturing(*stream) ? cuStreamSynchronize(config->hStream) : result;
  std::lock_guard lock(graph_mutex());
  if (is_capturing(*stream)) invalidate_capture(*stream->capture);  // a launch that is refused breaks it
  return result;
}

BF_API CUresult cuLaunchKernel(CUfunction f, unsigned int gx, unsigned int gy, unsigned int gz, unsigned int bx,
                               unsigned int by, unsigned int bz, unsigned int shared, CUstream stream,
                               void** parameters, void** extra) {
  BF_ENTER();
  CUlaunchConfig config{gx, gy, gz, bx, by, bz, shared, stream, nullptr, 0};
  return cuLaunchKernelEx(&config, f, parameters, extra);
}

BF_API CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned int gx, unsigned int gy, unsigned int gz,
                                          unsigned int bx, unsigned int by, unsigned int bz, unsigned int shared,
                                          CUstream stream, void** parameters) {
  BF_ENTER();
  CUlaunchAttribute cooperative{};
  cooperative.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
  cooperative.value.cooperative = 1;
  CUlaunchConfig config{gx, gy, gz, bx, by, bz, shared, stream, &cooperative, 1};
  return cuLaunchKernelEx(&config, f, parameters, nullptr);
}

}  // namespace bf::softgpu
