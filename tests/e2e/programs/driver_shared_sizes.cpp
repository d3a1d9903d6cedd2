// A kernel's limit of dynamic shared memory goes back and forth, as libraries set it before each launch: a size that was
// granted once is granted again, every launch is held to the last one, and a kernel and its function have one limit.
#include "driver.h"

constexpr auto kLimit = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;

int main() {
  use_device(0);
  CUlibrary library;
  CUkernel kernel;
  CUfunction function;
  CHECK(cuLibraryLoadData(&library, kPtx, nullptr, nullptr, 0, nullptr, nullptr, 0));
  CHECK(cuLibraryGetKernel(&kernel, library, "fill"));
  CUdeviceptr out;
  CHECK(cuMemAlloc(&out, 256));
  unsigned value = 3, n = 64;
  void* parameters[] = {&out, &value, &n};
  const auto launch = [&](CUfunction code) { return cuLaunchKernel(code, 1, 1, 1, 64, 1, 1, 60'000, nullptr, parameters, nullptr); };
  const auto show = [&](const char* when, int size, CUresult set) {
    int of_function = -1, of_kernel = -1;
    CHECK(cuFuncGetAttribute(&of_function, kLimit, function));
    CHECK(cuKernelGetAttribute(&of_kernel, kLimit, kernel, 0));
    std::printf("%s %d: %s; function %d, kernel %d; ", when, size, name_of(set), of_function, of_kernel);
    std::printf("60000 bytes by the function: %s, ", name_of(launch(function)));
    std::printf("by the kernel: %s\n", name_of(launch(reinterpret_cast<CUfunction>(kernel))));
  };
  CHECK(cuKernelGetFunction(&function, kernel));
  for (int round = 0; round < 3; round++) {
    for (int size : {64'000, 4000, 60'000, 59'999, -1, 60'000, 0, 1 << 20})
      show("kernel", size, cuKernelSetAttribute(kLimit, size, kernel, 0));
    for (int size : {64'000, 4000, 60'000, -1, 59'999, 1 << 20, 61'000})
      show("function", size, cuFuncSetAttribute(function, kLimit, size));
  }
  CHECK(cuCtxSynchronize());
}
