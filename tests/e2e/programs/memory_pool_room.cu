// Memory that went back from stream-ordered pools: there is room for others at once, and cudaMemGetInfo says so.
#include "e2e.h"

// The whole device or partition is more than this test wants to touch.
static size_t most_of(size_t bytes) { return bytes / 10 * 6 >> 21 << 21; }

// Is most of `bytes` gone since `before` was free? Natively others come and go on the same card.
static bool is_taken(size_t before, size_t now, size_t bytes) { return now < before && before - now >= bytes / 2; }

int main() {
  size_t before, now, total;
  void* memory = nullptr;
  cudaStream_t stream;
  cudaMemPool_t pool;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaMemGetInfo(&before, &total));
  const size_t bytes = most_of(before);

  CHECK(cudaMallocAsync(&memory, bytes, stream));
  CHECK(cudaMemGetInfo(&now, &total));
  std::printf("taken: %d\n", is_taken(before, now, bytes));
  CHECK(cudaFreeAsync(memory, stream));
  CHECK(cudaStreamSynchronize(stream));
  SHOW(cudaMalloc(&memory, bytes));  // the first answer after the pool gave it back: nobody asked for room in between
  CHECK(cudaFree(memory));

  // A pool that keeps what it has, until it is trimmed.
  CHECK(cudaDeviceGetDefaultMemPool(&pool, 0));
  uint64_t keep = UINT64_MAX;
  CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
  CHECK(cudaMallocAsync(&memory, bytes, stream));
  CHECK(cudaFreeAsync(memory, stream));
  CHECK(cudaStreamSynchronize(stream));
  CHECK(cudaMemGetInfo(&now, &total));
  std::printf("kept: %d\n", is_taken(before, now, bytes));
  CHECK(cudaMallocAsync(&memory, bytes, stream));
  CHECK(cudaFreeAsync(memory, stream));
  CHECK(cudaStreamSynchronize(stream));
  CHECK(cudaMemPoolTrimTo(pool, 0));
  CHECK(cudaMemGetInfo(&now, &total));
  std::printf("trimmed: %d\n", !is_taken(before, now, bytes));
  SHOW(cudaMalloc(&memory, bytes));
  CHECK(cudaFree(memory));

  // One of the program's own, destroyed with memory in it.
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = 0;
  CHECK(cudaMemPoolCreate(&pool, &properties));
  CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
  CHECK(cudaMallocFromPoolAsync(&memory, bytes, pool, stream));
  CHECK(cudaFreeAsync(memory, stream));
  CHECK(cudaStreamSynchronize(stream));
  CHECK(cudaMemPoolDestroy(pool));
  SHOW(cudaMalloc(&memory, bytes));
  CHECK(cudaFree(memory));
}
