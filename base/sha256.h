// SHA-256 (FIPS 180-4): the address of a code image, and with HMAC the proof of a lease. By OpenSSL, which uses what the processor
// has for it: a program's start hashes hundreds of megabytes of images on both sides.
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
// HMAC (RFC 2104) with SHA-256.
Sha256 hmac_sha256(std::span<const std::byte> key, std::span<const std::byte> data);

}  // namespace bf
