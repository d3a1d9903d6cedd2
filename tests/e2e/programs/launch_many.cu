// Thousands of launches without a single wait, with growing arguments and two alternating kernels.
#include "e2e.h"

__global__ void add(unsigned* x, unsigned value) { *x = *x * 3 + value; }
struct Many {
  unsigned values[64];
};
__global__ void add_many(unsigned* x, Many many) {
  for (unsigned value : many.values) *x = *x * 5 + value;
}

int main() {
  unsigned* x;
  unsigned expected = 0, value = 0;
  CHECK(cudaMalloc(&x, sizeof(unsigned)));
  CHECK(cudaMemset(x, 0, sizeof(unsigned)));
  for (unsigned i = 0; i < 5000; i++) {
    if (i % 10 == 0) {
      Many many;
      for (unsigned k = 0; k < 64; k++) {
        many.values[k] = i ^ k;
        expected = expected * 5 + (i ^ k);
      }
      add_many<<<1, 1>>>(x, many);
    } else {
      add<<<1, 1>>>(x, i);
      expected = expected * 3 + i;
    }
  }
  CHECK(cudaMemcpy(&value, x, sizeof(unsigned), cudaMemcpyDeviceToHost));
  std::printf("%u, as expected: %d\n", value, value == expected);
}
