// Version and lookup: answered before cuInit, too.
#include "base/cuda_environment.h"
#include "proto/abi/procaddr.h"

#include "api/remote.h"
#include "client/contexts.h"

namespace bf::client {

namespace {

constexpr int kApiVersion = 13000;  // what this shim was made for; a session says what its driver really is

int driver_version() {
  Session* session = Session::get();
  return session && session->snapshot().driver_version ? int(session->snapshot().driver_version) : kApiVersion;
}

}  // namespace

CUresult handle_cuInit(unsigned int Flags) noexcept { return Flags ? CUDA_ERROR_INVALID_VALUE : Session::start(); }

CUresult handle_cuDriverGetVersion(int* driverVersion) noexcept {
  if (!driverVersion) return CUDA_ERROR_INVALID_VALUE;
  *driverVersion = driver_version();
  return CUDA_SUCCESS;
}

CUresult handle_cuModuleGetLoadingMode(CUmoduleLoadingMode* mode) noexcept {
  if (!mode) return CUDA_ERROR_INVALID_VALUE;
  *mode = CudaEnvironment::read().eager_loading ? CU_MODULE_EAGER_LOADING : CU_MODULE_LAZY_LOADING;
  return CUDA_SUCCESS;
}

CUresult handle_cuGetProcAddress_v2(const char* symbol, void** pfn, int cudaVersion, cuuint64_t flags,
                                    CUdriverProcAddressQueryResult* symbolStatus) noexcept {
  return abi::proc_address_v2(symbol, pfn, cudaVersion, flags, symbolStatus, driver_version());
}

CUresult handle_cuGetProcAddress(const char* symbol, void** pfn, int cudaVersion, cuuint64_t flags) noexcept {
  return abi::proc_address_v1(symbol, pfn, cudaVersion, flags, driver_version());
}

}  // namespace bf::client
