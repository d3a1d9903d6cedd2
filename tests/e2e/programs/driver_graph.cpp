// A graph by the driver API: kernel, set and copy nodes with their parameters, launches, capture status.
#include "driver.h"

int main() {
  CUcontext context = use_device(0);
  CUmodule module;
  CUfunction fill;
  CUdeviceptr out;
  CHECK(cuModuleLoadData(&module, kPtx));
  CHECK(cuModuleGetFunction(&fill, module, "fill"));
  CHECK(cuMemAlloc(&out, 256));
  CUgraph graph;
  CUgraphNode set, kernel, copy;
  CHECK(cuGraphCreate(&graph, 0));
  CUDA_MEMSET_NODE_PARAMS fill_params = {};
  fill_params.dst = out;
  fill_params.value = 9;
  fill_params.elementSize = 1;
  fill_params.width = 256;
  fill_params.height = 1;
  CHECK(cuGraphAddMemsetNode(&set, graph, nullptr, 0, &fill_params, context));
  unsigned value = 50, n = 40, host[64] = {};
  void* parameters[] = {&out, &value, &n};
  CUDA_KERNEL_NODE_PARAMS launch = {};
  launch.func = fill;
  launch.gridDimX = launch.gridDimY = launch.gridDimZ = launch.blockDimY = launch.blockDimZ = 1;
  launch.blockDimX = 64;
  launch.kernelParams = parameters;
  CHECK(cuGraphAddKernelNode(&kernel, graph, &set, 1, &launch));
  CUDA_MEMCPY3D down = {};
  down.srcMemoryType = CU_MEMORYTYPE_DEVICE;
  down.srcDevice = out;
  down.dstMemoryType = CU_MEMORYTYPE_HOST;
  down.dstHost = host;
  down.WidthInBytes = 256;
  down.Height = down.Depth = 1;
  CHECK(cuGraphAddMemcpyNode(&copy, graph, &kernel, 1, &down, context));
  CUgraphExec exec;
  CHECK(cuGraphInstantiate(&exec, graph, 0));
  CUstream stream;
  CHECK(cuStreamCreate(&stream, 0));
  for (int i = 0; i < 3; i++) {
    CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamSynchronize(stream));
    std::printf("%u %u %x\n", host[0], host[39], host[40]);
    value += 100;
    CHECK(cuGraphExecKernelNodeSetParams(exec, kernel, &launch));
  }
  CUstreamCaptureStatus status;
  CHECK(cuStreamIsCapturing(stream, &status));
  std::printf("capturing %d\n", status);
  CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
  CHECK(cuLaunchKernel(fill, 1, 1, 1, 64, 1, 1, 0, stream, parameters, nullptr));
  CHECK(cuMemcpyDtoHAsync(host, out, 256, stream));
  CHECK(cuStreamIsCapturing(stream, &status));
  std::printf("capturing %d\n", status);
  CUgraph captured;
  CHECK(cuStreamEndCapture(stream, &captured));
  size_t nodes = 0;
  CHECK(cuGraphGetNodes(captured, nullptr, &nodes));
  CUgraphExec second;
  CHECK(cuGraphInstantiate(&second, captured, 0));
  CHECK(cuGraphLaunch(second, stream));
  CHECK(cuStreamSynchronize(stream));
  std::printf("%zu nodes, %u\n", nodes, host[0]);
  CHECK(cuGraphExecDestroy(exec));
  CHECK(cuGraphDestroy(graph));
  SHOW(cuGraphLaunch(nullptr, stream));
}
