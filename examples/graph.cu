// Captures copy in, two kernels and copy out into a CUDA graph and launches it a thousand times. The host buffers are
// read and written at every launch, so the program feeds each launch with what the previous one returned.
#include "check.h"

__global__ void scale(unsigned* x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] = x[i] * 1664525u;
}

__global__ void shift(unsigned* x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] = x[i] + 1013904223u;
}

int main() {
  const int n = 1024, launches = 1000;
  unsigned *host, *device;
  CHECK(cudaMallocHost(&host, n * sizeof(unsigned)));
  CHECK(cudaMalloc(&device, n * sizeof(unsigned)));
  for (int i = 0; i < n; i++) host[i] = i;

  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  cudaGraph_t graph;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  CHECK(cudaMemcpyAsync(device, host, n * sizeof(unsigned), cudaMemcpyHostToDevice, stream));
  scale<<<n / 256, 256, 0, stream>>>(device, n);
  shift<<<n / 256, 256, 0, stream>>>(device, n);
  CHECK(cudaMemcpyAsync(host, device, n * sizeof(unsigned), cudaMemcpyDeviceToHost, stream));
  CHECK(cudaStreamEndCapture(stream, &graph));

  size_t nodes = 0;
  CHECK(cudaGraphGetNodes(graph, nullptr, &nodes));
  cudaGraphExec_t executable;
  CHECK(cudaGraphInstantiate(&executable, graph, 0));
  for (int i = 0; i < launches; i++) CHECK(cudaGraphLaunch(executable, stream));
  CHECK(cudaStreamSynchronize(stream));

  int wrong = 0;
  for (unsigned i = 0; i < unsigned(n); i++) {
    unsigned x = i;
    for (int launch = 0; launch < launches; launch++) x = x * 1664525u + 1013904223u;
    wrong += x != host[i];
  }
  std::printf("graph: %zu nodes, %d launches, %d wrong values\n", nodes, launches, wrong);
  CHECK(cudaGraphExecDestroy(executable));
  CHECK(cudaGraphDestroy(graph));
  return wrong ? 1 : 0;
}
