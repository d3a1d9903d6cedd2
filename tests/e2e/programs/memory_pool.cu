// Stream-ordered allocation: the default pool, a pool of one's own, attributes, and use across streams.
#include "e2e.h"

__global__ void fill(int* x, int n, int value) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) x[i] = value + i;
}

int main() {
  const int n = 100'000;
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  for (int round = 0; round < 20; round++) {
    int* x;
    int host[3];
    CHECK(cudaMallocAsync(&x, n * sizeof(int), stream));
    fill<<<8, 128, 0, stream>>>(x, n, round);
    CHECK(cudaMemcpyAsync(&host[0], x, sizeof(int), cudaMemcpyDeviceToHost, stream));
    CHECK(cudaMemcpyAsync(&host[1], x + n - 1, sizeof(int), cudaMemcpyDeviceToHost, stream));
    CHECK(cudaFreeAsync(x, stream));
    CHECK(cudaStreamSynchronize(stream));
    if (round % 10 == 9) std::printf("%d %d\n", host[0], host[1]);
  }
  cudaMemPool_t pool, mine;
  CHECK(cudaDeviceGetDefaultMemPool(&pool, 0));
  uint64_t used = 99, threshold = 1 << 20;
  CHECK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used));
  std::printf("used %llu\n", (unsigned long long)used);
  CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
  threshold = 0;
  CHECK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
  std::printf("threshold %llu\n", (unsigned long long)threshold);
  cudaMemPoolProps props = {};
  props.allocType = cudaMemAllocationTypePinned;
  props.location = {cudaMemLocationTypeDevice, 0};
  CHECK(cudaMemPoolCreate(&mine, &props));
  int *a, *b;
  CHECK(cudaMallocFromPoolAsync(&a, 1000, mine, stream));
  CHECK(cudaMallocFromPoolAsync(&b, 1 << 20, mine, stream));
  fill<<<1, 128, 0, stream>>>(a, 250, 7);
  CHECK(cudaMemcpyAsync(b, a, 1000, cudaMemcpyDeviceToDevice, stream));
  CHECK(cudaStreamSynchronize(stream));
  std::printf("%016llx\n", (unsigned long long)hash_device(b, 1000));
  CHECK(cudaMemPoolGetAttribute(mine, cudaMemPoolAttrUsedMemCurrent, &used));
  std::printf("used at least what was asked: %d\n", used >= (1 << 20) + 1000);
  CHECK(cudaFreeAsync(a, stream));
  CHECK(cudaFree(b));
  CHECK(cudaStreamSynchronize(stream));
  CHECK(cudaMemPoolTrimTo(mine, 0));
  SHOW(cudaMemPoolDestroy(mine));
  SHOW(cudaMallocAsync(reinterpret_cast<void**>(&a), size_t(1) << 50, stream));
  SHOW(cudaGetLastError());
}
