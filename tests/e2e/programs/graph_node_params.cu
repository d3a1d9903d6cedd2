// Parameters of kernel nodes read back: the node owns what it hands out, until they change; new ones may point into it.
#include "e2e.h"

__global__ void store(int* x, int a, char b, double c) { *x = a + b + int(c); }

static int launch(cudaGraph_t graph, int* x) {
  int value = 0;
  cudaGraphExec_t exec;
  CHECK(cudaGraphInstantiate(&exec, graph, 0));
  CHECK(cudaGraphLaunch(exec, nullptr));
  CHECK(cudaMemcpy(&value, x, sizeof(int), cudaMemcpyDeviceToHost));
  CHECK(cudaGraphExecDestroy(exec));
  return value;
}

static void show(const char* what, const cudaKernelNodeParams& p) {
  std::printf("%s: store %d, grid %u, block %u, dynamic %u, extra %d, %d %d %g\n", what, p.func == (void*)store, p.gridDim.x,
              p.blockDim.x, p.sharedMemBytes, p.extra != nullptr, *(int*)p.kernelParams[1], *(char*)p.kernelParams[2],
              *(double*)p.kernelParams[3]);
}

int main() {
  int *x, a = 1;
  char b = 2;
  double c = 3.5;
  CHECK(cudaMalloc(&x, sizeof(int)));
  void* arguments[] = {&x, &a, &b, &c};
  cudaKernelNodeParams given = {};
  given.func = (void*)store;
  given.gridDim = dim3(1);
  given.blockDim = dim3(1);
  given.sharedMemBytes = 64;
  given.kernelParams = arguments;
  for (int round = 0; round < 3; round++) {  // destroyed graphs leave nothing behind
    cudaGraph_t graph;
    cudaGraphNode_t first, second;
    a = 10 * round;
    CHECK(cudaGraphCreate(&graph, 0));
    CHECK(cudaGraphAddKernelNode(&first, graph, nullptr, 0, &given));
    a++;
    CHECK(cudaGraphAddKernelNode(&second, graph, &first, 1, &given));
    cudaKernelNodeParams one, two, again;
    CHECK(cudaGraphKernelNodeGetParams(first, &one));
    CHECK(cudaGraphKernelNodeGetParams(second, &two));
    CHECK(cudaGraphKernelNodeGetParams(first, &again));
    show("first", one);
    show("second", two);
    std::printf("the pointer is x: %d, launch %d\n", *(int**)one.kernelParams[0] == x, launch(graph, x));
    int changed = 500 + round;
    void* mixed[] = {two.kernelParams[0], &changed, two.kernelParams[2], one.kernelParams[3]};
    two.kernelParams = mixed;
    two.sharedMemBytes = 0;
    SHOW(cudaGraphKernelNodeSetParams(second, &two));
    CHECK(cudaGraphKernelNodeGetParams(second, &two));
    show("second changed", two);
    show("first still", one);
    std::printf("launch %d\n", launch(graph, x));
    SHOW(cudaGraphKernelNodeGetParams(first, nullptr));
    CHECK(cudaGraphDestroy(graph));
  }
}
