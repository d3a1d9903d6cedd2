// 2D and 3D copies and sets between pitched, dense and array memory; bytes beside the rectangle stay untouched.
#include "e2e.h"

int main() {
  const size_t width = 100, height = 33, depth = 5, host_pitch = 112;
  char* pitched;
  size_t pitch = 0;
  CHECK(cudaMallocPitch(&pitched, &pitch, width, height));
  std::printf("pitch multiple of 32: %d, at least width: %d\n", pitch % 32 == 0, pitch >= width);
  CHECK(cudaMemset(pitched, 0x55, pitch * height));
  auto host = pattern(host_pitch * height, 1);
  CHECK(cudaMemcpy2D(pitched, pitch, host.data(), host_pitch, width, height, cudaMemcpyHostToDevice));
  std::vector<unsigned char> back(host_pitch * height, 0xaa);
  CHECK(cudaMemcpy2D(back.data(), host_pitch, pitched, pitch, width, height, cudaMemcpyDeviceToHost));
  std::printf("2D: %016llx\n", (unsigned long long)hash_bytes(back.data(), back.size()));
  CHECK(cudaMemset2D(pitched + 10, pitch, 7, 50, 20));
  CHECK(cudaMemcpy2DAsync(back.data(), host_pitch, pitched, pitch, width, height, cudaMemcpyDeviceToHost));
  CHECK(cudaDeviceSynchronize());
  std::printf("2D set: %016llx\n", (unsigned long long)hash_bytes(back.data(), back.size()));

  cudaExtent extent = make_cudaExtent(width, height, depth);
  cudaPitchedPtr volume;
  CHECK(cudaMalloc3D(&volume, extent));
  CHECK(cudaMemset3D(volume, 0x21, extent));
  auto cube = pattern(width * height * depth, 2);
  cudaMemcpy3DParms up = {};
  up.srcPtr = make_cudaPitchedPtr(cube.data(), width, width, height);
  up.dstPtr = volume;
  up.srcPos = make_cudaPos(3, 2, 1);
  up.dstPos = make_cudaPos(5, 4, 0);
  up.extent = make_cudaExtent(60, 20, 4);
  up.kind = cudaMemcpyHostToDevice;
  CHECK(cudaMemcpy3D(&up));
  std::vector<unsigned char> cube_back(width * height * depth, 0xbb);
  cudaMemcpy3DParms down = {};
  down.srcPtr = volume;
  down.dstPtr = make_cudaPitchedPtr(cube_back.data(), width, width, height);
  down.extent = extent;
  down.kind = cudaMemcpyDeviceToHost;
  CHECK(cudaMemcpy3D(&down));
  std::printf("3D: %016llx\n", (unsigned long long)hash_bytes(cube_back.data(), cube_back.size()));

  cudaArray_t array;
  cudaChannelFormatDesc format = cudaCreateChannelDesc<float>();
  CHECK(cudaMallocArray(&array, &format, 25, height));
  CHECK(cudaMemcpy2DToArray(array, 0, 0, host.data(), host_pitch, width, height, cudaMemcpyHostToDevice));
  std::fill(back.begin(), back.end(), 0xcc);
  CHECK(cudaMemcpy2DFromArray(back.data(), host_pitch, array, 40, 3, 60, 20, cudaMemcpyDeviceToHost));
  std::printf("array: %016llx\n", (unsigned long long)hash_bytes(back.data(), back.size()));
  CHECK(cudaFreeArray(array));
  SHOW(cudaMemcpy2D(pitched, 8, host.data(), host_pitch, width, height, cudaMemcpyHostToDevice));
  SHOW(cudaMemcpy2D(pitched, pitch, host.data(), host_pitch, 0, height, cudaMemcpyHostToDevice));
}
