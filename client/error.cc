#include "api/remote.h"
#include "proto/abi/error.h"

namespace bf::client {

CUresult handle_cuGetErrorName(CUresult error, const char** pStr) noexcept { return abi::error_name(error, pStr); }
CUresult handle_cuGetErrorString(CUresult error, const char** pStr) noexcept { return abi::error_string(error, pStr); }

}  // namespace bf::client
