// Names and descriptions of CUresults. The descriptions are those of the driver of CUDA 13.0, which are also what
// cudaGetErrorString gives for the same numbers (measured there). Both functions answer as cuGetErrorName and
// cuGetErrorString do.
#pragma once

#include "proto/api/cuda_api.h"

namespace bf::abi {

CUresult error_name(CUresult error, const char** text);
CUresult error_string(CUresult error, const char** text);

}  // namespace bf::abi
