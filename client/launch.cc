// Launches: checked against the function's facts, packed, posted. Nothing is shared on this path but the send buffer.
#include "client/launch.h"

#include <cstring>

#include "api/remote.h"
#include "client/capture.h"
#include "client/contexts.h"
#include "client/functions.h"
#include "client/graphs.h"
#include "client/mirrors.h"

namespace bf::client {

namespace {

// Most are numbers and pointers: two instructions instead of a call.
void copy_parameter(std::byte* to, const void* from, size_t bytes) {
  if (bytes == 8) {
    std::memcpy(to, from, 8);
  } else if (bytes == 4) {
    std::memcpy(to, from, 4);
  } else {
    std::memcpy(to, from, bytes);
  }
}

}  // namespace

CUresult PackedParameters::pack(const Function& function, void** parameters, void** extra) {
  CUresult result = gather(function, parameters, extra);
  if (result != CUDA_SUCCESS || !state().ranges.any_hidden()) return result;
  if (!function.parameters_known) return reach_pointers(bytes());
  for (const ParameterInfo& info : function.parameters)
    if (result = reach_parameter(bytes().subspan(info.offset, info.size)); result != CUDA_SUCCESS) return result;
  return CUDA_SUCCESS;
}

CUresult PackedParameters::gather(const Function& function, void** parameters, void** extra) {
  if (parameters && extra) return CUDA_ERROR_INVALID_VALUE;
  if (extra) return take_extra(function, extra);
  if (function.parameters.empty()) return CUDA_SUCCESS;
  if (!parameters) return CUDA_ERROR_INVALID_VALUE;
  if (!function.parameters_known) return CUDA_ERROR_NOT_SUPPORTED;
  bytes_ = function.parameter_bytes;
  data_ = near_;
  if (bytes_ > sizeof near_) {
    far_.reset(new std::byte[bytes_]);
    data_ = far_.get();
  }
  uint32_t end = 0;
  for (const ParameterInfo& info : function.parameters) {
    const void* parameter = *parameters++;
    if (!parameter) return CUDA_ERROR_INVALID_VALUE;
    if (info.offset > end) std::memset(data_ + end, 0, info.offset - end);  // nothing of ours leaks into the gaps
    copy_parameter(data_ + info.offset, parameter, info.size);
    end = info.offset + info.size;
  }
  return CUDA_SUCCESS;
}

// The program packed them itself: {BUFFER_POINTER, address, BUFFER_SIZE, &bytes, END}.
CUresult PackedParameters::take_extra(const Function& function, void** extra) {
  std::byte* given = nullptr;
  size_t bytes = 0;
  for (; extra[0] != CU_LAUNCH_PARAM_END; extra += 2) {
    if (extra[0] == CU_LAUNCH_PARAM_BUFFER_POINTER) {
      given = static_cast<std::byte*>(extra[1]);
    } else if (extra[0] == CU_LAUNCH_PARAM_BUFFER_SIZE && extra[1]) {
      bytes = *static_cast<size_t*>(extra[1]);
    } else {
      return CUDA_ERROR_INVALID_VALUE;
    }
  }
  if (bytes < function.parameter_bytes || (bytes > 0 && !given)) return CUDA_ERROR_INVALID_VALUE;
  data_ = given;
  bytes_ = function.parameters_known ? function.parameter_bytes : bytes;
  return CUDA_SUCCESS;
}

namespace {

struct Shape {
  unsigned grid[3];
  unsigned block[3];
  unsigned dynamic_bytes;
};

// The function's limit comes from its registers or from its launch bounds, and the driver has a code for each (measured,
// 580.159.04). Registers are given to warps in units of 256.
CUresult too_many_threads(int device, const Function& function, uint64_t threads) {
  const uint64_t warps = (threads + 31) / 32;
  const uint64_t per_warp = (uint64_t(function.attribute(CU_FUNC_ATTRIBUTE_NUM_REGS, device)) * 32 + 255) / 256 * 256;
  const bool registers_fit = warps * per_warp <= uint64_t(device_attribute(device, CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK));
  return registers_fit ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
}

CUresult check_shape(int device, const Function& function, const Shape& shape) {
  constexpr CUdevice_attribute kGrid[] = {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y,
                                          CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z};
  constexpr CUdevice_attribute kBlock[] = {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y,
                                           CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z};
  const int* const limit = device_attributes(device);
  uint64_t threads = 1;
  for (int i = 0; i < 3; ++i) {
    if (shape.grid[i] == 0 || shape.grid[i] > unsigned(limit[kGrid[i]])) return CUDA_ERROR_INVALID_VALUE;
    if (shape.block[i] == 0 || shape.block[i] > unsigned(limit[kBlock[i]])) return CUDA_ERROR_INVALID_VALUE;
    threads *= shape.block[i];
  }
  if (threads > unsigned(limit[CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK])) return CUDA_ERROR_INVALID_VALUE;
  if (threads > unsigned(function.attribute(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, device))) return too_many_threads(device, function, threads);
  if (shape.dynamic_bytes > unsigned(function.attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, device))) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

// All blocks of a cooperative launch must be resident at once.
CUresult check_cooperative(int device, CUfunction f, const Shape& shape) {
  int blocks = 0;
  CUresult result = occupancy(&blocks, f, int(shape.block[0] * shape.block[1] * shape.block[2]), shape.dynamic_bytes, 0);
  if (result != CUDA_SUCCESS) return result;
  uint64_t resident = uint64_t(blocks) * uint64_t(device_attribute(device, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT));
  uint64_t wanted = uint64_t(shape.grid[0]) * shape.grid[1] * shape.grid[2];
  return wanted > resident ? CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE : CUDA_SUCCESS;
}

// What the driver says of clusters before it launches (580.159.04).
CUresult check_attributes(const CUlaunchConfig& config, int device, const Function& function) {
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const CUlaunchAttribute& attribute = config.attrs[i];
    if (unsigned(attribute.id) >= CU_LAUNCH_ATTRIBUTE_MAX) return CUDA_ERROR_INVALID_VALUE;
    if (attribute.id != CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) continue;
    const auto& cluster = attribute.value.clusterDim;
    if (cluster.x == 0 || cluster.y == 0 || cluster.z == 0) return CUDA_ERROR_INVALID_CLUSTER_SIZE;
    if (config.gridDimX % cluster.x || config.gridDimY % cluster.y || config.gridDimZ % cluster.z) return CUDA_ERROR_INVALID_CLUSTER_SIZE;
    const bool supported = device_attribute(device, CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH) != 0;
    const uint64_t most = !supported ? 1 : function.attribute(CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, device) ? 16 : 8;
    if (uint64_t{cluster.x} * cluster.y * cluster.z > most) return CUDA_ERROR_INVALID_CLUSTER_SIZE;
  }
  return CUDA_SUCCESS;
}

CUresult check_launch(CUfunction f, const Shape& shape, CUstream stream, bool cooperative, Function** function) {
  Context* context;
  if (CUresult result = need_context(&context); result != CUDA_SUCCESS) return result;
  *function = launched(f);
  if (!*function) return CUDA_ERROR_INVALID_HANDLE;
  if (CUresult result = need_stream(stream); result != CUDA_SUCCESS) return result;
  if (CUresult result = check_shape(context->device, **function, shape); result != CUDA_SUCCESS) return result;
  if (CUresult result = check_legacy(stream); result != CUDA_SUCCESS) return result;
  return cooperative ? check_cooperative(context->device, f, shape) : CUDA_SUCCESS;
}

}  // namespace

// A launch that is refused ends the capture of its stream.
static CUresult refused(CUstream stream, CUresult why) {
  if (auto capture = capture_of(stream)) capture->broken.store(true, std::memory_order_release);
  return why;
}

// CUDA_LAUNCH_BLOCKING: the launch returns when its kernel has run, with the error it made.
static CUresult launched(CUstream stream, CUresult posted) {
  Session& session = *Session::get();
  if (!session.launch_blocking() || posted != CUDA_SUCCESS || capture_of(stream)) [[likely]] return posted;
  return session.take_async_error(remote_cuStreamSynchronize(stream));
}

CUresult handle_cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY, unsigned int gridDimZ,
                               unsigned int blockDimX, unsigned int blockDimY, unsigned int blockDimZ,
                               unsigned int sharedMemBytes, CUstream hStream, void** kernelParams, void** extra) noexcept {
  Function* function;
  Shape shape{{gridDimX, gridDimY, gridDimZ}, {blockDimX, blockDimY, blockDimZ}, sharedMemBytes};
  if (CUresult result = check_launch(f, shape, hStream, false, &function); result != CUDA_SUCCESS) return refused(hStream, result);
  PackedParameters packed;
  if (CUresult result = packed.pack(*function, kernelParams, extra); result != CUDA_SUCCESS) return result;
  if (CUresult result = publish_changes(hStream); result != CUDA_SUCCESS) return result;
  return launched(hStream, post_cuLaunchKernel(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes,
                                               hStream, nullptr, nullptr, packed.bytes()));
}

CUresult handle_cuLaunchCooperativeKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY, unsigned int gridDimZ,
                                          unsigned int blockDimX, unsigned int blockDimY, unsigned int blockDimZ,
                                          unsigned int sharedMemBytes, CUstream hStream, void** kernelParams) noexcept {
  Function* function;
  Shape shape{{gridDimX, gridDimY, gridDimZ}, {blockDimX, blockDimY, blockDimZ}, sharedMemBytes};
  if (CUresult result = check_launch(f, shape, hStream, true, &function); result != CUDA_SUCCESS) return refused(hStream, result);
  PackedParameters packed;
  if (CUresult result = packed.pack(*function, kernelParams, nullptr); result != CUDA_SUCCESS) return result;
  if (CUresult result = publish_changes(hStream); result != CUDA_SUCCESS) return result;
  return launched(hStream, post_cuLaunchCooperativeKernel(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ,
                                                          sharedMemBytes, hStream, nullptr, packed.bytes()));
}

CUresult handle_cuLaunchKernelEx(const CUlaunchConfig* given, CUfunction f, void** kernelParams, void** extra) noexcept {
  if (!given || (given->numAttrs > 0 && !given->attrs)) return CUDA_ERROR_INVALID_VALUE;
  CUlaunchConfig config = *given;
  if (per_thread()) config.hStream = per_thread_stream(config.hStream);
  bool cooperative = false;
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const CUlaunchAttribute& attribute = config.attrs[i];
    if (attribute.id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE && attribute.value.cooperative) cooperative = true;
  }
  Function* function;
  Shape shape{{config.gridDimX, config.gridDimY, config.gridDimZ},
              {config.blockDimX, config.blockDimY, config.blockDimZ},
              config.sharedMemBytes};
  CUresult result = check_launch(f, shape, config.hStream, cooperative, &function);
  if (result == CUDA_SUCCESS) result = check_attributes(config, state().contexts.find(current_context())->device, *function);
  if (result != CUDA_SUCCESS) return refused(config.hStream, result);
  PackedParameters packed;
  if (result = packed.pack(*function, kernelParams, extra); result != CUDA_SUCCESS) return result;
  if (result = publish_changes(config.hStream); result != CUDA_SUCCESS) return result;
  return launched(config.hStream, post_cuLaunchKernelEx(&config, f, nullptr, nullptr, packed.bytes(),
                                                         std::as_bytes(std::span(config.attrs, config.numAttrs))));
}

// --- Host functions --------------------------------------------------------------------------------------------------------

CUresult handle_cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void* userData) noexcept {
  if (!fn) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  if (CUresult result = need_stream(hStream); result != CUDA_SUCCESS) return result;
  if (CUresult result = check_legacy(hStream); result != CUDA_SUCCESS) return result;
  Callbacks& callbacks = Session::get()->callbacks();
  auto capture = capture_of(hStream);
  Callbacks::Function function;
  function.function = fn;
  function.user = userData;
  function.repeats = capture != nullptr;
  uint64_t id = callbacks.add(function);
  CUresult result = post_cuLaunchHostFunc(hStream, nullptr, nullptr, id);
  if (result != CUDA_SUCCESS) {
    callbacks.remove(id);
  } else if (capture) {
    capture_add(*capture, keep_callback(id));
  }
  return result;
}

CUresult handle_cuStreamAddCallback(CUstream hStream, CUstreamCallback callback, void* userData, unsigned int flags) noexcept {
  if (!callback || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  if (CUresult result = need_stream(hStream); result != CUDA_SUCCESS) return result;
  if (capture_of(hStream)) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  Callbacks& callbacks = Session::get()->callbacks();
  Callbacks::Function function;
  function.stream_callback = callback;
  function.user = userData;
  function.stream = hStream;
  uint64_t id = callbacks.add(function);
  CUresult result = post_cuStreamAddCallback(hStream, nullptr, nullptr, 0, id);
  if (result != CUDA_SUCCESS) callbacks.remove(id);
  return result;
}

}  // namespace bf::client
