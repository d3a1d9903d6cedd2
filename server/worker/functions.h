// What is known of the functions and kernels of a session: their parameters, by the driver's own handle, so that a
// launch can check the bytes the client sent before the driver reads them.
#pragma once

#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "proto/api/cuda_api.h"
#include "proto/session.h"

namespace bf::server {

class Session;

class Functions {
 public:
  struct Parameters {
    std::vector<ParameterInfo> list;
    size_t bytes = 0;    // of the packed buffer
    bool known = false;  // false: the driver would not say
  };

  explicit Functions(Session& session) : session_(session) {}

  // Asks the driver everything about a new function or kernel, and remembers its parameters.
  FunctionFacts learn(CUfunction function);
  FunctionFacts learn(CUkernel kernel);

  // May `bytes` of packed parameters be passed to `function`? (A CUkernel passes as one.)
  bool accepts(CUfunction function, size_t bytes) const;
  // The bytes behind the driver's kernelParams, packed. False if the function's parameters are not known.
  bool gather(CUfunction function, void* const* pointers, std::string& packed) const;
  // Pointers into `packed`, one per parameter, as the driver's kernelParams. False if they do not fit.
  bool spread(CUfunction function, std::span<const std::byte> packed, std::vector<void*>& pointers) const;

 private:
  void remember(uint64_t real, const FunctionFacts& facts);

  Session& session_;
  mutable std::shared_mutex mutex_;
  std::unordered_map<uint64_t, Parameters> parameters_;
};

}  // namespace bf::server
