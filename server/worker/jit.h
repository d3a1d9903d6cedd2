// JIT options as the driver wants them: parallel arrays, with log buffers of our own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "proto/api/cuda_api.h"
#include "proto/session.h"

namespace bf::server {

class JitArguments {
 public:
  // False: malformed.
  bool decode(std::span<const std::byte> bytes) {
    auto decoded = decode_jit_options({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    if (!decoded.ok()) return false;
    given_ = std::move(*decoded);
    for (const JitOption& option : given_.options) {
      if (is_pointer(option.option)) continue;
      add(CUjit_option(option.option), reinterpret_cast<void*>(option.value));
    }
    scalars_ = options_.size();
    if (given_.has_info_log)
      add_log(CU_JIT_INFO_LOG_BUFFER, CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES, info_, given_.info_log_bytes);
    if (given_.has_error_log)
      add_log(CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES, error_, given_.error_log_bytes);
    if (!given_.global_names.empty()) {
      for (const auto& name : given_.global_names) names_.push_back(name.c_str());
      for (const uint64_t address : given_.global_addresses) addresses_.push_back(reinterpret_cast<void*>(address));
      add(CU_JIT_GLOBAL_SYMBOL_NAMES, names_.data());
      add(CU_JIT_GLOBAL_SYMBOL_ADDRESSES, addresses_.data());
      add(CU_JIT_GLOBAL_SYMBOL_COUNT, reinterpret_cast<void*>(names_.size()));
    }
    return true;
  }
  unsigned int count() const { return unsigned(options_.size()); }
  CUjit_option* options() { return options_.data(); }
  void** values() { return values_.data(); }

  std::string result() const {
    JitResult result;
    for (size_t i = 0; i < options_.size(); ++i) {
      const auto value = reinterpret_cast<uint64_t>(values_[i]);
      if (options_[i] == CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES) {
        result.info_log.assign(info_.data(), std::min<size_t>(value, info_.size()));
      } else if (options_[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES) {
        result.error_log.assign(error_.data(), std::min<size_t>(value, error_.size()));
      } else if (i < scalars_) {
        const JitOption& before = scalar(i);
        if (before.value != value) result.updated.push_back({before.option, value});
        continue;
      } else {
        continue;
      }
      result.updated.push_back({int32_t(options_[i]), value});
    }
    return encode(result);
  }

 private:
  // Values that are addresses: never taken from the client.
  static bool is_pointer(int32_t option) {
    switch (option) {
      case CU_JIT_INFO_LOG_BUFFER:
      case CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES:
      case CU_JIT_ERROR_LOG_BUFFER:
      case CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES:
      case CU_JIT_GLOBAL_SYMBOL_NAMES:
      case CU_JIT_GLOBAL_SYMBOL_ADDRESSES:
      case CU_JIT_GLOBAL_SYMBOL_COUNT:
      case CU_JIT_REFERENCED_KERNEL_NAMES:
      case CU_JIT_REFERENCED_KERNEL_COUNT:
      case CU_JIT_REFERENCED_VARIABLE_NAMES:
      case CU_JIT_REFERENCED_VARIABLE_COUNT: return true;
      default: return false;
    }
  }
  const JitOption& scalar(size_t index) const {
    size_t seen = 0;
    for (const JitOption& option : given_.options)
      if (!is_pointer(option.option) && seen++ == index) return option;
    return given_.options.front();
  }
  void add(CUjit_option option, void* value) {
    options_.push_back(option);
    values_.push_back(value);
  }
  void add_log(CUjit_option buffer_option, CUjit_option size_option, std::string& buffer, uint32_t bytes) {
    buffer.assign(std::max<uint32_t>(bytes, 1), '\0');
    add(buffer_option, buffer.data());
    add(size_option, reinterpret_cast<void*>(uint64_t{bytes}));
  }

  JitOptions given_;
  std::vector<CUjit_option> options_;
  std::vector<void*> values_;
  size_t scalars_ = 0;
  std::string info_, error_;
  std::vector<const char*> names_;
  std::vector<void*> addresses_;
};

}  // namespace bf::server
