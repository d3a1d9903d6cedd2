// What the programs for real GPUs share: many checks in one process, one line for each,
//   case NAME: right HASH | WRONG HASH | skipped: WHY | FAILED: line, call, status
// HASH is of the result's bits. The runner compares the lines of a native run with those of a run through bfrun; "right"
// says that the numbers are also what arithmetic says.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

struct Result {
  bool right;
  uint64_t bits = 0;
};
struct Failure {
  std::string text;
};
struct Skipped {
  std::string why;
};

// Ends the case when a call fails. Every CUDA library's success is 0.
#define NEED(call) need(int(call), #call, __LINE__)
inline void need(int status, const char* call, int line) {
  std::string text = call;
  if (status != 0) throw Failure{"line " + std::to_string(line) + ": " + text.substr(0, text.find('(')) + " returned " + std::to_string(status)};
}

inline void run_case(const char* name, const std::function<Result()>& body) {
  std::string line;
  try {
    Result result = body();
    NEED(cudaDeviceSynchronize());
    char text[40];
    std::snprintf(text, sizeof text, "%s %016llx", result.right ? "right" : "WRONG", static_cast<unsigned long long>(result.bits));
    line = text;
  } catch (const Failure& failure) {
    line = "FAILED: " + failure.text;
  } catch (const Skipped& skipped) {
    line = "skipped: " + skipped.why;
  }
  std::printf("case %s: %s\n", name, line.c_str());
  std::fflush(stdout);
}

// FNV-1a.
inline uint64_t hash_of(const void* data, size_t bytes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t i = 0; i < bytes; i++) hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3;
  return hash;
}
template <class T>
uint64_t hash_of(const std::vector<T>& values) {
  return hash_of(values.data(), values.size() * sizeof(T));
}

// An array in device memory, for the length of a scope.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count) {
    NEED(cudaMalloc(&data_, bytes()));
    NEED(cudaMemset(data_, 0, bytes()));
    NEED(cudaDeviceSynchronize());  // some streams do not wait for the one that has just done this
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    NEED(cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyHostToDevice));
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  T* get() const { return data_; }
  size_t count() const { return count_; }
  size_t bytes() const { return count_ * sizeof(T); }
  std::vector<T> host() const {
    std::vector<T> values(count_);
    NEED(cudaDeviceSynchronize());  // whatever stream wrote it
    NEED(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  size_t count_;
  T* data_ = nullptr;
};

// Small whole numbers, repeatable: sums of their products are exact in every type and any order.
template <class T>
std::vector<T> whole_numbers(size_t count, unsigned seed, int range = 7) {
  std::vector<T> values(count);
  uint32_t state = seed * 2654435761u + 1;
  for (auto& value : values) {
    state = state * 1664525u + 1013904223u;
    value = T(float(int(state >> 24) % range - range / 2));
  }
  return values;
}

// Column-major C = A B for m x k and k x n.
template <class T>
std::vector<double> product(const std::vector<T>& a, const std::vector<T>& b, int m, int n, int k) {
  std::vector<double> c(size_t(m) * n);
  for (int j = 0; j < n; j++)
    for (int l = 0; l < k; l++)
      for (int i = 0; i < m; i++) c[i + size_t(j) * m] += double(float(a[i + size_t(l) * m])) * double(float(b[l + size_t(j) * k]));
  return c;
}

template <class T>
bool close(const std::vector<T>& got, const std::vector<double>& wanted, double tolerance = 0) {
  if (got.size() != wanted.size()) return false;
  for (size_t i = 0; i < got.size(); i++)
    if (!(std::fabs(double(float(got[i])) - wanted[i]) <= tolerance * (1 + std::fabs(wanted[i])))) return false;
  return true;
}
