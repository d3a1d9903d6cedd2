// The check by which the CUDA runtime makes sure that it talks to the driver it thinks it does: an HMAC-MD2 over values
// that the runtime can ask for itself. See integrity.cc for the message.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "proto/abi/driver_hooks.h"

namespace bf::abi {

using Digest = std::array<uint8_t, 16>;

Digest md2(std::span<const uint8_t> message);
Digest hmac_md2(std::span<const uint8_t> key, std::span<const uint8_t> message);

// What goes into the message beside the devices.
struct IntegrityInput {
  uint32_t driver_version = 0;
  uint32_t version = 0;
  uint32_t pid = 0;
  uint32_t thread = 0;  // low half of pthread_self() of the calling thread
  uint64_t cudart_interface = 0;
  uint64_t integrity = 0;
  uint64_t function = 0;
  uint64_t unix_seconds = 0;
};
struct IntegrityDevice {
  CUuuid uuid{};
  PciAddress pci;
};
Digest integrity_digest(const IntegrityInput& input, std::span<const IntegrityDevice> devices);

// Slot 1 of the table: asks the hooks for the devices; runs on the caller's thread.
CUresult integrity_check(uint32_t version, uint64_t unix_seconds, uint8_t* out) noexcept;

}  // namespace bf::abi
