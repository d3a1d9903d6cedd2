// The CUDA driver API, and the one macro that every function here uses.
#pragma once

#include "proto/api/cuda_api.h"

// Defines an exported function.
#define BF_API extern "C" __attribute__((visibility("default")))

// A CUresult that is not success ends the calling function.
#define BF_TRY(expression)                                                        \
  do {                                                                            \
    if (CUresult result_ = (expression); result_ != CUDA_SUCCESS) return result_; \
  } while (0)
