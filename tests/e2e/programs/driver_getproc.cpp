// cuGetProcAddress: versions, flags, misses, and that what it returns works.
#include "driver.h"

int main() {
  const char* names[] = {"cuInit",
                         "cuMemAlloc",
                         "cuMemcpyHtoD",
                         "cuStreamSynchronize",
                         "cuLaunchKernel",
                         "cuLaunchKernelEx",
                         "cuCtxCreate",
                         "cuDeviceGetUuid",
                         "cuGetProcAddress",
                         "cuStreamGetCaptureInfo",
                         "cuEventElapsedTime",
                         "cuGraphAddNode",
                         "cuMemAlloc_v2",
                         "cuNoSuchThing",
                         ""};
  for (int version : {2000, 3010, 3020, 4000, 7000, 9020, 11030, 12000, 12080, 13000}) {
    for (const char* name : names) {
      for (cuuint64_t flags : {0, 1, 2}) {
        void* address = reinterpret_cast<void*>(1);
        CUdriverProcAddressQueryResult status = CUdriverProcAddressQueryResult(99);
        CUresult result = cuGetProcAddress_v2(name, &address, version, flags, &status);
        std::printf("%d %s %d: %d, %d, found %d\n", version, name, int(flags), result, status, address != nullptr);
      }
    }
  }
  void *normal = nullptr, *per_thread = nullptr;
  CUdriverProcAddressQueryResult status;
  CHECK(cuGetProcAddress_v2("cuStreamSynchronize", &normal, 12000, CU_GET_PROC_ADDRESS_LEGACY_STREAM, &status));
  CHECK(cuGetProcAddress_v2("cuStreamSynchronize", &per_thread, 12000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM,
                            &status));
  std::printf("twins differ: %d\n", normal != per_thread);
  SHOW(cuGetProcAddress_v2("cuInit", &normal, 12000, 77, &status));
  CHECK(cuGetProcAddress_v2("cuInit", &normal, 12000, 0, nullptr));
  SHOW(((CUresult(*)(unsigned))normal)(0));
}
