// Host memory that kernels use where it lies: zero-copy in and out, reached by parameter, structure, stored pointer.
#include <fcntl.h>
#include <unistd.h>

#include "e2e.h"

struct Node {
  int value;
  Node* next;
};
struct Job {
  const int* in;
  int* out;
  int count;
};

__global__ void scale(const int* in, int* out, int count, int factor) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) out[i] = in[i] * factor;
}
__global__ void run(Job job) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < job.count) job.out[i] = job.in[i] + 1;
}
__global__ void run_stored(const Job* job) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < job->count) job->out[i] = job->in[i] - 1;
}
__global__ void walk(Node* node, int* sum) {
  *sum = 0;
  for (; node; node = node->next) {
    *sum += node->value;
    node->value *= 2;
  }
}
__global__ void set_even(unsigned char* bytes, int count) {
  int i = 2 * (blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) bytes[i] = (unsigned char)(i / 2);
}

static void zero_copy() {
  const int n = 100000;
  int *in, *out, *d_in, *d_out;
  CHECK(cudaHostAlloc(&in, n * sizeof(int), cudaHostAllocMapped));
  CHECK(cudaHostAlloc(&out, n * sizeof(int), cudaHostAllocMapped));
  CHECK(cudaHostGetDevicePointer(&d_in, in, 0));
  CHECK(cudaHostGetDevicePointer(&d_out, out, 0));
  std::printf("same addresses: %d %d\n", d_in == in, d_out == out);
  for (int i = 0; i < n; i++) in[i] = i;
  for (int round = 1; round <= 3; round++) {
    in[7] = round * 1000;
    scale<<<(n + 255) / 256, 256>>>(d_in, d_out, n, round);
    CHECK(cudaDeviceSynchronize());
    std::printf("round %d: %016llx\n", round, (unsigned long long)hash_bytes(out, n * sizeof(int)));
  }
  CHECK(cudaFreeHost(in));
  CHECK(cudaFreeHost(out));
}

// Memory with default flags, found in parameters, in structures, in device memory, in other mapped memory.
static void stored_pointers() {
  const int n = 1000;
  int *in, *out;
  CHECK(cudaMallocHost(&in, n * sizeof(int)));
  CHECK(cudaMallocHost(&out, n * sizeof(int)));
  for (int i = 0; i < n; i++) in[i] = i * 3;
  run<<<4, 256>>>(Job{in, out, n});
  CHECK(cudaDeviceSynchronize());
  std::printf("structure: %016llx\n", (unsigned long long)hash_bytes(out, n * sizeof(int)));
  int* other;
  CHECK(cudaMallocHost(&other, n * sizeof(int)));
  Job job{out, other, n}, *d_job;
  CHECK(cudaMalloc(&d_job, sizeof job));
  CHECK(cudaMemcpy(d_job, &job, sizeof job, cudaMemcpyHostToDevice));
  run_stored<<<4, 256>>>(d_job);
  CHECK(cudaDeviceSynchronize());
  std::printf("stored pointer: %016llx\n", (unsigned long long)hash_bytes(other, n * sizeof(int)));
  Node* nodes[20];
  for (int i = 0; i < 20; i++) CHECK(cudaMallocHost(&nodes[i], sizeof(Node)));
  for (int i = 0; i < 20; i++) *nodes[i] = {i, i < 19 ? nodes[i + 1] : nullptr};
  int* sum;
  CHECK(cudaHostAlloc(&sum, sizeof(int), cudaHostAllocMapped));
  for (int round = 0; round < 3; round++) {
    walk<<<1, 1>>>(nodes[0], sum);
    CHECK(cudaDeviceSynchronize());
    std::printf("list: %d, last %d\n", *sum, nodes[19]->value);
    nodes[10]->value += 5;
  }
  for (Node* node : nodes) CHECK(cudaFreeHost(node));
  CHECK(cudaFreeHost(in));
  CHECK(cudaFreeHost(out));
  CHECK(cudaFreeHost(other));
  CHECK(cudaFreeHost(sum));
  CHECK(cudaFree(d_job));
}

// Bytes that the operating system writes, and bytes that host and device write side by side.
static void outside_writers() {
  const int n = 10000;
  int pipe_ends[2];
  unsigned char *memory, *out;
  CHECK(cudaHostAlloc(&memory, n, cudaHostAllocMapped));
  CHECK(cudaHostAlloc(&out, n * sizeof(int), cudaHostAllocMapped));
  auto data = pattern(n, 5);
  if (pipe(pipe_ends) != 0) std::exit(1);
  for (int round = 0; round < 2; round++) {
    data[0] = (unsigned char)round;
    if (write(pipe_ends[1], data.data(), n) != n || read(pipe_ends[0], memory, n) != n) std::exit(1);
    scale<<<40, 256>>>((int*)memory, (int*)out, n / 4, 1);
    CHECK(cudaDeviceSynchronize());
    std::printf("read(2): %d\n", std::memcmp(out, data.data(), n) == 0);
  }
  FILE* file = std::tmpfile();
  std::fwrite(data.data(), 1, n, file);
  std::rewind(file);
  std::memset(memory, 0, n);
  if (std::fread(memory, 1, n, file) != size_t(n)) std::exit(1);
  scale<<<40, 256>>>((int*)memory, (int*)out, n / 4, 1);
  CHECK(cudaDeviceSynchronize());
  std::printf("fread: %d\n", std::memcmp(out, data.data(), n) == 0);
  std::memset(memory, 0xee, n);
  set_even<<<40, 128>>>(memory, n);
  for (int i = 1; i < n; i += 2) memory[i] = (unsigned char)(i * 7);  // no byte in common with the kernel
  scale<<<40, 256>>>((int*)memory, (int*)out, n / 4, 1);
  CHECK(cudaDeviceSynchronize());
  int wrong = 0;
  for (int i = 0; i < n; i++) wrong += memory[i] != (unsigned char)(i % 2 ? i * 7 : i / 2);
  std::printf("side by side: %d wrong, copy %d\n", wrong, std::memcmp(out, memory, n) == 0);
  CHECK(cudaFreeHost(memory));
  CHECK(cudaFreeHost(out));
}

static void registered() {
  const int n = 5000;
  int* heap = new int[2 * n];
  for (int i = 0; i < n; i++) heap[i] = i;
  heap[n - 1] = -1;
  int *d_first, *d_second;
  CHECK(cudaHostRegister(heap, n * sizeof(int) - 4, cudaHostRegisterMapped));
  CHECK(cudaHostRegister(heap + n, n * sizeof(int), cudaHostRegisterDefault));
  CHECK(cudaHostGetDevicePointer(&d_first, heap, 0));
  CHECK(cudaHostGetDevicePointer(&d_second, heap + n, 0));
  scale<<<20, 256>>>(d_first, d_second, n - 1, 5);
  CHECK(cudaDeviceSynchronize());
  std::printf("registered: %016llx, neighbour %d\n", (unsigned long long)hash_bytes(heap + n, (n - 1) * sizeof(int)), heap[n - 1]);
  CHECK(cudaHostUnregister(heap));
  CHECK(cudaHostUnregister(heap + n));
  SHOW(cudaHostUnregister(heap));
  (void)cudaGetLastError();
  delete[] heap;
}

int main() {
  CHECK(cudaSetDeviceFlags(cudaDeviceMapHost));
  zero_copy();
  stored_pointers();
  outside_writers();
  registered();
}
