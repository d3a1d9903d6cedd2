// Libraries and kernels: load without a context, enumerate, attributes, globals, launch of a CUkernel.
#include <algorithm>

#include "driver.h"

int main() {
  CUlibrary library;
  CUkernel kernel, kernels[8];
  CHECK(cuInit(0));
  CHECK(cuLibraryLoadData(&library, kPtx, nullptr, nullptr, 0, nullptr, nullptr, 0));
  CHECK(cuLibraryGetKernel(&kernel, library, "fill"));
  unsigned count = 0;
  CHECK(cuLibraryGetKernelCount(&count, library));
  CHECK(cuLibraryEnumerateKernels(kernels, count, library));
  std::vector<std::string> names;
  for (unsigned i = 0; i < count; i++) {
    const char* name = nullptr;
    CHECK(cuKernelGetName(&name, kernels[i]));
    names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  for (auto& name : names) std::printf("kernel %s\n", name.c_str());
  use_device(0);
  CUdeviceptr out, counter;
  size_t bytes = 0, offset = 0, size = 0;
  unsigned value = 3, n = 64;
  CHECK(cuMemAlloc(&out, 256));
  void* parameters[] = {&out, &value, &n};
  CHECK(cuLaunchKernel(reinterpret_cast<CUfunction>(kernel), 1, 1, 1, 64, 1, 1, 0, nullptr, parameters, nullptr));
  std::printf("%016llx\n", (unsigned long long)hash_device(out, 256));
  CUfunction function;
  CHECK(cuKernelGetFunction(&function, kernel));
  value = 4;
  CHECK(cuLaunchKernel(function, 1, 1, 1, 64, 1, 1, 0, nullptr, parameters, nullptr));
  std::printf("%016llx\n", (unsigned long long)hash_device(out, 256));
  for (size_t i = 0; i < 4; i++) {
    CUresult result = cuKernelGetParamInfo(kernel, i, &offset, &size);
    std::printf("parameter %zu: %s, offset %zu, %zu bytes\n", i, name_of(result), result ? 0 : offset,
                result ? 0 : size);
  }
  int attribute = 0;
  CHECK(cuKernelGetAttribute(&attribute, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, kernel, 0));
  std::printf("threads %d\n", attribute);
  CHECK(cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 50'000, kernel, 0));
  CHECK(cuKernelGetAttribute(&attribute, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, kernel, 0));
  std::printf("dynamic shared %d\n", attribute);
  CHECK(cuLibraryGetGlobal(&counter, &bytes, library, "counter"));
  CHECK(cuMemcpyDtoH(&value, counter, 4));
  std::printf("counter %u, %zu bytes\n", value, bytes);
  CUmodule module;
  CHECK(cuLibraryGetModule(&module, library));
  CHECK(cuModuleGetFunction(&function, module, "bump"));
  SHOW(cuLibraryGetKernel(&kernel, library, "absent"));
  SHOW(cuLibraryGetGlobal(&counter, &bytes, library, "absent"));
  SHOW(cuLibraryLoadFromFile(&library, "/nonexistent", nullptr, nullptr, 0, nullptr, nullptr, 0));
}
