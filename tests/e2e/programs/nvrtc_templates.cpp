// NVRTC with name expressions: instantiates a template at run time; an error's log names the line.
#include <nvrtc.h>

#include "driver.h"

static const char* kSource = R"(
template <typename T, int N> __global__ void power(T* x) {
  T value = x[threadIdx.x], result = 1;
  for (int i = 0; i < N; i++) result *= value;
  x[threadIdx.x] = result;
}
__constant__ float offset = 0.5f;
)";

int main() {
  use_device(0);
  nvrtcProgram program;
  nvrtcCreateProgram(&program, kSource, "power.cu", 0, nullptr, nullptr);
  nvrtcAddNameExpression(program, "power<float, 3>");
  nvrtcAddNameExpression(program, "power<long long, 5>");
  const char* options[] = {"--gpu-architecture=compute_75"};
  std::printf("compiled: %s\n", nvrtcGetErrorString(nvrtcCompileProgram(program, 1, options)));
  size_t bytes = 0;
  nvrtcGetPTXSize(program, &bytes);
  std::string ptx(bytes, '\0');
  nvrtcGetPTX(program, ptx.data());
  CUmodule module;
  CHECK(cuModuleLoadData(&module, ptx.c_str()));
  CUdeviceptr x;
  CHECK(cuMemAlloc(&x, 256));
  float floats[4] = {1, 2, 3, 4.5f};
  long long integers[4] = {1, -2, 3, 10};
  const char* name = nullptr;
  CUfunction function;
  void* parameters[] = {&x};
  nvrtcGetLoweredName(program, "power<float, 3>", &name);
  CHECK(cuModuleGetFunction(&function, module, name));
  CHECK(cuMemcpyHtoD(x, floats, sizeof(floats)));
  CHECK(cuLaunchKernel(function, 1, 1, 1, 4, 1, 1, 0, nullptr, parameters, nullptr));
  CHECK(cuMemcpyDtoH(floats, x, sizeof(floats)));
  for (float f : floats) std::printf("%g ", f);
  nvrtcGetLoweredName(program, "power<long long, 5>", &name);
  CHECK(cuModuleGetFunction(&function, module, name));
  CHECK(cuMemcpyHtoD(x, integers, sizeof(integers)));
  CHECK(cuLaunchKernel(function, 1, 1, 1, 4, 1, 1, 0, nullptr, parameters, nullptr));
  CHECK(cuMemcpyDtoH(integers, x, sizeof(integers)));
  for (long long i : integers) std::printf("%lld ", i);
  std::printf("\n");
  nvrtcDestroyProgram(&program);
  nvrtcCreateProgram(&program, "__global__ void f() { undefined(); }", "bad.cu", 0, nullptr, nullptr);
  std::printf("bad: %s\n", nvrtcGetErrorString(nvrtcCompileProgram(program, 1, options)));
}
