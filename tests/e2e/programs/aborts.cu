// Ends by an abort after using CUDA.
#include "e2e.h"

int main() {
  void* memory;
  CHECK(cudaMalloc(&memory, 100));
  std::fprintf(stderr, "giving up\n");
  std::abort();
}
