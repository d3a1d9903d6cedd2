// Walks through the CUDA runtime on the software GPU; prints one line per topic, "ok" at the end.
#include <cooperative_groups.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#define CHECK(call)                                                                            \
  do {                                                                                         \
    cudaError_t error_ = (call);                                                               \
    if (error_ != cudaSuccess) {                                                               \
      printf("line %d: %s: %s\n", __LINE__, #call, cudaGetErrorString(error_));                \
      exit(1);                                                                                 \
    }                                                                                          \
  } while (0)
#define REQUIRE(condition)                                       \
  do {                                                           \
    if (!(condition)) {                                          \
      printf("line %d: not true: %s\n", __LINE__, #condition);   \
      exit(1);                                                   \
    }                                                            \
  } while (0)

__device__ int device_value = 41;
__constant__ int constant_value[4] = {1, 2, 3, 4};
__managed__ int managed_value = 7;

__global__ void add(const float* a, const float* b, float* c, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) c[i] = a[i] + b[i];
}
__global__ void increment(int* data, int n, int by) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) data[i] += by;
}
__global__ void symbols(int* out) {
  device_value++;
  managed_value += constant_value[3];
  *out = device_value + constant_value[2];
}
__global__ void reduce(const int* in, int* out, int n) {
  extern __shared__ int shared[];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  shared[threadIdx.x] = i < n ? in[i] : 0;
  __syncthreads();
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) atomicAdd(out, shared[0]);
}
__global__ void speak(int round) { printf("round %d block %d\n", round, blockIdx.x); }
__global__ void whole_grid(int* data) {
  auto grid = cooperative_groups::this_grid();
  if (grid.thread_rank() == 0) data[0] = 5;
  grid.sync();
  if (threadIdx.x == 0) atomicAdd(&data[1], data[0]);
}
__global__ void from_texture(cudaTextureObject_t texture, float* out, int width) {
  int x = threadIdx.x, y = blockIdx.x;
  out[y * width + x] = tex2D<float>(texture, x + 0.5f, y + 0.5f) * 2;
}

static void arithmetic() {
  int n = 100000;
  std::vector<float> a(n, 1.5f), b(n, 2.25f), c(n);
  float *da, *db, *dc;
  CHECK(cudaMalloc(&da, n * 4));
  CHECK(cudaMalloc(&db, n * 4));
  CHECK(cudaMalloc(&dc, n * 4));
  CHECK(cudaMemcpy(da, a.data(), n * 4, cudaMemcpyHostToDevice));
  CHECK(cudaMemcpy(db, b.data(), n * 4, cudaMemcpyHostToDevice));
  add<<<(n + 255) / 256, 256>>>(da, db, dc, n);
  CHECK(cudaGetLastError());
  CHECK(cudaMemcpy(c.data(), dc, n * 4, cudaMemcpyDeviceToHost));
  for (float value : c) REQUIRE(value == 3.75f);
  CHECK(cudaFree(da));
  CHECK(cudaFree(db));
  CHECK(cudaFree(dc));
  puts("arithmetic");
}

static void symbol_access() {
  int *out, host = 0;
  CHECK(cudaMalloc(&out, 4));
  REQUIRE(managed_value == 7);
  managed_value = 100;
  symbols<<<1, 1>>>(out);
  CHECK(cudaMemcpy(&host, out, 4, cudaMemcpyDeviceToHost));
  REQUIRE(host == 42 + 3);
  REQUIRE(managed_value == 104);
  CHECK(cudaMemcpyFromSymbol(&host, device_value, 4));
  REQUIRE(host == 42);
  int constants[4] = {10, 20, 30, 40};
  CHECK(cudaMemcpyToSymbol(constant_value, constants, sizeof constants));
  symbols<<<1, 1>>>(out);
  CHECK(cudaMemcpy(&host, out, 4, cudaMemcpyDeviceToHost));
  REQUIRE(host == 43 + 30);
  CHECK(cudaFree(out));
  puts("symbols");
}

static void streams_and_events() {
  int n = 1 << 16, *data[4];
  cudaStream_t stream[4];
  cudaEvent_t start, end, done[4];
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&end));
  CHECK(cudaEventRecord(start));
  for (int s = 0; s < 4; s++) {
    CHECK(cudaStreamCreateWithFlags(&stream[s], s % 2 ? cudaStreamNonBlocking : cudaStreamDefault));
    CHECK(cudaEventCreateWithFlags(&done[s], cudaEventDisableTiming));
    CHECK(cudaMallocAsync(&data[s], n * 4, stream[s]));
    CHECK(cudaMemsetAsync(data[s], 0, n * 4, stream[s]));
    for (int i = 0; i < 5; i++) increment<<<8, 128, 0, stream[s]>>>(data[s], n, s + 1);
    CHECK(cudaEventRecord(done[s], stream[s]));
  }
  for (int s = 1; s < 4; s++) CHECK(cudaStreamWaitEvent(stream[0], done[s], 0));
  int *total, sum = 0;
  CHECK(cudaMalloc(&total, 4));
  CHECK(cudaMemsetAsync(total, 0, 4, stream[0]));
  for (int s = 0; s < 4; s++) reduce<<<n / 256, 256, 256 * 4, stream[0]>>>(data[s], total, n);
  CHECK(cudaMemcpyAsync(&sum, total, 4, cudaMemcpyDeviceToHost, stream[0]));
  CHECK(cudaStreamSynchronize(stream[0]));
  REQUIRE(sum == n * 5 * (1 + 2 + 3 + 4));
  CHECK(cudaEventRecord(end));
  CHECK(cudaEventSynchronize(end));
  float ms = -1;
  CHECK(cudaEventElapsedTime(&ms, start, end));
  REQUIRE(ms >= 0);
  for (int s = 0; s < 4; s++) {
    CHECK(cudaFreeAsync(data[s], stream[s]));
    CHECK(cudaStreamDestroy(stream[s]));
    CHECK(cudaEventDestroy(done[s]));
  }
  CHECK(cudaFree(total));
  puts("streams and events");
}

static void host_functions() {
  std::vector<int> order;
  auto push = [](void* user) { ((std::vector<int>*)user)->push_back(int(((std::vector<int>*)user)->size())); };
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  for (int i = 0; i < 10; i++) CHECK(cudaLaunchHostFunc(stream, push, &order));
  CHECK(cudaStreamSynchronize(stream));
  REQUIRE(order.size() == 10 && order[9] == 9);
  CHECK(cudaStreamDestroy(stream));
  puts("host functions");
}

static void graphs() {
  int n = 4096, *data, host = 0;
  CHECK(cudaMalloc(&data, n * 4));
  CHECK(cudaMemset(data, 0, n * 4));
  cudaStream_t a, b;
  cudaEvent_t fork, join;
  CHECK(cudaStreamCreate(&a));
  CHECK(cudaStreamCreate(&b));
  CHECK(cudaEventCreate(&fork));
  CHECK(cudaEventCreate(&join));
  CHECK(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal));
  increment<<<4, 64, 0, a>>>(data, n, 1);
  CHECK(cudaEventRecord(fork, a));
  CHECK(cudaStreamWaitEvent(b, fork, 0));
  increment<<<4, 64, 0, b>>>(data + n / 2, n / 2, 10);
  increment<<<4, 64, 0, a>>>(data, n / 2, 100);
  CHECK(cudaEventRecord(join, b));
  CHECK(cudaStreamWaitEvent(a, join, 0));
  CHECK(cudaMemcpyAsync(&host, data + n - 1, 4, cudaMemcpyDeviceToHost, a));
  cudaGraph_t graph;
  CHECK(cudaStreamEndCapture(a, &graph));
  size_t nodes = 0;
  CHECK(cudaGraphGetNodes(graph, nullptr, &nodes));
  REQUIRE(nodes == 4);
  cudaGraphExec_t exec;
  CHECK(cudaGraphInstantiate(&exec, graph, 0));
  for (int i = 0; i < 3; i++) CHECK(cudaGraphLaunch(exec, a));
  CHECK(cudaStreamSynchronize(a));
  REQUIRE(host == 33);
  int first = 0;
  CHECK(cudaMemcpy(&first, data, 4, cudaMemcpyDeviceToHost));
  REQUIRE(first == 303);
  CHECK(cudaGraphExecDestroy(exec));
  CHECK(cudaGraphDestroy(graph));
  CHECK(cudaFree(data));
  puts("graphs");
}

static void cooperative() {
  int* data;
  CHECK(cudaMalloc(&data, 8));
  CHECK(cudaMemset(data, 0, 8));
  void* arguments[] = {&data};
  CHECK(cudaLaunchCooperativeKernel((void*)whole_grid, dim3(16), dim3(64), arguments, 0, 0));
  int host[2];
  CHECK(cudaMemcpy(host, data, 8, cudaMemcpyDeviceToHost));
  REQUIRE(host[1] == 80);
  REQUIRE(cudaLaunchCooperativeKernel((void*)whole_grid, dim3(100000), dim3(1024), arguments, 0, 0) ==
          cudaErrorCooperativeLaunchTooLarge);
  cudaGetLastError();
  CHECK(cudaFree(data));
  puts("cooperative");
}

static void textures() {
  const int width = 8, height = 4;
  float in[height][width], out[height][width];
  for (int i = 0; i < width * height; i++) in[0][i] = float(i);
  cudaArray_t array;
  auto format = cudaCreateChannelDesc<float>();
  CHECK(cudaMallocArray(&array, &format, width, height));
  CHECK(cudaMemcpy2DToArray(array, 0, 0, in, width * 4, width * 4, height, cudaMemcpyHostToDevice));
  cudaResourceDesc resource{};
  resource.resType = cudaResourceTypeArray;
  resource.res.array.array = array;
  cudaTextureDesc description{};
  description.filterMode = cudaFilterModeLinear;
  cudaTextureObject_t texture;
  CHECK(cudaCreateTextureObject(&texture, &resource, &description, nullptr));
  float* device;
  CHECK(cudaMalloc(&device, sizeof out));
  from_texture<<<height, width>>>(texture, device, width);
  CHECK(cudaMemcpy(out, device, sizeof out, cudaMemcpyDeviceToHost));
  for (int i = 0; i < width * height; i++) REQUIRE(out[0][i] == 2.0f * i);
  CHECK(cudaDestroyTextureObject(texture));
  CHECK(cudaFreeArray(array));
  CHECK(cudaFree(device));
  puts("textures");
}

static void launch_errors() {
  int* data;
  CHECK(cudaMalloc(&data, 4));
  increment<<<1, 2048>>>(data, 1, 1);
  REQUIRE(cudaGetLastError() == cudaErrorInvalidValue);
  increment<<<1, 32, 100 << 10>>>(data, 1, 1);
  REQUIRE(cudaGetLastError() == cudaErrorInvalidValue);
  int blocks = 0;
  CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, reduce, 256, 1024));
  REQUIRE(blocks == 8);
  cudaFuncAttributes attributes;
  CHECK(cudaFuncGetAttributes(&attributes, reduce));
  REQUIRE(attributes.maxThreadsPerBlock == 1024);
  CHECK(cudaFree(data));
  puts("launch errors");
}

static void many_threads() {
  std::vector<std::thread> threads;
  for (int t = 0; t < 16; t++) {
    threads.emplace_back([t] {
      int *data, host = 0;
      CHECK(cudaSetDevice(0));
      CHECK(cudaMalloc(&data, 4));
      CHECK(cudaMemsetAsync(data, 0, 4, cudaStreamPerThread));
      for (int i = 0; i < 20; i++) increment<<<1, 1, 0, cudaStreamPerThread>>>(data, 1, t);
      CHECK(cudaMemcpyAsync(&host, data, 4, cudaMemcpyDeviceToHost, cudaStreamPerThread));
      CHECK(cudaStreamSynchronize(cudaStreamPerThread));
      REQUIRE(host == 20 * t);
      CHECK(cudaFree(data));
    });
  }
  for (auto& thread : threads) thread.join();
  puts("threads");
}

static void output() {
  for (int i = 0; i < 3; i++) speak<<<1, 1>>>(i);
  CHECK(cudaDeviceSynchronize());
  puts("printed");
}

static void reset() {
  CHECK(cudaDeviceReset());
  int value = 3, back = 0, *data;
  CHECK(cudaMalloc(&data, 4));
  CHECK(cudaMemcpy(data, &value, 4, cudaMemcpyHostToDevice));
  increment<<<1, 1>>>(data, 1, 1);
  CHECK(cudaMemcpy(&back, data, 4, cudaMemcpyDeviceToHost));
  REQUIRE(back == 4);
  puts("reset");
}

int main() {
  arithmetic();
  symbol_access();
  streams_and_events();
  host_functions();
  graphs();
  cooperative();
  textures();
  launch_errors();
  many_threads();
  output();
  reset();
  puts("ok");
  return 0;
}
