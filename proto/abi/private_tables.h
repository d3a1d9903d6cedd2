// cuGetExportTable: the driver's private function tables, as far as CUDA's libraries need them.
// Measured on driver 580.159.04 with cudart 13, cuBLAS, cuDNN, cuFFT, cuSPARSE, cuSOLVER, NVRTC and NCCL.
// Tables are static: the same pointer always, valid before main and after exit handlers.
#pragma once

#include "proto/abi/driver_hooks.h"

namespace bf::abi {

// The body of cuGetExportTable; works before cuInit. Unknown tables: CUDA_ERROR_INVALID_VALUE and *table = NULL.
CUresult export_table(const void** table, const CUuuid* id) noexcept;

// The addresses that the integrity check hashes.
const void* cudart_interface_table() noexcept;
const void* integrity_table() noexcept;

}  // namespace bf::abi
