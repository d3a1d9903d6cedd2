// Copies in a captured graph read and write host memory at every launch - pinned and pageable, small and large -
// never at capture.
#include "e2e.h"

__global__ void add(unsigned char* x, size_t n, int value) {
  size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x;
  if (i < n) x[i] += value;
}

static void run(size_t bytes, bool pinned) {
  unsigned char *device, *in, *out;
  CHECK(cudaMalloc(&device, bytes));
  if (pinned) {
    CHECK(cudaMallocHost(&in, bytes));
    CHECK(cudaMallocHost(&out, bytes));
  } else {
    in = static_cast<unsigned char*>(std::malloc(bytes));
    out = static_cast<unsigned char*>(std::malloc(bytes));
  }
  std::memset(in, 200, bytes);
  std::memset(out, 0, bytes);
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  CHECK(cudaMemcpyAsync(device, in, bytes, cudaMemcpyHostToDevice, stream));
  add<<<unsigned((bytes + 255) / 256), 256, 0, stream>>>(device, bytes, 1);
  CHECK(cudaMemcpyAsync(out, device, bytes, cudaMemcpyDeviceToHost, stream));
  CHECK(cudaStreamEndCapture(stream, &graph));
  std::printf("%zu bytes, %s: after capture %d", bytes, pinned ? "pinned" : "pageable", out[0]);
  CHECK(cudaGraphInstantiate(&exec, graph, 0));
  for (int i = 0; i < 4; i++) {
    auto data = pattern(bytes, i);
    std::memcpy(in, data.data(), bytes);
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
    for (auto& byte : data) byte++;
    std::printf(" %d", std::memcmp(out, data.data(), bytes) == 0);
  }
  std::printf("\n");
  CHECK(cudaGraphExecDestroy(exec));
  CHECK(cudaGraphDestroy(graph));
}

int main() {
  for (size_t bytes : {size_t(16), size_t(65536), size_t(100'001), size_t(3 << 20)}) {
    run(bytes, true);
    run(bytes, false);
  }
}
