// The per-thread default stream where it is named by a NULL in a structure, and by functions without a stream: another
// thread's held-up stream delays none of it.
#define CUDA_API_PER_THREAD_DEFAULT_STREAM
#include <atomic>
#include <thread>

#include "driver.h"

static std::atomic<bool> gate{false};
static void CUDA_CB wait_for_gate(void*) {
  while (!gate) std::this_thread::yield();
}

int main() {
  CUcontext context = use_device(0);
  CUmodule module;
  CUfunction fill;
  CUdeviceptr memory;
  unsigned count = 256, value = 1;
  CHECK(cuModuleLoadData(&module, kPtx));
  CHECK(cuModuleGetFunction(&fill, module, "fill"));
  CHECK(cuMemAlloc(&memory, count * 4));
  void* parameters[] = {&memory, &value, &count};
  CUlaunchConfig config{};
  config.gridDimX = config.gridDimY = config.gridDimZ = config.blockDimY = config.blockDimZ = 1;
  config.blockDimX = count;
  CHECK(cuLaunchKernelEx(&config, fill, parameters, nullptr));  // loads code, which may wait for everything
  CHECK(cuCtxSynchronize());
  CHECK(cuLaunchHostFunc(nullptr, wait_for_gate, nullptr));
  std::thread([&] {
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuMemsetD32(memory, 7, count));
    std::printf("set: %016llx\n", (unsigned long long)hash_device(memory, count * 4));
    CHECK(cuLaunchKernelEx(&config, fill, parameters, nullptr));
    CHECK(cuStreamSynchronize(nullptr));
    std::printf("launched: %016llx\n", (unsigned long long)hash_device(memory, count * 4));
    CUgraph graph;
    CUgraphExec exec;
    CHECK(cuStreamBeginCapture(CU_STREAM_PER_THREAD, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    value = 20;
    CHECK(cuLaunchKernelEx(&config, fill, parameters, nullptr));
    CHECK(cuStreamEndCapture(CU_STREAM_PER_THREAD, &graph));
    CUDA_GRAPH_INSTANTIATE_PARAMS instantiate{};
    instantiate.flags = CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD;
    CHECK(cuGraphInstantiateWithParams(&exec, graph, &instantiate));
    CHECK(cuGraphLaunch(exec, nullptr));
    CHECK(cuStreamSynchronize(nullptr));
    std::printf("graph: %016llx\n", (unsigned long long)hash_device(memory, count * 4));
  }).join();
  SHOW(cuStreamQuery(nullptr));
  gate = true;
  SHOW(cuStreamSynchronize(nullptr));
}
