// Functions that are found by enumerating a module, not by their names: not loaded before they are first used.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "driver.h"

static const char kImage[] = R"(
.version 7.5
.target sm_75
.address_size 64
.visible .entry put(.param .u64 where, .param .u32 value)
{
  .reg .u64 %a; .reg .u32 %v;
  ld.param.u64 %a, [where];
  ld.param.u32 %v, [value];
  st.global.u32 [%a], %v;
  ret;
}
.visible .entry twice(.param .u64 where)
{
  .reg .u64 %a; .reg .u32 %v;
  ld.param.u64 %a, [where];
  ld.global.u32 %v, [%a];
  add.u32 %v, %v, %v;
  st.global.u32 [%a], %v;
  ret;
}
)";

int main() {
  use_device(0);
  CUmodule module;
  CHECK(cuModuleLoadData(&module, kImage));
  unsigned count = 0;
  CHECK(cuModuleGetFunctionCount(&count, module));
  std::vector<CUfunction> found(count);
  CHECK(cuModuleEnumerateFunctions(found.data(), count, module));
  std::sort(found.begin(), found.end(), [](CUfunction a, CUfunction b) {
    const char *first, *second;
    CHECK(cuFuncGetName(&first, a));
    CHECK(cuFuncGetName(&second, b));
    return std::strcmp(first, second) < 0;
  });
  CUdeviceptr memory;
  CHECK(cuMemAlloc(&memory, 4));
  unsigned value = 21, result = 0;
  void* parameters[] = {&memory, &value};
  for (CUfunction function : found) {
    CHECK(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, nullptr, parameters, nullptr));
    CHECK(cuMemcpyDtoH(&result, memory, 4));
    const char* name;
    CHECK(cuFuncGetName(&name, function));
    CUfunctionLoadingState state;
    CHECK(cuFuncIsLoaded(&state, function));
    int threads = 0;
    CHECK(cuFuncGetAttribute(&threads, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, function));
    std::printf("%s: %u, loaded %d, up to %d threads\n", name, result, int(state), threads);
  }
  CHECK(cuMemFree(memory));
  CHECK(cuModuleUnload(module));
  return 0;
}
