#include "proto/abi/error.h"

#include "softgpu/driver/driver.h"

namespace bf::softgpu {

BF_API CUresult cuGetErrorName(CUresult error, const char** text) { return abi::error_name(error, text); }
BF_API CUresult cuGetErrorString(CUresult error, const char** text) { return abi::error_string(error, text); }

}  // namespace bf::softgpu
