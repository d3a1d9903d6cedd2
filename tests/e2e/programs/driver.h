// The same for programs that use the driver API alone.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

inline const char* name_of(CUresult result) {
  const char* name = nullptr;
  return cuGetErrorName(result, &name) == CUDA_SUCCESS ? name : "unrecognised code";
}

#define CHECK(call)                                                        \
  do {                                                                     \
    CUresult result_ = (call);                                             \
    if (result_ != CUDA_SUCCESS) {                                         \
      std::printf("line %d: %s: %s\n", __LINE__, #call, name_of(result_)); \
      std::exit(1);                                                        \
    }                                                                      \
  } while (0)

#define SHOW(call) std::printf("%s: %s\n", #call, name_of(call))

// Kernels used by several programs, as PTX text.
inline const char* kPtx = R"(.version 6.4
.target sm_75
.address_size 64
.visible .global .align 4 .u32 counter = 7;
.visible .const .align 4 .u32 table[4] = {10, 20, 30, 40};
.visible .entry fill(.param .u64 out, .param .u32 value, .param .u32 n) {
  .reg .pred %p; .reg .b32 %r<6>; .reg .b64 %d<4>;
  ld.param.u64 %d1, [out]; ld.param.u32 %r1, [value]; ld.param.u32 %r2, [n];
  mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x; mov.u32 %r5, %tid.x;
  mad.lo.u32 %r3, %r3, %r4, %r5;
  setp.ge.u32 %p, %r3, %r2;
  @%p bra done;
  add.u32 %r1, %r1, %r3;
  cvta.to.global.u64 %d1, %d1; mul.wide.u32 %d2, %r3, 4; add.u64 %d1, %d1, %d2;
  st.global.u32 [%d1], %r1;
done: ret;
}
.visible .entry bump(.param .u32 step) {
  .reg .b32 %r<3>;
  ld.param.u32 %r1, [step]; atom.global.add.u32 %r2, [counter], %r1; ret;
}
.visible .entry lookup(.param .u64 out) {
  .reg .b32 %r<3>; .reg .b64 %d<5>;
  ld.param.u64 %d1, [out]; cvta.to.global.u64 %d1, %d1;
  mov.u32 %r1, %tid.x; mul.wide.u32 %d2, %r1, 4;
  mov.u64 %d3, table; add.u64 %d3, %d3, %d2; ld.const.u32 %r2, [%d3];
  add.u64 %d1, %d1, %d2; st.global.u32 [%d1], %r2; ret;
}
)";

inline CUcontext use_device(int ordinal) {
  CUdevice device;
  CUcontext context;
  CHECK(cuInit(0));
  CHECK(cuDeviceGet(&device, ordinal));
  CHECK(cuDevicePrimaryCtxRetain(&context, device));
  CHECK(cuCtxSetCurrent(context));
  return context;
}

// The contents of device memory as a sum that depends on every position.
inline uint64_t hash_device(CUdeviceptr address, size_t bytes) {
  std::vector<unsigned char> host(bytes);
  CHECK(cuMemcpyDtoH(host.data(), address, bytes));
  uint64_t hash = 0xcbf29ce484222325;
  for (unsigned char byte : host) hash = (hash ^ byte) * 0x100000001b3;
  return hash;
}
