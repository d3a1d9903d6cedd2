// No linking at all: dlopen, dlsym, dlclose, and the same again; versioned and unversioned names.
#include <dlfcn.h>

#include "driver.h"

static unsigned run(void* library) {
  auto symbol = [&](const char* name) {
    void* address = dlsym(library, name);
    if (!address) std::printf("no %s\n", name);
    return address;
  };
  auto init = (CUresult(*)(unsigned))symbol("cuInit");
  auto get = (CUresult(*)(CUdevice*, int))symbol("cuDeviceGet");
  auto retain = (CUresult(*)(CUcontext*, CUdevice))symbol("cuDevicePrimaryCtxRetain");
  auto release = (CUresult(*)(CUdevice))symbol("cuDevicePrimaryCtxRelease_v2");
  auto current = (CUresult(*)(CUcontext))symbol("cuCtxSetCurrent");
  auto load = (CUresult(*)(CUmodule*, const void*))symbol("cuModuleLoadData");
  auto function_of = (CUresult(*)(CUfunction*, CUmodule, const char*))symbol("cuModuleGetFunction");
  auto alloc = (CUresult(*)(CUdeviceptr*, size_t))symbol("cuMemAlloc_v2");
  auto release_memory = (CUresult(*)(CUdeviceptr))symbol("cuMemFree_v2");
  auto down = (CUresult(*)(void*, CUdeviceptr, size_t))symbol("cuMemcpyDtoH_v2");
  auto launch = (decltype(&cuLaunchKernel))symbol("cuLaunchKernel");
  CUdevice device;
  CUcontext context;
  CUmodule module;
  CUfunction fill;
  CUdeviceptr out;
  unsigned value = 5, n = 32, host[32] = {};
  CUresult result = init(0);
  if (!result) result = get(&device, 0);
  if (!result) result = retain(&context, device);
  if (!result) result = current(context);
  if (!result) result = load(&module, kPtx);
  if (!result) result = function_of(&fill, module, "fill");
  if (!result) result = alloc(&out, sizeof(host));
  void* parameters[] = {&out, &value, &n};
  if (!result) result = launch(fill, 1, 1, 1, 32, 1, 1, 0, nullptr, parameters, nullptr);
  if (!result) result = down(host, out, sizeof(host));
  if (!result) result = release_memory(out);
  if (!result) result = release(device);
  std::printf("result %d, last value %u\n", result, host[31]);
  return host[31];
}

int main() {
  for (int round = 0; round < 3; round++) {
    void* library = dlopen("libcuda.so.1", round == 1 ? RTLD_LAZY | RTLD_GLOBAL : RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      std::printf("%s\n", dlerror());
      return 1;
    }
    run(library);
    for (const char* name : {"cuMemcpyHtoD", "cuMemcpyHtoD_v2", "cuMemcpyHtoD_v2_ptds", "cuStreamSynchronize_ptsz",
                             "cuGetProcAddress", "cuGetProcAddress_v2", "cuGetExportTable", "cuNoSuchFunction"}) {
      std::printf("%s: %d\n", name, dlsym(library, name) != nullptr);
    }
    std::printf("closed: %d\n", dlclose(library));
  }
}
