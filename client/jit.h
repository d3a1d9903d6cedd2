// JIT options: numbers travel; logs and other results are written back where the program asked for them.
#pragma once

#include <string>

#include "client/state.h"

namespace bf::client {

class JitCall {
 public:
  // INVALID_VALUE for arrays that are missing.
  CUresult read(unsigned count, CUjit_option* options, void** values);
  CUresult read_library(unsigned count, CUlibraryOption* options, void** values);
  std::string encoded() const { return encode(sent_); }
  // After the call, successful or not: what the driver wrote.
  void write_back(std::span<const std::byte> jit_out);

 private:
  JitOptions sent_;
  unsigned count_ = 0;
  CUjit_option* options_ = nullptr;
  void** values_ = nullptr;
  char* info_log_ = nullptr;
  char* error_log_ = nullptr;
};

}  // namespace bf::client
