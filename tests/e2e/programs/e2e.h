// What the end-to-end programs share. A program prints what CUDA answered; the runner compares that with what the same
// program prints on another path to the same driver. So programs print codes and contents, never times or addresses.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

inline const char* name_of(cudaError_t error) { return cudaGetErrorName(error); }

// Stops the program when a call that has to work does not.
#define CHECK(call)                                                       \
  do {                                                                    \
    cudaError_t error_ = (call);                                          \
    if (error_ != cudaSuccess) {                                          \
      std::printf("line %d: %s: %s\n", __LINE__, #call, name_of(error_)); \
      std::exit(1);                                                       \
    }                                                                     \
  } while (0)

// Prints what a call returns, whatever it is.
#define SHOW(call) std::printf("%s: %s\n", #call, name_of(call))

// FNV-1a of a byte range.
inline uint64_t hash_bytes(const void* data, size_t bytes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t i = 0; i < bytes; i++) hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3;
  return hash;
}

// A repeatable pattern that differs in every byte position and seed.
inline std::vector<unsigned char> pattern(size_t bytes, unsigned seed) {
  std::vector<unsigned char> data(bytes);
  uint32_t state = seed * 2654435761u + 1;
  for (auto& byte : data) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<unsigned char>(state >> 24);
  }
  return data;
}

// The contents of device memory, as a hash.
inline uint64_t hash_device(const void* device, size_t bytes) {
  std::vector<unsigned char> host(bytes);
  CHECK(cudaMemcpy(host.data(), device, bytes, cudaMemcpyDeviceToHost));
  return hash_bytes(host.data(), bytes);
}
