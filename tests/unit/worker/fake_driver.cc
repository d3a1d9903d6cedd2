#include "tests/unit/worker/fake_driver.h"

#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "base/limits.h"

namespace bf::test {
namespace {

FakeDriver* g_driver = nullptr;

class Queue {
 public:
  Queue() : thread_([this] { work(); }) {}
  ~Queue() {
    {
      std::lock_guard guard(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  void add(std::function<void()> operation) {
    std::lock_guard guard(mutex_);
    operations_.push_back(std::move(operation));
    changed_.notify_all();
  }
  void wait_empty() {
    std::unique_lock guard(mutex_);
    ++g_driver->waiting;
    changed_.wait(guard, [&] { return operations_.empty() && !busy_; });
    --g_driver->waiting;
  }
  bool empty() {
    std::lock_guard guard(mutex_);
    return operations_.empty() && !busy_;
  }

 private:
  void work() {
    std::unique_lock guard(mutex_);
    for (;;) {
      changed_.wait(guard, [&] { return stop_ || !operations_.empty(); });
      if (operations_.empty()) return;
      auto operation = std::move(operations_.front());
      operations_.pop_front();
      busy_ = true;
      guard.unlock();
      if (const int delay = g_driver->queue_delay_us) std::this_thread::sleep_for(std::chrono::microseconds(delay));
      if (!g_driver->fault) operation();
      guard.lock();
      busy_ = false;
      changed_.notify_all();
    }
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> operations_;
  bool busy_ = false, stop_ = false;
  std::thread thread_;
};

class Pins {
 public:
  void add(const void* data, size_t bytes) {
    std::lock_guard guard(mutex_);
    ranges_[uintptr_t(data)] = bytes;
  }
  void remove(const void* data) {
    std::lock_guard guard(mutex_);
    ranges_.erase(uintptr_t(data));
  }
  bool contain(const void* data, size_t bytes) {
    std::lock_guard guard(mutex_);
    auto range = ranges_.upper_bound(uintptr_t(data));
    if (range == ranges_.begin()) return false;
    --range;
    return uintptr_t(data) + bytes <= range->first + range->second;
  }

 private:
  std::mutex mutex_;
  std::map<uintptr_t, size_t> ranges_;  // address -> bytes
};

Queue* g_queue = nullptr;
Pins* g_pins = nullptr;
thread_local CUcontext t_context = nullptr;

CUresult state() { return g_driver->fault ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_SUCCESS; }

CUresult queue(std::function<void()> operation) {
  if (CUresult result = state(); result != CUDA_SUCCESS) return result;
  g_queue->add(std::move(operation));
  return CUDA_SUCCESS;
}

void* at(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

// A box on either side: base address, pitch and height of a slice.
struct Side {
  char* base;
  size_t pitch, height;
};

Side source(const CUDA_MEMCPY3D& c) {
  char* base = c.srcMemoryType == CU_MEMORYTYPE_HOST ? const_cast<char*>(static_cast<const char*>(c.srcHost))
                                                     : static_cast<char*>(at(c.srcDevice));
  base += c.srcXInBytes + c.srcY * c.srcPitch + c.srcZ * c.srcPitch * c.srcHeight;
  return {base, c.srcPitch, c.srcHeight};
}

Side target(const CUDA_MEMCPY3D& c) {
  char* base = static_cast<char*>(c.dstMemoryType == CU_MEMORYTYPE_HOST ? c.dstHost : at(c.dstDevice));
  base += c.dstXInBytes + c.dstY * c.dstPitch + c.dstZ * c.dstPitch * c.dstHeight;
  return {base, c.dstPitch, c.dstHeight};
}

void copy_box(const CUDA_MEMCPY3D& c) {
  const Side from = source(c), to = target(c);
  for (size_t z = 0; z < c.Depth; ++z)
    for (size_t y = 0; y < c.Height; ++y)
      std::memcpy(to.base + (z * to.height + y) * to.pitch, from.base + (z * from.height + y) * from.pitch,
                  c.WidthInBytes);
}

void fill_devices(DriverApi& api) {
  api.cuDeviceGetCount = [](int* count) { return *count = 1, CUDA_SUCCESS; };
  api.cuDriverGetVersion = [](int* version) { return *version = 13000, CUDA_SUCCESS; };
  api.cuDeviceGetAttribute = [](int* value, CUdevice_attribute attribute, CUdevice) {
    *value = attribute == CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS ? g_driver->stream_memory : int(attribute);
    return CUDA_SUCCESS;
  };
  api.cuDeviceGetName = [](char* name, int, CUdevice) { return std::strcpy(name, "Fake"), CUDA_SUCCESS; };
  api.cuDeviceGetUuid_v2 = [](CUuuid*, CUdevice) { return CUDA_SUCCESS; };
  api.cuDevicePrimaryCtxGetState = [](CUdevice, unsigned*, int*) { return CUDA_SUCCESS; };
  api.cuDevicePrimaryCtxRetain = [](CUcontext* context, CUdevice) {
    return *context = reinterpret_cast<CUcontext>(0x1000), CUDA_SUCCESS;
  };
  api.cuDevicePrimaryCtxRelease_v2 = [](CUdevice) { return CUDA_SUCCESS; };
}

void fill_contexts(DriverApi& api) {
  api.cuCtxSetCurrent = [](CUcontext context) { return t_context = context, CUDA_SUCCESS; };
  api.cuCtxGetCurrent = [](CUcontext* context) { return *context = t_context, CUDA_SUCCESS; };
  api.cuCtxGetDevice = [](CUdevice* device) {
    return *device = 0, t_context ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
  };
  api.cuCtxSynchronize = [] { return g_queue->wait_empty(), state(); };
  api.cuCtxGetLimit = [](size_t*, CUlimit) { return CUDA_ERROR_INVALID_VALUE; };
  api.cuCtxGetStreamPriorityRange = [](int* least, int* greatest) { return *least = *greatest = 0, CUDA_SUCCESS; };
  api.cuCtxGetApiVersion = [](CUcontext, unsigned*) { return CUDA_SUCCESS; };
  api.cuMemHostRegister_v2 = [](void* data, size_t bytes, unsigned) { return g_pins->add(data, bytes), CUDA_SUCCESS; };
  api.cuMemHostUnregister = [](void* data) { return g_pins->remove(data), CUDA_SUCCESS; };
  api.cuMemHostGetDevicePointer_v2 = [](CUdeviceptr* device, void* host, unsigned) {
    return *device = reinterpret_cast<CUdeviceptr>(host), CUDA_SUCCESS;
  };
}

void fill_memory(DriverApi& api) {
  api.cuMemGetInfo_v2 = [](size_t* free, size_t* total) { return *free = *total = 0, state(); };
  api.cuMemAlloc_v2 = [](CUdeviceptr* address, size_t bytes) {
    *address = reinterpret_cast<CUdeviceptr>(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096));
    ++g_driver->allocations;
    return CUDA_SUCCESS;
  };
  api.cuMemFree_v2 = [](CUdeviceptr address) {
    g_queue->wait_empty();
    std::free(at(address));
    --g_driver->allocations;
    return CUDA_SUCCESS;
  };
  api.cuMemsetD8_v2 = [](CUdeviceptr address, unsigned char value, size_t bytes) {
    return std::memset(at(address), value, bytes), CUDA_SUCCESS;
  };
  api.cuMemsetD8Async = [](CUdeviceptr address, unsigned char value, size_t bytes, CUstream) {
    return queue([=] { std::memset(at(address), value, bytes); });
  };
  api.cuMemcpyHtoD_v2 = [](CUdeviceptr to, const void* from, size_t bytes) {
    g_queue->wait_empty();
    return std::memcpy(at(to), from, bytes), state();
  };
  // Pinned memory is read when it is due, other memory before the call returns.
  api.cuMemcpyHtoDAsync_v2 = [](CUdeviceptr to, const void* from, size_t bytes, CUstream) {
    if (g_pins->contain(from, bytes)) return queue([=] { std::memcpy(at(to), from, bytes); });
    std::string copy(static_cast<const char*>(from), bytes);
    return queue([=] { std::memcpy(at(to), copy.data(), bytes); });
  };
  api.cuMemcpyDtoHAsync_v2 = [](void* to, CUdeviceptr from, size_t bytes, CUstream) {
    return queue([=] { std::memcpy(to, at(from), bytes); });
  };
  api.cuMemcpy3DAsync_v2 = [](const CUDA_MEMCPY3D* copy, CUstream) {
    if (g_driver->boxes == 0) return CUDA_ERROR_INVALID_VALUE;
    --g_driver->boxes;
    return queue([c = *copy] { copy_box(c); });
  };
}

void fill_streams(DriverApi& api) {
  api.cuStreamSynchronize = [](CUstream) { return g_queue->wait_empty(), state(); };
  api.cuStreamQuery = [](CUstream) { return g_queue->empty() ? state() : CUDA_ERROR_NOT_READY; };
  api.cuStreamIsCapturing = [](CUstream, CUstreamCaptureStatus* status) {
    return *status = CU_STREAM_CAPTURE_STATUS_NONE, CUDA_SUCCESS;
  };
  api.cuStreamWriteValue64_v2 = [](CUstream, CUdeviceptr address, cuuint64_t value, unsigned) {
    return queue([=] { reinterpret_cast<std::atomic<uint64_t>*>(address)->store(value, std::memory_order_release); });
  };
  api.cuStreamWaitValue64_v2 = [](CUstream, CUdeviceptr address, cuuint64_t value, unsigned) {
    return queue([=] {
      while (!g_driver->fault && reinterpret_cast<std::atomic<uint64_t>*>(address)->load(std::memory_order_acquire) < value)
        std::this_thread::sleep_for(std::chrono::microseconds(100));
    });
  };
  api.cuLaunchHostFunc = [](CUstream, CUhostFn function, void* argument) { return queue([=] { function(argument); }); };
  api.cuStreamCreateWithPriority = [](CUstream* stream, unsigned, int) {
    return *stream = reinterpret_cast<CUstream>(0x2000), CUDA_SUCCESS;
  };
  api.cuStreamDestroy_v2 = [](CUstream) { return CUDA_SUCCESS; };
}

// A function with a pointer and an int, and one graph at a time: every graph is at the same address, and so are its one
// kernel node, its one child graph and the child's node.
void fill_graphs(DriverApi& api) {
  static constexpr uint64_t kGraph = 0x3000, kChild = 0x3800;
  api.cuModuleGetFunction = [](CUfunction* function, CUmodule, const char*) {
    return *function = reinterpret_cast<CUfunction>(0x4000), CUDA_SUCCESS;
  };
  api.cuModuleGetFunctionCount = [](unsigned* count, CUmodule) { return *count = 1, CUDA_SUCCESS; };
  api.cuModuleEnumerateFunctions = [](CUfunction* functions, unsigned, CUmodule) {
    return *functions = reinterpret_cast<CUfunction>(0x4000), CUDA_SUCCESS;
  };
  api.cuModuleUnload = [](CUmodule) { return CUDA_SUCCESS; };
  api.cuFuncGetParamInfo = [](CUfunction, size_t index, size_t* offset, size_t* size) {
    if (index > 1) return CUDA_ERROR_INVALID_VALUE;
    *offset = index * 8;
    *size = index ? 4 : 8;
    return CUDA_SUCCESS;
  };
  api.cuFuncGetAttribute = [](int*, CUfunction_attribute, CUfunction) { return CUDA_ERROR_INVALID_VALUE; };
  api.cuGraphCreate = [](CUgraph* graph, unsigned) { return *graph = reinterpret_cast<CUgraph>(kGraph), CUDA_SUCCESS; };
  api.cuGraphDestroy = [](CUgraph) { return CUDA_SUCCESS; };
  api.cuGraphGetNodes = [](CUgraph graph, CUgraphNode* nodes, size_t* count) {
    *count = uint64_t(graph) == kGraph ? 2 : 1;
    for (size_t i = 0; nodes && i < *count; ++i) nodes[i] = reinterpret_cast<CUgraphNode>(uint64_t(graph) + 16 * (i + 1));
    return CUDA_SUCCESS;
  };
  api.cuGraphNodeGetType = [](CUgraphNode node, CUgraphNodeType* type) {
    return *type = uint64_t(node) == kGraph + 32 ? CU_GRAPH_NODE_TYPE_GRAPH : CU_GRAPH_NODE_TYPE_KERNEL, CUDA_SUCCESS;
  };
  api.cuGraphChildGraphNodeGetGraph = [](CUgraphNode, CUgraph* graph) {
    return *graph = reinterpret_cast<CUgraph>(kChild), CUDA_SUCCESS;
  };
  api.cuGraphDestroyNode = [](CUgraphNode) { return CUDA_SUCCESS; };
  api.cuGraphKernelNodeGetParams_v2 = [](CUgraphNode, CUDA_KERNEL_NODE_PARAMS* params) {
    static uint64_t pointer = 0x1122334455667788;
    static int number = 42;
    static void* pointers[] = {&pointer, &number};
    *params = {};
    params->func = reinterpret_cast<CUfunction>(0x4000);
    params->gridDimX = 7;
    params->kernelParams = pointers;
    return CUDA_SUCCESS;
  };
}

}  // namespace

FakeDriver::FakeDriver() {
  g_driver = this;
  g_pins = new Pins;
  g_queue = new Queue;
  fill_devices(api);
  fill_contexts(api);
  fill_memory(api);
  fill_streams(api);
  fill_graphs(api);
}

FakeDriver::~FakeDriver() {
  delete g_queue;
  g_queue = nullptr;
  delete g_pins;
  g_pins = nullptr;
  g_driver = nullptr;
}

}  // namespace bf::test
