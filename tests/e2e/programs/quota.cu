// Fills the memory it was given: total, free and the point where allocation ends must agree with one another.
// Arguments: "fill" (default) prints the account; "hold BYTES SECONDS" takes that much and keeps it.
#include <unistd.h>

#include "e2e.h"

int main(int argc, char** argv) {
  if (argc > 3 && !std::strcmp(argv[1], "hold")) {
    void* memory;
    cudaError_t error = cudaMalloc(&memory, std::strtoull(argv[2], nullptr, 10));
    std::printf("hold: %s\n", name_of(error));
    std::fflush(stdout);
    if (error == cudaSuccess) sleep(unsigned(std::atoi(argv[3])));
    return error != cudaSuccess;
  }
  const size_t unit = 2 << 20;
  size_t free_before = 0, free_full = 0, free_after = 0, total = 0;
  CHECK(cudaMemGetInfo(&free_before, &total));
  std::vector<void*> blocks;
  size_t taken = 0;
  cudaError_t last = cudaSuccess;
  for (size_t bytes : {64 * unit, unit}) {
    for (void* memory; (last = cudaMalloc(&memory, bytes)) == cudaSuccess; taken += bytes) blocks.push_back(memory);
    cudaGetLastError();
  }
  CHECK(cudaMemGetInfo(&free_full, &total));
  std::printf("total %zu\nfree before %zu\ntaken %zu\nfree when full %zu\nended with %s\n", total, free_before, taken,
              free_full, name_of(last));
  for (void* memory : blocks) CHECK(cudaFree(memory));
  CHECK(cudaMemGetInfo(&free_after, &total));
  std::printf("free after %zu\n", free_after);
  void* all;
  std::printf("everything at once: %s\n", name_of(cudaMalloc(&all, free_after / unit * unit)));
  bool exact = free_before - free_full == taken && free_full < unit && free_after == free_before &&
               last == cudaErrorMemoryAllocation;
  std::printf("exact: %s\n", exact ? "yes" : "no");
  return !exact;
}
