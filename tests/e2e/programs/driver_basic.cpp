// The driver API alone: context, module from PTX, memory, launches with parameters and with a packed buffer, globals.
#include "driver.h"

int main() {
  CUdevice device;
  CUcontext context;
  CUmodule module;
  CUfunction fill, bump, lookup;
  CHECK(cuInit(0));
  CHECK(cuDeviceGet(&device, 0));
  CHECK(cuCtxCreate(&context, nullptr, 0, device));
  CHECK(cuModuleLoadData(&module, kPtx));
  CHECK(cuModuleGetFunction(&fill, module, "fill"));
  CHECK(cuModuleGetFunction(&bump, module, "bump"));
  CHECK(cuModuleGetFunction(&lookup, module, "lookup"));
  CUdeviceptr out, counter, table;
  size_t bytes = 0;
  unsigned value = 100, n = 1000, step = 5;
  CHECK(cuMemAlloc(&out, 4096));
  void* parameters[] = {&out, &value, &n};
  CHECK(cuLaunchKernel(fill, 8, 1, 1, 128, 1, 1, 0, nullptr, parameters, nullptr));
  std::printf("%016llx\n", (unsigned long long)hash_device(out, n * 4));
  struct {
    CUdeviceptr out;
    unsigned value, n;
  } packed = {out, 7, 500};
  size_t packed_bytes = sizeof(packed);
  void* extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &packed, CU_LAUNCH_PARAM_BUFFER_SIZE, &packed_bytes,
                   CU_LAUNCH_PARAM_END};
  CHECK(cuLaunchKernel(fill, 8, 1, 1, 128, 1, 1, 0, nullptr, nullptr, extra));
  std::printf("%016llx\n", (unsigned long long)hash_device(out, n * 4));
  CUlaunchConfig config = {};
  config.gridDimX = config.gridDimY = config.gridDimZ = config.blockDimX = config.blockDimY = config.blockDimZ = 1;
  void* step_parameter[] = {&step};
  for (int i = 0; i < 10; i++) CHECK(cuLaunchKernelEx(&config, bump, step_parameter, nullptr));
  CHECK(cuModuleGetGlobal(&counter, &bytes, module, "counter"));
  CHECK(cuMemcpyDtoH(&value, counter, bytes));
  std::printf("counter %u, %zu bytes\n", value, bytes);
  CHECK(cuModuleGetGlobal(&table, &bytes, module, "table"));
  unsigned cells[4] = {1, 2, 3, 4};
  void* out_parameter[] = {&out};
  CHECK(cuMemcpyHtoD(table + 4, cells, 8));
  CHECK(cuLaunchKernel(lookup, 1, 1, 1, 4, 1, 1, 0, nullptr, out_parameter, nullptr));
  CHECK(cuMemcpyDtoH(cells, out, sizeof(cells)));
  std::printf("table %u %u %u %u, %zu bytes\n", cells[0], cells[1], cells[2], cells[3], bytes);
  SHOW(cuModuleGetFunction(&fill, module, "absent"));
  SHOW(cuModuleGetGlobal(&table, &bytes, module, "absent"));
  SHOW(cuLaunchKernel(fill, 1, 1, 1, 2048, 1, 1, 0, nullptr, parameters, nullptr));
  SHOW(cuLaunchKernel(fill, 1, 1, 1, 32, 1, 1, 1 << 20, nullptr, parameters, nullptr));
  SHOW(cuLaunchKernel(nullptr, 1, 1, 1, 32, 1, 1, 0, nullptr, parameters, nullptr));
  int threads = 0;
  CHECK(cuFuncGetAttribute(&threads, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, lookup));
  std::printf("most threads %d\n", threads);
  CHECK(cuMemFree(out));
  CHECK(cuModuleUnload(module));
  CHECK(cuCtxDestroy(context));
  SHOW(cuMemAlloc(&out, 16));
}
