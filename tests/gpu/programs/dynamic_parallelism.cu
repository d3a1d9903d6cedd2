// Kernels that launch kernels.
#include "cases.h"

namespace {

__global__ void leaf(int* out, int value) { out[threadIdx.x] += value; }

__global__ void parent(int* out, int children) {
  for (int i = 0; i < children; i++) leaf<<<1, 64>>>(out, i + 1);
}

__global__ void branch(int* count, int depth) {
  if (threadIdx.x == 0) atomicAdd(count, 1);
  if (depth > 0 && threadIdx.x < 2) branch<<<1, 32, 0, cudaStreamFireAndForget>>>(count, depth - 1);
}

__global__ void last(int* out) { *out = *out * 2 + 1; }
__global__ void with_tail(int* out) {
  last<<<1, 1, 0, cudaStreamTailLaunch>>>(out);
  *out = 20;
}

Result children_in_order() {
  DeviceArray<int> out(64);
  parent<<<1, 1>>>(out.get(), 10);
  NEED(cudaGetLastError());
  auto got = out.host();
  return {got == std::vector<int>(64, 55), hash_of(got)};
}

Result tree() {
  DeviceArray<int> count(1);
  branch<<<1, 32>>>(count.get(), 6);
  NEED(cudaGetLastError());
  int got = count.host()[0];
  return {got == 127, uint64_t(got)};
}

Result tail_launch() {
  DeviceArray<int> out(1);
  with_tail<<<1, 1>>>(out.get());
  NEED(cudaGetLastError());
  int got = out.host()[0];
  return {got == 41, uint64_t(got)};
}

Result pending_limit() {
  size_t before = 0, after = 0;
  NEED(cudaDeviceGetLimit(&before, cudaLimitDevRuntimePendingLaunchCount));
  NEED(cudaDeviceSetLimit(cudaLimitDevRuntimePendingLaunchCount, 4096));
  NEED(cudaDeviceGetLimit(&after, cudaLimitDevRuntimePendingLaunchCount));
  return {after == 4096, before};
}

}  // namespace

int main() {
  run_case("children in order", children_in_order);
  run_case("a tree of launches", tree);
  run_case("tail launch", tail_launch);
  run_case("limit of pending launches", pending_limit);
}
