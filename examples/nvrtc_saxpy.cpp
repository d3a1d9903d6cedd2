// Compiles a kernel at run time with NVRTC and launches it through the driver API: no nvcc kernel, no CUDA runtime.
#include <cuda.h>
#include <nvrtc.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

static void check(CUresult result, const char* what) {
  if (result == CUDA_SUCCESS) return;
  const char* name = "unknown";
  cuGetErrorName(result, &name);
  std::fprintf(stderr, "%s: %s\n", what, name);
  std::exit(1);
}
#define CHECK(call) check(call, #call)

static const char* kSource = R"(
extern "C" __global__ void saxpy(float a, const float* x, float* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = a * x[i] + y[i];
})";

static std::string compile() {
  nvrtcProgram program;
  const char* options[] = {"--gpu-architecture=compute_75", "--std=c++17"};
  if (nvrtcCreateProgram(&program, kSource, "saxpy.cu", 0, nullptr, nullptr) != NVRTC_SUCCESS) std::exit(1);
  if (nvrtcCompileProgram(program, 2, options) != NVRTC_SUCCESS) {
    size_t bytes = 0;
    nvrtcGetProgramLogSize(program, &bytes);
    std::string log(bytes, '\0');
    nvrtcGetProgramLog(program, log.data());
    std::fprintf(stderr, "%s\n", log.c_str());
    std::exit(1);
  }
  size_t bytes = 0;
  nvrtcGetPTXSize(program, &bytes);
  std::string ptx(bytes, '\0');
  nvrtcGetPTX(program, ptx.data());
  nvrtcDestroyProgram(&program);
  return ptx;
}

int main() {
  CUdevice device;
  CUcontext context;
  CUmodule module;
  CUfunction saxpy;
  CHECK(cuInit(0));
  CHECK(cuDeviceGet(&device, 0));
  CHECK(cuDevicePrimaryCtxRetain(&context, device));
  CHECK(cuCtxSetCurrent(context));
  CHECK(cuModuleLoadData(&module, compile().c_str()));
  CHECK(cuModuleGetFunction(&saxpy, module, "saxpy"));

  int n = 100'000;
  float a = 3;
  std::vector<float> x(n), y(n);
  for (int i = 0; i < n; i++) {
    x[i] = float(i);
    y[i] = float(n - i);
  }
  CUdeviceptr device_x, device_y;
  CHECK(cuMemAlloc(&device_x, n * sizeof(float)));
  CHECK(cuMemAlloc(&device_y, n * sizeof(float)));
  CHECK(cuMemcpyHtoD(device_x, x.data(), n * sizeof(float)));
  CHECK(cuMemcpyHtoD(device_y, y.data(), n * sizeof(float)));
  void* arguments[] = {&a, &device_x, &device_y, &n};
  CHECK(cuLaunchKernel(saxpy, (n + 255) / 256, 1, 1, 256, 1, 1, 0, nullptr, arguments, nullptr));
  CHECK(cuMemcpyDtoH(y.data(), device_y, n * sizeof(float)));

  int wrong = 0;
  for (int i = 0; i < n; i++) wrong += y[i] != a * float(i) + float(n - i);
  std::printf("nvrtc_saxpy: %d values, %d wrong\n", n, wrong);
  CHECK(cuMemFree(device_x));
  CHECK(cuMemFree(device_y));
  CHECK(cuModuleUnload(module));
  CHECK(cuDevicePrimaryCtxRelease(device));
  return wrong ? 1 : 0;
}
