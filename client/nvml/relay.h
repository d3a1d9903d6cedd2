// The relayed rows of the NVML table: the program's arguments are turned into the keys of the question that the
// server's monitor asked, and its answer into what the program's pointers point to.
#pragma once

#include <array>
#include <type_traits>

#include "client/nvml/shim.h"
#include "proto/nvml/row.h"

namespace bf::nvml {

nvmlReturn_t relay_words(const Row& row, const uint64_t* arguments);

template <typename T>
uint64_t to_word(T value) {
  if constexpr (std::is_pointer_v<T>)
    return reinterpret_cast<uint64_t>(value);
  else
    return uint64_t(value);
}

template <typename... T>
nvmlReturn_t relay(const Row& row, T... arguments) noexcept {
  const std::array<uint64_t, kArguments> words{to_word(arguments)...};
  return guarded([&] { return relay_words(row, words.data()); });
}

}  // namespace bf::nvml
