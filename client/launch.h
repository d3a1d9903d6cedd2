// Kernel parameters on their way into a launch or a graph node.
#pragma once

#include <memory>

#include "client/state.h"

namespace bf::client {

class PackedParameters {
 public:
  // From the two forms of cuLaunchKernel, and makes the memory that they point to reachable. INVALID_VALUE as the driver
  // says it.
  CUresult pack(const Function& function, void** parameters, void** extra);
  // At the offsets of the function's facts; valid as long as this object and what was packed.
  std::span<const std::byte> bytes() const { return {data_, bytes_}; }

 private:
  CUresult gather(const Function& function, void** parameters, void** extra);
  CUresult take_extra(const Function& function, void** extra);

  std::byte near_[1024];
  std::unique_ptr<std::byte[]> far_;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace bf::client
