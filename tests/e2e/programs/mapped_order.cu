// When host memory that kernels use is read and written: streams, events, graphs, host functions, sets and copies.
#include "e2e.h"

__global__ void add(int* values, int count, int step) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) values[i] += step;
}
__global__ void slow_add(int* values, int count, int step, int turns) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  int sum = 0;
  for (int t = 0; t < turns; t++) sum += (t * i) & 3;
  if (i < count) values[i] += step + (sum < 0);
}

constexpr int kCount = 3000;

static void print(const char* what, const int* values) {
  std::printf("%s: %d %d %016llx\n", what, values[0], values[kCount - 1], (unsigned long long)hash_bytes(values, kCount * sizeof(int)));
}

struct Seen {
  int* values;
  int before;
};
static void CUDART_CB host_step(void* data) {
  auto* seen = static_cast<Seen*>(data);
  seen->before = seen->values[5];
  for (int i = 0; i < kCount; i++) seen->values[i] *= 2;
}

int main() {
  int *values, *device;
  CHECK(cudaHostAlloc(&values, kCount * sizeof(int), cudaHostAllocMapped | cudaHostAllocPortable));
  CHECK(cudaMalloc(&device, kCount * sizeof(int)));
  for (int i = 0; i < kCount; i++) values[i] = i;
  cudaStream_t one, two;
  cudaEvent_t event;
  CHECK(cudaStreamCreateWithFlags(&one, cudaStreamNonBlocking));
  CHECK(cudaStreamCreate(&two));
  CHECK(cudaEventCreate(&event));

  slow_add<<<12, 256, 0, one>>>(values, kCount, 1, 2000);
  CHECK(cudaEventRecord(event, one));
  CHECK(cudaEventSynchronize(event));
  print("event", values);
  slow_add<<<12, 256, 0, one>>>(values, kCount, 1, 2000);
  while (cudaStreamQuery(one) == cudaErrorNotReady) {
  }
  print("query", values);
  add<<<12, 256, 0, one>>>(values, kCount, 10);
  CHECK(cudaEventRecord(event, one));
  CHECK(cudaStreamWaitEvent(two, event, 0));
  add<<<12, 256, 0, two>>>(values, kCount, 100);
  CHECK(cudaStreamSynchronize(two));
  print("two streams", values);

  Seen seen{values, 0};
  add<<<12, 256, 0, one>>>(values, kCount, 1);
  CHECK(cudaLaunchHostFunc(one, host_step, &seen));
  add<<<12, 256, 0, one>>>(values, kCount, 1);
  CHECK(cudaStreamSynchronize(one));
  std::printf("host function saw %d\n", seen.before);
  print("host function", values);

  // Copies in stream order after kernels, in all directions, by the program's host address.
  add<<<12, 256, 0, one>>>(values, kCount, 3);
  CHECK(cudaMemcpyAsync(device, values, kCount * sizeof(int), cudaMemcpyHostToDevice, one));
  add<<<12, 256, 0, one>>>(values, kCount, 3);
  CHECK(cudaStreamSynchronize(one));
  std::printf("copy between: %016llx\n", (unsigned long long)hash_device(device, kCount * sizeof(int)));
  print("after it", values);
  CHECK(cudaMemcpy(values, device, kCount * sizeof(int), cudaMemcpyDefault));
  print("copied back", values);
  values[0] = 77;
  CHECK(cudaMemcpyAsync(device, values, kCount * sizeof(int), cudaMemcpyDefault, one));
  CHECK(cudaStreamSynchronize(one));
  int first = 0;
  CHECK(cudaMemcpy(&first, device, sizeof first, cudaMemcpyDeviceToHost));
  std::printf("host write before a copy: %d\n", first);
  CHECK(cudaMemcpy2D(values, 40, device, 80, 40, 20, cudaMemcpyDeviceToHost));
  print("2D", values);

  // Sets.
  CHECK(cudaMemsetAsync(values, 0x11, 100, one));
  CHECK(cudaStreamSynchronize(one));
  print("set", values);
  CHECK(cudaMemset(values + 50, 0x22, 100));
  print("set and wait", values);
  values[1] = 5;
  CHECK(cudaMemsetAsync(values, 0, 4, one));
  CHECK(cudaStreamSynchronize(one));
  std::printf("beside a set: %d %d\n", values[0], values[1]);
  unsigned char* plain;  // never seen by device code
  CHECK(cudaMallocHost(&plain, 300000));
  std::memset(plain, 1, 300000);
  CHECK(cudaMemset(plain + 10, 9, 200000));
  std::printf("set of pinned memory: %016llx\n", (unsigned long long)hash_bytes(plain, 300000));
  CHECK(cudaMemset2DAsync(plain, 1000, 3, 500, 100, one));
  CHECK(cudaMemcpyAsync(device, plain, kCount * sizeof(int), cudaMemcpyHostToDevice, one));
  CHECK(cudaStreamSynchronize(one));
  std::printf("and of rows: %016llx %016llx\n", (unsigned long long)hash_bytes(plain, 300000), (unsigned long long)hash_device(device, kCount * sizeof(int)));

  // A graph reads and writes at each launch.
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CHECK(cudaStreamBeginCapture(one, cudaStreamCaptureModeGlobal));
  add<<<12, 256, 0, one>>>(values, kCount, 1);
  CHECK(cudaMemcpyAsync(device, values, kCount * sizeof(int), cudaMemcpyDefault, one));
  CHECK(cudaLaunchHostFunc(one, host_step, &seen));
  add<<<12, 256, 0, one>>>(values, kCount, 1);
  CHECK(cudaStreamEndCapture(one, &graph));
  CHECK(cudaGraphInstantiate(&exec, graph, 0));
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < kCount; i++) values[i] = i + round;
    CHECK(cudaGraphLaunch(exec, one));
    CHECK(cudaStreamSynchronize(one));
    std::printf("graph: %d %016llx\n", seen.before, (unsigned long long)hash_device(device, kCount * sizeof(int)));
    print("graph", values);
  }
  CHECK(cudaFreeHost(plain));

  // Freed while a kernel uses it: the free waits.
  slow_add<<<12, 256, 0, one>>>(values, kCount, 1, 5000);
  CHECK(cudaFreeHost(values));
  CHECK(cudaStreamSynchronize(one));
  SHOW(cudaFreeHost(values));
}
