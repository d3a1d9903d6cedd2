// Texture objects over linear memory and arrays: point and linear filtering, wrap and clamp; surfaces.
#include "e2e.h"

__global__ void linear(cudaTextureObject_t texture, float* out, int n) {
  int i = threadIdx.x;
  if (i < n) out[i] = tex1Dfetch<float>(texture, n - 1 - i);
}
__global__ void plane(cudaTextureObject_t texture, float* out, int width, int height) {
  int x = threadIdx.x, y = threadIdx.y;
  out[y * blockDim.x + x] = tex2D<float>(texture, (x - 2 + 0.5f) / width, (y - 1 + 0.25f) / height);
}
__global__ void paint(cudaSurfaceObject_t surface) {
  surf2Dwrite(float(threadIdx.x * 10 + threadIdx.y), surface, threadIdx.x * sizeof(float), threadIdx.y);
}

int main() {
  const int width = 8, height = 8;
  float host[64], *memory, *out;
  for (int i = 0; i < 64; i++) host[i] = float(i);
  CHECK(cudaMalloc(&memory, sizeof(host)));
  CHECK(cudaMalloc(&out, 4096));
  CHECK(cudaMemcpy(memory, host, sizeof(host), cudaMemcpyHostToDevice));
  cudaResourceDesc resource = {};
  resource.resType = cudaResourceTypeLinear;
  resource.res.linear.devPtr = memory;
  resource.res.linear.desc = cudaCreateChannelDesc<float>();
  resource.res.linear.sizeInBytes = sizeof(host);
  cudaTextureDesc description = {};
  description.readMode = cudaReadModeElementType;
  cudaTextureObject_t texture;
  CHECK(cudaCreateTextureObject(&texture, &resource, &description, nullptr));
  linear<<<1, 64>>>(texture, out, 64);
  CHECK(cudaMemcpy(host, out, sizeof(host), cudaMemcpyDeviceToHost));
  std::printf("linear: %g %g %g\n", host[0], host[1], host[63]);
  CHECK(cudaDestroyTextureObject(texture));

  cudaArray_t array;
  cudaChannelFormatDesc format = cudaCreateChannelDesc<float>();
  CHECK(cudaMallocArray(&array, &format, width, height, cudaArraySurfaceLoadStore));
  resource = {};
  resource.resType = cudaResourceTypeArray;
  resource.res.array.array = array;
  cudaSurfaceObject_t surface;
  CHECK(cudaCreateSurfaceObject(&surface, &resource));
  paint<<<1, dim3(width, height)>>>(surface);
  for (auto filter : {cudaFilterModePoint, cudaFilterModeLinear}) {
    for (auto address : {cudaAddressModeWrap, cudaAddressModeClamp, cudaAddressModeBorder}) {
      description = {};
      description.addressMode[0] = description.addressMode[1] = address;
      description.filterMode = filter;
      description.normalizedCoords = 1;
      CHECK(cudaCreateTextureObject(&texture, &resource, &description, nullptr));
      plane<<<1, dim3(12, 10)>>>(texture, out, width, height);
      float result[120];
      CHECK(cudaMemcpy(result, out, sizeof(result), cudaMemcpyDeviceToHost));
      std::printf("filter %d address %d: %g %g %g %g\n", filter, address, result[0], result[15], result[54],
                  result[119]);
      CHECK(cudaDestroyTextureObject(texture));
    }
  }
  CHECK(cudaDestroySurfaceObject(surface));
  CHECK(cudaFreeArray(array));
}
