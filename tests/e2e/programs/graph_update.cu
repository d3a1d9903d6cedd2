// Changing an instantiated graph: new kernel arguments, a whole-graph update, and an update that cannot work.
#include "e2e.h"

__global__ void store(int* x, int value) { *x = value; }
__global__ void twice(int* x, int value) { *x = 2 * value; }

static cudaGraph_t capture(cudaStream_t stream, int* x, int value, bool extra) {
  cudaGraph_t graph;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  store<<<1, 1, 0, stream>>>(x, value);
  if (extra) store<<<1, 1, 0, stream>>>(x, -value);
  CHECK(cudaStreamEndCapture(stream, &graph));
  return graph;
}

static int launch(cudaGraphExec_t exec, cudaStream_t stream, int* x) {
  int value = 0;
  CHECK(cudaGraphLaunch(exec, stream));
  CHECK(cudaMemcpyAsync(&value, x, sizeof(int), cudaMemcpyDeviceToHost, stream));
  CHECK(cudaStreamSynchronize(stream));
  return value;
}

int main() {
  int* x;
  cudaStream_t stream;
  CHECK(cudaMalloc(&x, sizeof(int)));
  CHECK(cudaStreamCreate(&stream));
  cudaGraph_t graph = capture(stream, x, 5, false), same = capture(stream, x, 6, false),
              larger = capture(stream, x, 7, true);
  cudaGraphExec_t exec;
  CHECK(cudaGraphInstantiate(&exec, graph, 0));
  std::printf("%d\n", launch(exec, stream, x));

  cudaGraphNode_t node;
  size_t count = 1;
  CHECK(cudaGraphGetNodes(graph, &node, &count));
  cudaKernelNodeParams params;
  CHECK(cudaGraphKernelNodeGetParams(node, &params));
  int value = 41;
  void* arguments[] = {&x, &value};
  params.kernelParams = arguments;
  params.func = reinterpret_cast<void*>(twice);
  SHOW(cudaGraphExecKernelNodeSetParams(exec, node, &params));
  std::printf("%d\n", launch(exec, stream, x));

  cudaGraphExecUpdateResultInfo info = {};
  SHOW(cudaGraphExecUpdate(exec, same, &info));
  std::printf("%d, result %d\n", launch(exec, stream, x), info.result);
  SHOW(cudaGraphExecUpdate(exec, larger, &info));
  std::printf("%d, result %d\n", launch(exec, stream, x), info.result);
  SHOW(cudaGetLastError());
}
