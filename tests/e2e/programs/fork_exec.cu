// A CUDA process starts another one (itself) and both work.
#include <sys/wait.h>
#include <unistd.h>

#include "e2e.h"

int main(int argc, char**) {
  int *x, value = argc;
  CHECK(cudaMalloc(&x, sizeof(int)));
  CHECK(cudaMemcpy(x, &value, sizeof(int), cudaMemcpyHostToDevice));
  if (argc == 1) {
    pid_t child = fork();
    if (child == 0) {
      execl("/proc/self/exe", "again", "child", nullptr);
      _exit(127);
    }
    int status = 0;
    waitpid(child, &status, 0);
    std::printf("child ended with %d\n", WEXITSTATUS(status));
  }
  CHECK(cudaMemset(x, 1, 2));
  CHECK(cudaMemcpy(&value, x, sizeof(int), cudaMemcpyDeviceToHost));
  std::printf("%s: %x\n", argc == 1 ? "parent" : "child", value);
  return argc + 7;
}
