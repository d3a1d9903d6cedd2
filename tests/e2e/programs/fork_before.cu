// A child forked before the first CUDA call is a CUDA process of its own; the parent is too.
#include <sys/wait.h>
#include <unistd.h>

#include "e2e.h"

__global__ void square(int* x) { *x *= *x; }

static int use(int value) {
  int* x;
  CHECK(cudaMalloc(&x, sizeof(int)));
  CHECK(cudaMemcpy(x, &value, sizeof(int), cudaMemcpyHostToDevice));
  square<<<1, 1>>>(x);
  CHECK(cudaMemcpy(&value, x, sizeof(int), cudaMemcpyDeviceToHost));
  return value;
}

int main() {
  for (int i = 1; i <= 3; i++) {
    pid_t child = fork();
    if (child == 0) {
      std::printf("child %d: %d\n", i, use(i));
      std::fflush(stdout);
      _exit(i);
    }
    int status = 0;
    waitpid(child, &status, 0);
    std::printf("child %d ended with %d\n", i, WEXITSTATUS(status));
    std::fflush(stdout);
  }
  std::printf("parent: %d\n", use(9));
}
