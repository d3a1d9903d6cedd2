// What is known of the functions and kernels of a session: their parameters, by the driver's own handle, so that a
// launch can check the bytes the client sent before the driver reads them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <shared_mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/handle.h"
#include "proto/api/cuda_api.h"
#include "proto/session.h"

namespace bf::server {

class Session;

class Functions {
 public:
  explicit Functions(Session& session) : session_(session) {}

  // Asks the driver everything about a new function or kernel, and remembers its parameters. `kernel`: whose function it is.
  FunctionFacts learn(CUfunction function, CUkernel kernel = nullptr);
  FunctionFacts learn(CUkernel kernel);
  // A library's module, which ends with it.
  void note_module(CUlibrary library, CUmodule module);

  // Before they go: the driver may use the addresses of their functions again, for functions with other parameters.
  void drop(CUmodule module) { drop_all([=](const Known& known) { return known.module == module; }); }
  void drop(CUlibrary library) { drop_all([=](const Known& known) { return known.library == library; }); }
  void drop(CUcontext context) { drop_all([=](const Known& known) { return known.context == context; }); }

  // May `bytes` of packed parameters be passed to `function`? (A CUkernel passes as one.)
  bool accepts(CUfunction function, size_t bytes) const;
  // The bytes behind the driver's kernelParams, packed. False if the function's parameters are not known.
  bool gather(CUfunction function, void* const* pointers, std::string& packed) const;
  // Pointers into `packed`, one per parameter, as the driver's kernelParams. False if they do not fit.
  bool spread(CUfunction function, std::span<const std::byte> packed, std::vector<void*>& pointers) const;

 private:
  // A function, a kernel, or a library's module, which has no parameters.
  struct Known {
    HandleKind kind;
    std::vector<ParameterInfo> list = {};
    size_t bytes = 0;                // of the packed buffer
    bool parameters_known = false;   // false: the driver would not say
    CUmodule module = nullptr;       // what it ends with
    CUlibrary library = nullptr;
    CUcontext context = nullptr;
  };
  CUlibrary library_of(CUkernel kernel) const;
  void remember(uint64_t real, const FunctionFacts& facts, Known known);
  void drop_all(const std::function<bool(const Known&)>& ends);

  Session& session_;
  mutable std::shared_mutex mutex_;
  std::unordered_map<uint64_t, Known> known_;
};

}  // namespace bf::server
