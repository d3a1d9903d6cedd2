// Templates, lambdas, function attributes, structures and 4 KiB of arguments by value, recursion, function pointers,
// virtual functions and local arrays in device code.
#include "e2e.h"

template <typename T, int N>
__global__ void scaled(T* out, T factor) {
  out[threadIdx.x] = T(threadIdx.x) * factor + N;
}

template <typename F>
__global__ void apply(int* out, F f) {
  out[threadIdx.x] = f(threadIdx.x);
}

struct Big {
  char tag;
  double weights[400];
  int n;
};
__global__ void take(Big big, double* out) {
  double sum = 0;
  for (int i = 0; i < big.n; i++) sum += big.weights[i];
  *out = sum + big.tag;
}

__device__ __noinline__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
__device__ __noinline__ int square(int x) { return x * x; }
__device__ __noinline__ int negate(int x) { return -x; }
using Function = int (*)(int);
__device__ Function choices[3] = {square, negate, fibonacci};

struct Shape {
  __device__ virtual int area() const = 0;
  __device__ virtual ~Shape() {}
};
struct Square : Shape {
  int side;
  __device__ explicit Square(int side) : side(side) {}
  __device__ int area() const override { return side * side; }
};
struct Strip : Shape {
  __device__ int area() const override { return 1; }
};

__global__ void call(int* out) {
  int i = threadIdx.x;
  out[i] = choices[i % 3](i);
  Square square(i);
  Strip strip;
  const Shape* shape = i % 2 ? static_cast<const Shape*>(&square) : &strip;
  int local[16];
  for (int k = 0; k < 16; k++) local[(k * 5 + i) % 16] = k;
  out[32 + i] = shape->area() * 100 + local[i % 16];
}

template <typename T>
static void show(const T* device, int n, const char* format) {
  std::vector<T> host(n);
  CHECK(cudaMemcpy(host.data(), device, n * sizeof(T), cudaMemcpyDeviceToHost));
  for (T value : host) std::printf(format, value);
  std::printf("\n");
}

int main() {
  void* memory;
  CHECK(cudaMalloc(&memory, 4096));
  auto* ints = static_cast<int*>(memory);
  scaled<int, 5><<<1, 8>>>(ints, 3);
  show(ints, 8, "%d ");
  scaled<double, -1><<<1, 4>>>(static_cast<double*>(memory), 0.25);
  show(static_cast<double*>(memory), 4, "%g ");
  int captured = 1000;
  apply<<<1, 8>>>(ints, [captured] __device__(int i) { return captured - i; });
  show(ints, 8, "%d ");
  Big big = {};
  big.tag = 7;
  big.n = 400;
  for (int i = 0; i < 400; i++) big.weights[i] = i * 0.5;
  take<<<1, 1>>>(big, static_cast<double*>(memory));
  show(static_cast<double*>(memory), 1, "%g ");
  call<<<1, 32>>>(ints);
  show(ints, 64, "%d ");
  cudaFuncAttributes attributes;
  CHECK(cudaFuncGetAttributes(&attributes, take));
  std::printf("threads %d, shared %zu, const %zu\n", attributes.maxThreadsPerBlock, attributes.sharedSizeBytes,
              attributes.constSizeBytes);
}
