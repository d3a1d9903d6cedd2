// One of many processes that share a GPU, for tests/gpu/sessions.py.
//
//   share idle SECONDS              uses the GPU once, says "ready", and sleeps
//   share work START SECONDS BLOCKS from START (seconds of the real-time clock) on: steps of 20 kernels of BLOCKS blocks, and 4
//                                   bytes back; prints "RATE steps/s"
#include <cuda_runtime.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#define CHECK(call)                                                                                          \
  do {                                                                                                       \
    if (cudaError_t error = (call)) std::printf("%s: %s\n", #call, cudaGetErrorName(error)), std::exit(1); \
  } while (0)

__global__ void turn(float* x, int rounds) {
  float value = x[threadIdx.x];
  for (int i = 0; i < rounds; i++) value = value * 0.999f + 0.001f;
  x[threadIdx.x] = value;
}

static double now() {
  timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  return time.tv_sec + time.tv_nsec / 1e9;
}

int main(int argc, char** argv) {
  const bool work = argc == 5 && !std::strcmp(argv[1], "work");
  if (!work && !(argc == 3 && !std::strcmp(argv[1], "idle"))) return 2;
  const int blocks = work ? std::atoi(argv[4]) : 1;
  float *x, value;
  CHECK(cudaMalloc(&x, 1024 * sizeof(float)));
  CHECK(cudaMemset(x, 0, 1024 * sizeof(float)));
  const auto step = [&] {
    for (int i = 0; i < 20; i++) turn<<<blocks, 1024>>>(x, 2000);
    CHECK(cudaMemcpy(&value, x, sizeof value, cudaMemcpyDeviceToHost));
  };
  if (!work) {
    turn<<<1, 32>>>(x, 1);
    CHECK(cudaDeviceSynchronize());
    std::puts("ready");
    std::fflush(stdout);
    sleep(unsigned(std::atoi(argv[2])));
    return 0;
  }
  step();
  const double start = std::atof(argv[2]), seconds = std::atof(argv[3]);
  if (now() > start) std::puts("too late"), std::exit(1);
  while (now() < start) usleep(100);
  int steps = 0;
  while (now() < start + seconds) step(), steps++;
  std::printf("%.2f steps/s\n", steps / (now() - start));
}
