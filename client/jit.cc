#include "client/jit.h"

#include <algorithm>
#include <cstring>

namespace bf::client {

namespace {

void put_log(char* buffer, uint32_t size, const std::string& log) {
  if (!buffer || size == 0) return;
  size_t length = std::min<size_t>(log.size(), size - 1);
  std::memcpy(buffer, log.data(), length);
  buffer[length] = 0;
}

}  // namespace

CUresult JitCall::read(unsigned count, CUjit_option* options, void** values) {
  if (count > 0 && (!options || !values)) return CUDA_ERROR_INVALID_VALUE;
  count_ = count;
  options_ = options;
  values_ = values;
  const char** names = nullptr;
  void** addresses = nullptr;
  size_t symbols = 0;
  for (unsigned i = 0; i < count; ++i) {
    uint64_t value = value_of(values[i]);
    switch (options[i]) {
      case CU_JIT_INFO_LOG_BUFFER: info_log_ = static_cast<char*>(values[i]); break;
      case CU_JIT_ERROR_LOG_BUFFER: error_log_ = static_cast<char*>(values[i]); break;
      case CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES: sent_.info_log_bytes = uint32_t(value); break;
      case CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES: sent_.error_log_bytes = uint32_t(value); break;
      case CU_JIT_GLOBAL_SYMBOL_NAMES: names = static_cast<const char**>(static_cast<void*>(values[i])); break;
      case CU_JIT_GLOBAL_SYMBOL_ADDRESSES: addresses = static_cast<void**>(values[i]); break;
      case CU_JIT_GLOBAL_SYMBOL_COUNT: symbols = uint32_t(value); break;
      case CU_JIT_WALL_TIME: sent_.options.push_back({options[i], 0}); break;
      default: sent_.options.push_back({options[i], value}); break;
    }
  }
  sent_.has_info_log = info_log_ && sent_.info_log_bytes > 0;
  sent_.has_error_log = error_log_ && sent_.error_log_bytes > 0;
  if (!sent_.has_info_log) sent_.info_log_bytes = 0;
  if (!sent_.has_error_log) sent_.error_log_bytes = 0;
  for (size_t i = 0; names && addresses && i < symbols; ++i) {
    sent_.global_names.emplace_back(names[i]);
    sent_.global_addresses.push_back(value_of(addresses[i]));
  }
  return CUDA_SUCCESS;
}

CUresult JitCall::read_library(unsigned count, CUlibraryOption* options, void** values) {
  if (count > 0 && !options) return CUDA_ERROR_INVALID_VALUE;
  for (unsigned i = 0; i < count; ++i) {
    // Both speak of memory of this process: a table of addresses, and that the image stays where it is.
    if (options[i] == CU_LIBRARY_HOST_UNIVERSAL_FUNCTION_AND_DATA_TABLE || options[i] == CU_LIBRARY_BINARY_IS_PRESERVED) continue;
    sent_.library_options.push_back({options[i], values ? value_of(values[i]) : 0});
  }
  return CUDA_SUCCESS;
}

void JitCall::write_back(std::span<const std::byte> jit_out) {
  auto decoded = decode_jit_result({reinterpret_cast<const char*>(jit_out.data()), jit_out.size()});
  if (!decoded.ok()) return;
  put_log(info_log_, sent_.info_log_bytes, decoded->info_log);
  put_log(error_log_, sent_.error_log_bytes, decoded->error_log);
  for (const JitOption& updated : decoded->updated) {
    for (unsigned i = 0; i < count_; ++i) {
      if (options_[i] == updated.option) values_[i] = reinterpret_cast<void*>(updated.value);
    }
  }
}

}  // namespace bf::client
