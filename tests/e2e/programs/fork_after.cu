// A child forked after CUDA was used gets the driver's own error and does not disturb the parent.
#include <sys/wait.h>
#include <unistd.h>

#include "e2e.h"

int main() {
  int *x, value = 5;
  CHECK(cudaMalloc(&x, sizeof(int)));
  CHECK(cudaMemcpy(x, &value, sizeof(int), cudaMemcpyHostToDevice));
  std::fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    void* more;
    SHOW(cudaMalloc(&more, 100));
    SHOW(cudaMemset(x, 0, 4));
    SHOW(cudaDeviceSynchronize());
    int count = 0;
    SHOW(cudaGetDeviceCount(&count));
    std::fflush(stdout);
    _exit(7);
  }
  int status = 0;
  waitpid(child, &status, 0);
  std::printf("child ended with %d\n", WEXITSTATUS(status));
  CHECK(cudaMemcpy(&value, x, sizeof(int), cudaMemcpyDeviceToHost));
  std::printf("parent still reads %d\n", value);
  std::fflush(stdout);
  child = fork();
  if (child == 0) std::exit(3);  // runs exit handlers: they must not harm the parent's session
  waitpid(child, &status, 0);
  CHECK(cudaMemcpy(&value, x, sizeof(int), cudaMemcpyDeviceToHost));
  std::printf("child ended with %d, parent still reads %d\n", WEXITSTATUS(status), value);
}
