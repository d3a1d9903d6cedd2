// SHA-256 (FIPS 180-4): the address of a code image. Own code: the shim brings no library into the program.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace bf {

using Sha256 = std::array<std::byte, 32>;

// The hash of the parts, one behind the other.
Sha256 sha256(std::span<const std::span<const std::byte>> parts);
Sha256 sha256(std::span<const std::byte> data);

}  // namespace bf
