// Green contexts (green_context.cc).
#pragma once

#include "softgpu/driver/context.h"

namespace bf::softgpu {

struct GreenContext {
  CUgreenCtx handle = nullptr;
  ContextRef context;  // what cuCtxFromGreenCtx gives
  CUdevResource resource{};
};
using GreenContextRegistry = Registry<CUgreenCtx, GreenContext, ObjectKind::kGreenContext>;
GreenContextRegistry& green_contexts();

// The primary context ends, and they with it.
void end_green_contexts(const ContextRef& primary);

}  // namespace bf::softgpu
