// Managed memory (docs/design.md, "Data"): addresses that host and device code both use.
#pragma once

#include "client/state.h"

namespace bf::client {

// Frees what cuMemAllocManaged gave.
CUresult free_managed(const Range& range, CUdeviceptr address);

// Gives this process memory at the address of a module's managed variable, and mirrors it.
CUresult hold_variable(CUdeviceptr address, size_t bytes);

// The context ended, and its managed memory with it.
void forget_managed(uint64_t context);

}  // namespace bf::client
