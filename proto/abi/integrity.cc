// Measured on driver 580.159.04: versions whose last digit is 0 or 1 get constants; all others HMAC-MD2 (RFC 2104 over
// RFC 1319, block 16) of
//   u32 driver version | u32 version | u32 pid | u32 pthread_self | u64 CUDART_INTERFACE table | u64 this table |
//   u64 this function | u64 unix seconds | per device: 16 bytes UUID | i32 PCI domain | i32 bus | i32 device
#include "proto/abi/integrity.h"

#include <pthread.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "proto/abi/private_tables.h"

namespace bf::abi {
namespace {

// RFC 1319: a permutation of 0..255 made from the digits of pi.
constexpr uint8_t kPi[256] = {
    41,  46,  67,  201, 162, 216, 124, 1,   61,  54,  84,  161, 236, 240, 6,   19,  98,  167, 5,   243, 192, 199,
    115, 140, 152, 147, 43,  217, 188, 76,  130, 202, 30,  155, 87,  60,  253, 212, 224, 22,  103, 66,  111, 24,
    138, 23,  229, 18,  190, 78,  196, 214, 218, 158, 222, 73,  160, 251, 245, 142, 187, 47,  238, 122, 169, 104,
    121, 145, 21,  178, 7,   63,  148, 194, 16,  137, 11,  34,  95,  33,  128, 127, 93,  154, 90,  144, 50,  39,
    53,  62,  204, 231, 191, 247, 151, 3,   255, 25,  48,  179, 72,  165, 181, 209, 215, 94,  146, 42,  172, 86,
    170, 198, 79,  184, 56,  210, 150, 164, 125, 182, 118, 252, 107, 226, 156, 116, 4,   241, 69,  157, 112, 89,
    100, 113, 135, 32,  134, 91,  207, 101, 230, 45,  168, 2,   27,  96,  37,  173, 174, 176, 185, 246, 28,  70,
    97,  105, 52,  64,  126, 15,  85,  71,  163, 35,  221, 81,  175, 58,  195, 92,  249, 206, 186, 197, 234, 38,
    44,  83,  13,  110, 133, 40,  132, 9,   211, 223, 205, 244, 65,  129, 77,  82,  106, 220, 55,  200, 108, 193,
    171, 250, 36,  225, 123, 8,   12,  189, 177, 74,  120, 136, 149, 139, 227, 99,  232, 109, 233, 203, 213, 254,
    59,  0,   29,  57,  242, 239, 183, 14,  102, 88,  208, 228, 166, 119, 114, 248, 235, 117, 75,  10,  49,  68,
    80,  180, 143, 237, 31,  26,  219, 153, 141, 51,  159, 17,  131, 20,
};

constexpr uint8_t kKey[16] = {0x14, 0x6A, 0xDD, 0xAE, 0x53, 0xA9, 0xA7, 0x52,
                              0xAA, 0x08, 0x41, 0x36, 0x0B, 0xF5, 0x5A, 0x9F};
constexpr Digest kConstant = {0x5c, 0x67, 0xcb, 0x03, 0x1c, 0x18, 0x41, 0x33,
                              0xe8, 0xd1, 0x4c, 0x1f, 0xaa, 0x83, 0xd3, 0x8e};
constexpr size_t kBlock = 16;

template <typename T>
void append(std::vector<uint8_t>& to, const T& value) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
  to.insert(to.end(), bytes, bytes + sizeof(T));
}

}  // namespace

Digest md2(std::span<const uint8_t> message) {
  std::vector<uint8_t> padded(message.begin(), message.end());
  const uint8_t pad = uint8_t(kBlock - message.size() % kBlock);
  padded.insert(padded.end(), pad, pad);
  uint8_t checksum[kBlock] = {};
  uint8_t last = 0;
  for (size_t i = 0; i < padded.size(); i += kBlock)
    for (size_t j = 0; j < kBlock; j++) last = checksum[j] ^= kPi[padded[i + j] ^ last];
  padded.insert(padded.end(), checksum, checksum + kBlock);
  uint8_t state[3 * kBlock] = {};
  for (size_t i = 0; i < padded.size(); i += kBlock) {
    for (size_t j = 0; j < kBlock; j++) {
      state[kBlock + j] = padded[i + j];
      state[2 * kBlock + j] = state[kBlock + j] ^ state[j];
    }
    uint8_t t = 0;
    for (int round = 0; round < 18; round++) {
      for (uint8_t& byte : state) t = byte ^= kPi[t];
      t = uint8_t(t + round);
    }
  }
  Digest digest;
  std::memcpy(digest.data(), state, digest.size());
  return digest;
}

Digest hmac_md2(std::span<const uint8_t> key, std::span<const uint8_t> message) {
  std::vector<uint8_t> inner(kBlock, 0x36), outer(kBlock, 0x5c);
  for (size_t i = 0; i < key.size() && i < kBlock; i++) {
    inner[i] ^= key[i];
    outer[i] ^= key[i];
  }
  inner.insert(inner.end(), message.begin(), message.end());
  const Digest digest = md2(inner);
  outer.insert(outer.end(), digest.begin(), digest.end());
  return md2(outer);
}

Digest integrity_digest(const IntegrityInput& input, std::span<const IntegrityDevice> devices) {
  if (input.version % 10 <= 1) {
    Digest digest = kConstant;
    if (input.version % 10 == 1) digest[7] = 0x18;
    return digest;
  }
  std::vector<uint8_t> message;
  append(message, input.driver_version);
  append(message, input.version);
  append(message, input.pid);
  append(message, input.thread);
  append(message, input.cudart_interface);
  append(message, input.integrity);
  append(message, input.function);
  append(message, input.unix_seconds);
  for (const IntegrityDevice& device : devices) {
    append(message, device.uuid);
    append(message, device.pci.domain);
    append(message, device.pci.bus);
    append(message, device.pci.device);
  }
  return hmac_md2(kKey, message);
}

CUresult integrity_check(uint32_t version, uint64_t unix_seconds, uint8_t* out) noexcept {
  const DriverHooks& hooks = driver_hooks();
  if (!hooks.alive()) return CUDA_ERROR_DEINITIALIZED;
  if (!out) return CUDA_ERROR_INVALID_VALUE;
  std::vector<IntegrityDevice> devices(size_t(hooks.device_count()));
  for (size_t i = 0; i < devices.size(); i++)
    if (!hooks.device_identity(int(i), &devices[i].uuid, &devices[i].pci)) return CUDA_ERROR_INVALID_DEVICE;
  IntegrityInput input{
      .driver_version = uint32_t(hooks.driver_version()),
      .version = version,
      .pid = uint32_t(getpid()),
      .thread = uint32_t(pthread_self()),
      .cudart_interface = uint64_t(cudart_interface_table()),
      .integrity = uint64_t(integrity_table()),
      // The value in the table, not &integrity_check: they could differ through a PLT.
      .function = static_cast<const uint64_t*>(integrity_table())[1],
      .unix_seconds = unix_seconds,
  };
  const Digest digest = integrity_digest(input, devices);
  std::memcpy(out, digest.data(), digest.size());
  return CUDA_SUCCESS;
}

}  // namespace bf::abi
