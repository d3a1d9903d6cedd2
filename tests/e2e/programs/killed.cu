// Kills itself in the middle of work: the status must say so.
#include <csignal>

#include "e2e.h"

int main(int argc, char** argv) {
  void* memory;
  CHECK(cudaMalloc(&memory, 1 << 20));
  CHECK(cudaMemset(memory, 1, 1 << 20));
  std::printf("before\n");
  std::fflush(stdout);
  raise(argc > 1 ? std::atoi(argv[1]) : SIGKILL);
}
