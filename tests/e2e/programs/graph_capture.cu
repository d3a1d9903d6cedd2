// Stream capture across two streams with kernels, sets and copies; many launches; what capture forbids.
#include "e2e.h"

__global__ void add(int* x, int value, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] += value;
}
__global__ void join(int* a, const int* b, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) a[i] += b[i];
}

int main() {
  const int n = 500;
  int *a, *b;
  CHECK(cudaMalloc(&a, n * sizeof(int)));
  CHECK(cudaMalloc(&b, n * sizeof(int)));
  CHECK(cudaMemset(a, 0, n * sizeof(int)));
  cudaStream_t main_stream, side;
  cudaEvent_t fork, done;
  CHECK(cudaStreamCreate(&main_stream));
  CHECK(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking));
  CHECK(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
  CHECK(cudaEventCreateWithFlags(&done, cudaEventDisableTiming));

  CHECK(cudaStreamBeginCapture(main_stream, cudaStreamCaptureModeThreadLocal));
  CHECK(cudaEventRecord(fork, main_stream));
  CHECK(cudaStreamWaitEvent(side, fork));
  CHECK(cudaMemsetAsync(b, 0, n * sizeof(int), side));
  add<<<4, 128, 0, side>>>(b, 2, n);
  CHECK(cudaEventRecord(done, side));
  add<<<4, 128, 0, main_stream>>>(a, 1, n);
  CHECK(cudaStreamWaitEvent(main_stream, done));
  join<<<4, 128, 0, main_stream>>>(a, b, n);
  cudaStreamCaptureStatus status;
  CHECK(cudaStreamIsCapturing(main_stream, &status));
  std::printf("capturing: %d\n", status);
  unsigned long long id = 0;
  CHECK(cudaStreamGetCaptureInfo(main_stream, &status, &id));
  std::printf("capturing: %d, id given: %d\n", status, id != 0);
  cudaGraph_t graph;
  CHECK(cudaStreamEndCapture(main_stream, &graph));
  size_t nodes = 0, edges = 0;
  CHECK(cudaGraphGetNodes(graph, nullptr, &nodes));
  CHECK(cudaGraphGetEdges(graph, nullptr, nullptr, nullptr, &edges));
  std::printf("%zu nodes, %zu edges\n", nodes, edges);
  cudaGraphExec_t exec;
  CHECK(cudaGraphInstantiate(&exec, graph, 0));
  CHECK(cudaGraphUpload(exec, main_stream));
  CHECK(cudaGraphDestroy(graph));
  for (int i = 0; i < 200; i++) CHECK(cudaGraphLaunch(exec, main_stream));
  CHECK(cudaStreamSynchronize(main_stream));
  int host[n];
  CHECK(cudaMemcpy(host, a, sizeof(host), cudaMemcpyDeviceToHost));
  std::printf("after 200 launches: %d %d\n", host[0], host[n - 1]);
  CHECK(cudaGraphExecDestroy(exec));

  CHECK(cudaStreamBeginCapture(main_stream, cudaStreamCaptureModeThreadLocal));
  add<<<4, 128, 0, main_stream>>>(a, 1, n);
  SHOW(cudaStreamSynchronize(main_stream));
  SHOW(cudaStreamEndCapture(main_stream, &graph));
  SHOW(cudaGetLastError());
  SHOW(cudaStreamSynchronize(main_stream));
  SHOW(cudaStreamEndCapture(main_stream, &graph));
  add<<<4, 128, 0, main_stream>>>(a, 1, n);
  CHECK(cudaMemcpy(host, a, sizeof(host), cudaMemcpyDeviceToHost));
  std::printf("one launch more: %d\n", host[0]);
}
