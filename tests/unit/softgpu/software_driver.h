// The software GPU as a program meets it: dlopen, dlsym, and PTX for kernels.
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "proto/api/cuda_api.h"

inline void* software_driver() {
  static void* library = dlopen(BF_SOFTGPU_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  if (!library) fprintf(stderr, "%s\n", dlerror()), abort();
  return library;
}

// CU(cuMemAlloc_v2)(&pointer, 4): the exported function of exactly that name.
#define CU(name) (reinterpret_cast<decltype(&::name)>(dlsym(software_driver(), #name)))
#define EXPECT_CU(code, call) EXPECT_EQ(int(code), int(call))
#define ASSERT_OK(call) ASSERT_EQ(0, int(call))

inline const char* kTestPtx = R"(
.version 8.0
.target sm_70
.address_size 64
.visible .global .align 4 .u32 counter = 5;
.visible .const .align 8 .b8 table[16];

.visible .entry add_to(.param .u64 data, .param .u32 count, .param .u32 by) {
  .reg .pred %p; .reg .b32 %r<8>; .reg .b64 %d<4>;
  ld.param.u64 %d0, [data];
  ld.param.u32 %r0, [count];
  ld.param.u32 %r1, [by];
  mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
  mad.lo.s32 %r5, %r2, %r3, %r4;
  setp.ge.u32 %p, %r5, %r0;
  @%p bra done;
  mul.wide.u32 %d1, %r5, 4;
  add.s64 %d2, %d0, %d1;
  ld.global.u32 %r6, [%d2];
  add.s32 %r6, %r6, %r1;
  st.global.u32 [%d2], %r6;
done:
  ret;
}
.visible .entry store(.param .u64 address) {
  .reg .b64 %d<1>;
  ld.param.u64 %d0, [address];
  st.global.u32 [%d0], 1;
  ret;
}
.visible .entry crash() { trap; ret; }
.visible .entry spin(.param .u64 flag) {
  .reg .pred %p; .reg .b32 %r<1>; .reg .b64 %d<1>;
  ld.param.u64 %d0, [flag];
again:
  ld.volatile.global.u32 %r0, [%d0];
  setp.eq.u32 %p, %r0, 0;
  @%p bra again;
  ret;
}
.visible .entry small() .maxntid 64, 1, 1 { ret; }
)";

// A context of its own per test, so that a fault in one does not poison the next.
class SoftwareGpu : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    setenv("BF_SOFTGPU_COUNT", "2", 1);
    setenv("BF_SOFTGPU_MEMORY_MIB", "256", 1);
  }
  void SetUp() override {
    ASSERT_OK(CU(cuInit)(0));
    ASSERT_OK(CU(cuCtxCreate_v2)(&context, 0, 0));
    ASSERT_OK(CU(cuModuleLoadData)(&module, kTestPtx));
  }
  void TearDown() override { CU(cuCtxDestroy_v2)(context); }

  CUfunction function(const char* name) {
    CUfunction found = nullptr;
    EXPECT_CU(0, CU(cuModuleGetFunction)(&found, module, name));
    return found;
  }
  CUdeviceptr allocate(size_t bytes) {
    CUdeviceptr address = 0;
    EXPECT_CU(0, CU(cuMemAlloc_v2)(&address, bytes));
    return address;
  }
  CUresult add(CUdeviceptr data, unsigned count, unsigned by, CUstream stream = nullptr) {
    void* arguments[] = {&data, &count, &by};
    return CU(cuLaunchKernel)(function("add_to"), (count + 127) / 128, 1, 1, 128, 1, 1, 0, stream, arguments, nullptr);
  }
  CUresult launch(const char* name, CUdeviceptr argument) {
    void* arguments[] = {&argument};
    return CU(cuLaunchKernel)(function(name), 1, 1, 1, 1, 1, 1, 0, nullptr, arguments, nullptr);
  }
  unsigned read(CUdeviceptr address) {
    unsigned value = 0xdeadbeef;
    EXPECT_CU(0, CU(cuMemcpyDtoH_v2)(&value, address, 4));
    return value;
  }

  CUcontext context = nullptr;
  CUmodule module = nullptr;
};
