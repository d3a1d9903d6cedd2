// Atomics of all kinds on global and shared memory; each result is independent of the order.
#include "e2e.h"

__global__ void global_ones(unsigned* u, int* i, unsigned long long* l, float* f, double* d) {
  int t = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(&u[0], 3u);
  atomicSub(&u[1], 1u);
  atomicMax(&u[2], unsigned(t * 7 % 1000));
  atomicMin(&u[3], unsigned(t * 13 % 997 + 5));
  atomicAnd(&u[4], ~(1u << (t % 20)));
  atomicOr(&u[5], 1u << (t % 32));
  atomicXor(&u[6], unsigned(t));
  atomicInc(&u[7], 100u);
  atomicDec(&u[8], 100u);
  atomicMax(&i[0], t - 500);
  atomicMin(&i[1], 500 - t);
  atomicAdd(&l[0], 1ull << 33);
  atomicMax(&l[1], (unsigned long long)t << 40);
  atomicAnd(&l[2], ~(1ull << (t % 60)));
  atomicAdd(f, 0.5f);
  atomicAdd(d, 0.25);
  unsigned long long seen = l[3], expected;  // product by compare and swap
  do {
    expected = seen;
    seen = atomicCAS(&l[3], expected, expected * 3);
  } while (seen != expected);
  if (atomicExch(&u[9], 1u) == 0) atomicAdd(&u[10], 1u);
}

__global__ void shared_ones(int* out) {
  __shared__ int histogram[16];
  __shared__ unsigned long long sum;
  if (threadIdx.x < 16) histogram[threadIdx.x] = 0;
  if (threadIdx.x == 0) sum = 0;
  __syncthreads();
  atomicAdd(&histogram[threadIdx.x * threadIdx.x % 16], 1);
  atomicAdd(&sum, (unsigned long long)threadIdx.x);
  __syncthreads();
  if (threadIdx.x < 16) out[threadIdx.x] = histogram[threadIdx.x];
  if (threadIdx.x == 0) out[16] = int(sum);
}

int main() {
  unsigned u[11] = {0, 100'000, 0, 1'000'000, ~0u, 0, 0, 0, 0, 0, 0};
  int i[2] = {-1000, 1000}, out[17];
  unsigned long long l[4] = {0, 0, ~0ull, 1};
  float f = 0;
  double d = 0;
  char* memory;
  CHECK(cudaMalloc(&memory, 1024));
  CHECK(cudaMemcpy(memory, u, sizeof(u), cudaMemcpyHostToDevice));
  CHECK(cudaMemcpy(memory + 64, i, sizeof(i), cudaMemcpyHostToDevice));
  CHECK(cudaMemcpy(memory + 128, l, sizeof(l), cudaMemcpyHostToDevice));
  CHECK(cudaMemset(memory + 192, 0, 64));
  global_ones<<<8, 128>>>(reinterpret_cast<unsigned*>(memory), reinterpret_cast<int*>(memory + 64),
                          reinterpret_cast<unsigned long long*>(memory + 128), reinterpret_cast<float*>(memory + 192),
                          reinterpret_cast<double*>(memory + 200));
  CHECK(cudaMemcpy(u, memory, sizeof(u), cudaMemcpyDeviceToHost));
  CHECK(cudaMemcpy(i, memory + 64, sizeof(i), cudaMemcpyDeviceToHost));
  CHECK(cudaMemcpy(l, memory + 128, sizeof(l), cudaMemcpyDeviceToHost));
  CHECK(cudaMemcpy(&f, memory + 192, sizeof(f), cudaMemcpyDeviceToHost));
  CHECK(cudaMemcpy(&d, memory + 200, sizeof(d), cudaMemcpyDeviceToHost));
  for (unsigned x : u) std::printf("%u\n", x);
  std::printf("%d %d\n", i[0], i[1]);
  for (auto x : l) std::printf("%llx\n", x);
  std::printf("%g %g\n", f, d);
  shared_ones<<<1, 256>>>(reinterpret_cast<int*>(memory));
  CHECK(cudaMemcpy(out, memory, sizeof(out), cudaMemcpyDeviceToHost));
  for (int x : out) std::printf("%d ", x);
  std::printf("\n");
}
