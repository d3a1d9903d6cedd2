// What the driver answers to calls that come too early or ask for nonsense.
#include "driver.h"

int main() {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // what was said stays said if the driver crashes
  CUdevice device = 0;
  CUcontext context;
  CUdeviceptr memory;
  CUmodule module;
  CUstream stream;
  CUevent event;
  int count = 0, version = 0, value = 0;
  size_t bytes = 0;
  char text[64];
  SHOW(cuDriverGetVersion(&version));
  std::printf("version at least 13.0: %d\n", version >= 13000);
  SHOW(cuDeviceGetCount(&count));
  SHOW(cuDeviceGet(&device, 0));
  SHOW(cuCtxGetCurrent(&context));
  SHOW(cuMemAlloc(&memory, 16));
  SHOW(cuStreamCreate(&stream, 0));
  SHOW(cuInit(1));
  SHOW(cuInit(0));
  SHOW(cuInit(0));
  SHOW(cuDeviceGet(&device, 99));
  SHOW(cuDeviceGet(&device, -1));
  SHOW(cuDeviceGet(nullptr, 0));
  SHOW(cuDeviceGet(&device, 0));
  SHOW(cuDeviceGetName(text, 4, device));
  std::printf("cut to %zu characters\n", std::strlen(text));
  SHOW(cuDeviceGetAttribute(&value, CUdevice_attribute(9999), device));
  SHOW(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 55));
  SHOW(cuMemAlloc(&memory, 16));
  SHOW(cuStreamCreate(&stream, 0));
  SHOW(cuModuleLoadData(&module, kPtx));
  SHOW(cuCtxSynchronize());
  SHOW(cuCtxGetDevice(&device));
  SHOW(cuCtxPopCurrent(&context));
  SHOW(cuDevicePrimaryCtxRelease(0));
  CHECK(cuDevicePrimaryCtxRetain(&context, 0));
  SHOW(cuCtxSetCurrent(context));
  SHOW(cuMemAlloc(&memory, 0));
  SHOW(cuMemAlloc(nullptr, 16));
  SHOW(cuMemFree(0));
  SHOW(cuMemFree(12345));
  SHOW(cuEventCreate(&event, 0x1000));
  SHOW(cuStreamCreate(&stream, 0x55));
  SHOW(cuMemGetInfo(nullptr, &bytes));
  SHOW(cuModuleLoadData(&module, nullptr));
  SHOW(cuModuleLoadData(&module, "this is no module"));
  SHOW(cuModuleLoadData(&module,
                        ".version 6.4\n.target sm_75\n.address_size 64\n.visible .entry k() { nonsense.u32 %r1; }\n"));
  SHOW(cuModuleLoad(&module, "/nonexistent/file.ptx"));
  SHOW(cuMemcpyHtoD(16, text, 16));
  SHOW(cuMemsetD8(16, 0, 16));
  for (int code = 0; code < 1000; code++) {
    const char *name = nullptr, *words = nullptr;
    CUresult named = cuGetErrorName(CUresult(code), &name), described = cuGetErrorString(CUresult(code), &words);
    if (named == CUDA_SUCCESS) std::printf("%d %s: %s\n", code, name, described == CUDA_SUCCESS ? words : "?");
  }
  const char* name = "unchanged";
  SHOW(cuGetErrorName(CUresult(5000), &name));
  std::printf("%s\n", name ? name : "null");
}
