// Host functions and stream callbacks run in stream order, see finished copies, and may come before further work.
#include "e2e.h"

struct Step {
  int number;
  const int* value;
};

static void CUDART_CB print(void* data) {
  auto* step = static_cast<Step*>(data);
  std::printf("host function %d sees %d\n", step->number, *step->value);
}

static void CUDART_CB callback(cudaStream_t, cudaError_t status, void* data) {
  auto* step = static_cast<Step*>(data);
  std::printf("callback %d sees %d, %s\n", step->number, *step->value, name_of(status));
}

static void CUDART_CB increment(void* data) { ++*static_cast<int*>(data); }

__global__ void store(int* x, int value) { *x = value; }

int main() {
  int *device, *host;
  CHECK(cudaMalloc(&device, sizeof(int)));
  CHECK(cudaMallocHost(&host, sizeof(int)));
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  Step steps[10];
  for (int i = 0; i < 10; i++) {
    steps[i] = {i, host};
    store<<<1, 1, 0, stream>>>(device, i * i);
    CHECK(cudaMemcpyAsync(host, device, sizeof(int), cudaMemcpyDeviceToHost, stream));
    if (i % 2 == 0) {
      CHECK(cudaLaunchHostFunc(stream, print, &steps[i]));
    } else {
      CHECK(cudaStreamAddCallback(stream, callback, &steps[i], 0));
    }
  }
  CHECK(cudaStreamSynchronize(stream));

  // A host function changes pinned memory that a later copy of the same stream reads.
  *host = 0;
  for (int i = 0; i < 50; i++) {
    CHECK(cudaLaunchHostFunc(stream, increment, host));
    CHECK(cudaMemcpyAsync(device, host, sizeof(int), cudaMemcpyHostToDevice, stream));
  }
  CHECK(cudaStreamSynchronize(stream));
  int value = -1;
  CHECK(cudaMemcpy(&value, device, sizeof(int), cudaMemcpyDeviceToHost));
  std::printf("after 50 increments: host %d, device %d\n", *host, value);

  // Many streams, one counter each.
  int counters[8] = {};
  cudaStream_t streams[8];
  for (int s = 0; s < 8; s++) CHECK(cudaStreamCreateWithFlags(&streams[s], cudaStreamNonBlocking));
  for (int i = 0; i < 40; i++) CHECK(cudaLaunchHostFunc(streams[i % 8], increment, &counters[i % 8]));
  CHECK(cudaDeviceSynchronize());
  for (int counter : counters) std::printf("%d ", counter);
  std::printf("\n");
}
