// A graph built node by node: kernel, set, copies, host function, empty node, child graph; clone and enumeration.
#include "e2e.h"

__global__ void multiply(int* x, int factor) { x[threadIdx.x] *= factor; }

static int calls = 0;
static void CUDART_CB count(void* step) { calls += *static_cast<int*>(step); }

int main() {
  const int n = 32;
  int *x, *host_in, *host_out, factor = 3, step = 10;
  CHECK(cudaMalloc(&x, n * sizeof(int)));
  CHECK(cudaMallocHost(&host_in, n * sizeof(int)));
  CHECK(cudaMallocHost(&host_out, n * sizeof(int)));
  for (int i = 0; i < n; i++) host_in[i] = i;

  cudaGraph_t graph, child, clone;
  CHECK(cudaGraphCreate(&graph, 0));
  CHECK(cudaGraphCreate(&child, 0));
  cudaGraphNode_t copy_in, kernel, copy_out, host, empty, set, nested, first;
  cudaMemsetParams fill = {};
  fill.dst = x;
  fill.elementSize = 4;
  fill.width = n;
  fill.height = 1;
  fill.value = 77;
  CHECK(cudaGraphAddMemsetNode(&set, graph, nullptr, 0, &fill));
  CHECK(cudaGraphAddMemcpyNode1D(&copy_in, graph, &set, 1, x, host_in, n * sizeof(int) / 2, cudaMemcpyHostToDevice));
  void* arguments[] = {&x, &factor};
  cudaKernelNodeParams launch = {};
  launch.func = reinterpret_cast<void*>(multiply);
  launch.gridDim = dim3(1);
  launch.blockDim = dim3(n);
  launch.kernelParams = arguments;
  CHECK(cudaGraphAddKernelNode(&kernel, graph, &copy_in, 1, &launch));
  factor = 1000;  // the node keeps the value it was given
  CHECK(cudaGraphAddEmptyNode(&empty, graph, &kernel, 1));
  factor = 2;
  CHECK(cudaGraphAddKernelNode(&first, child, nullptr, 0, &launch));
  CHECK(cudaGraphAddChildGraphNode(&nested, graph, &empty, 1, child));
  CHECK(cudaGraphAddMemcpyNode1D(&copy_out, graph, &nested, 1, host_out, x, n * sizeof(int), cudaMemcpyDeviceToHost));
  cudaHostNodeParams function = {count, &step};
  CHECK(cudaGraphAddHostNode(&host, graph, &copy_out, 1, &function));

  size_t nodes = 0, roots = 0, edges = 0, dependencies = 0;
  CHECK(cudaGraphGetNodes(graph, nullptr, &nodes));
  CHECK(cudaGraphGetRootNodes(graph, nullptr, &roots));
  CHECK(cudaGraphGetEdges(graph, nullptr, nullptr, nullptr, &edges));
  CHECK(cudaGraphNodeGetDependencies(kernel, nullptr, nullptr, &dependencies));
  std::printf("%zu nodes, %zu roots, %zu edges, kernel has %zu dependency\n", nodes, roots, edges, dependencies);
  cudaGraphNodeType type;
  for (auto node : {copy_in, kernel, host, empty, set, nested}) {
    CHECK(cudaGraphNodeGetType(node, &type));
    std::printf("type %d\n", type);
  }
  cudaKernelNodeParams asked;
  CHECK(cudaGraphKernelNodeGetParams(kernel, &asked));
  std::printf("same function %d, block %u, factor %d\n", asked.func == launch.func, asked.blockDim.x,
              *static_cast<int*>(asked.kernelParams[1]));

  CHECK(cudaGraphClone(&clone, graph));
  cudaGraphExec_t exec, exec_of_clone;
  CHECK(cudaGraphInstantiate(&exec, graph, 0));
  CHECK(cudaGraphInstantiate(&exec_of_clone, clone, 0));
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  for (int i = 0; i < 3; i++) {
    host_in[1] = 100 * i;
    CHECK(cudaGraphLaunch(i == 2 ? exec_of_clone : exec, stream));
    CHECK(cudaStreamSynchronize(stream));
    std::printf("launch %d: %d %d %d, host function total %d\n", i, host_out[1], host_out[2], host_out[n - 1], calls);
  }
  CHECK(cudaGraphExecDestroy(exec_of_clone));
  CHECK(cudaGraphDestroy(clone));
  SHOW(cudaGraphDestroyNode(host));
  CHECK(cudaGraphGetNodes(graph, nullptr, &nodes));
  std::printf("%zu nodes left\n", nodes);
  cudaGraphNode_t cycle_from[] = {copy_out}, cycle_to[] = {set};
  CHECK(cudaGraphAddDependencies(graph, cycle_from, cycle_to, nullptr, 1));
  cudaGraphExec_t bad;
  SHOW(cudaGraphInstantiate(&bad, graph, 0));
}
