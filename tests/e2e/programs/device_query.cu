// What the device says of itself (not its memory: under bfrun that is the partition's).
#include "e2e.h"

int main() {
  int count = 0, driver = 0, runtime = 0, device = -1;
  CHECK(cudaGetDeviceCount(&count));
  CHECK(cudaDriverGetVersion(&driver));
  CHECK(cudaRuntimeGetVersion(&runtime));
  CHECK(cudaGetDevice(&device));
  std::printf("device %d, at least one: %d, driver %d runtime %d\n", device, count >= 1, driver, runtime);
  cudaDeviceProp p;
  CHECK(cudaGetDeviceProperties(&p, 0));
  std::printf("%s, %d.%d, warp %d, %d processors\n", p.name, p.major, p.minor, p.warpSize, p.multiProcessorCount);
  std::printf("block %zu shared, %d threads, %d x %d x %d; grid %d x %d x %d\n", p.sharedMemPerBlock,
              p.maxThreadsPerBlock, p.maxThreadsDim[0], p.maxThreadsDim[1], p.maxThreadsDim[2], p.maxGridSize[0],
              p.maxGridSize[1], p.maxGridSize[2]);
  std::printf("per processor: %zu shared, %d registers, %d threads; opt-in shared %zu\n", p.sharedMemPerMultiprocessor,
              p.regsPerMultiprocessor, p.maxThreadsPerMultiProcessor, p.sharedMemPerBlockOptin);
  for (int attribute = 1; attribute <= 120; attribute++) {
    int value = -1;
    cudaError_t error = cudaDeviceGetAttribute(&value, cudaDeviceAttr(attribute), 0);
    // The clock rates of a real card move; the PCI place is the server's affair.
    if (attribute == cudaDevAttrClockRate || attribute == cudaDevAttrMemoryClockRate) continue;
    // Only where the GPU is in this machine: 0 through Backfield (docs/compatibility.md).
    if (attribute == 88 || attribute == 100 || attribute == 101 || attribute == 103 || attribute == 110 || attribute == 114 || attribute == 116 ||
        attribute == 119)
      continue;
    std::printf("attribute %d: %d %s\n", attribute, value, name_of(error));
  }
  int value;
  SHOW(cudaSetDevice(99));
  SHOW(cudaDeviceGetAttribute(&value, cudaDevAttrWarpSize, 99));
  char bus[32];
  CHECK(cudaDeviceGetPCIBusId(bus, sizeof(bus), 0));
  CHECK(cudaDeviceGetByPCIBusId(&device, bus));
  std::printf("found again by bus id: %d\n", device);
}
