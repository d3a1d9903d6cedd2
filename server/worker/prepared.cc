#include "server/worker/prepared.h"

#include "api/driver_api.h"

namespace bf::server {

CUresult Prepared::start() {
  int count = 0;
  if (CUresult result = driver.cuDeviceGetCount(&count); result != CUDA_SUCCESS) return result;
  primary.resize(size_t(count));
  bool stream_memory = count > 0;
  for (int device = 0; device < count; ++device) {
    int supported = 0;
    driver.cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS, device);
    stream_memory = stream_memory && supported != 0;
  }
  return fences.start(stream_memory) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult Prepared::warm() {
  for (int device = 0; device < int(primary.size()); ++device) {
    if (CUresult result = driver.cuDevicePrimaryCtxRetain(&primary[size_t(device)], device); result != CUDA_SUCCESS)
      return result;
    driver.cuCtxSetCurrent(primary[size_t(device)]);
    fences.renew();
    staging.warm();
    staging.renew();
    // The first launch of anything loads the driver's own code.
    CUdeviceptr scratch = 0;
    if (CUresult result = driver.cuMemAlloc_v2(&scratch, 4096); result != CUDA_SUCCESS) return result;
    driver.cuMemsetD8_v2(scratch, 0, 4096);
    driver.cuCtxSynchronize();
    driver.cuMemFree_v2(scratch);
  }
  driver.cuCtxSetCurrent(nullptr);
  return CUDA_SUCCESS;
}

}  // namespace bf::server
