// What the two ends of an rdma link say while they connect: the private data of rdma_cm, which is little and hostile.
#pragma once

#include <array>
#include <cstring>
#include <optional>
#include <span>
#include <string>

#include "transport/rdma_link.h"

namespace bf::transport::rdma {

inline constexpr uint32_t kVersion = 1;  // changes with anything that travels
inline constexpr size_t kProofBytes = 32;
inline constexpr uint32_t kStreams = 2;  // channel 0: calls, 1: side, 2 and up: bulk
inline constexpr uint32_t kCallsCredits = 256;
inline constexpr uint32_t kSideCredits = 64;

// Client to worker: 56 bytes are all that a connection request holds. The proof is secrets::rdma_proof() over the rest: it
// shows that whoever asks knows the session's key, and whoever saw it can ask for nothing else.
struct Request {
  std::array<char, 4> magic{'b', 'f', 'r', 'q'};
  uint16_t version = kVersion;
  uint16_t channel = 0;
  uint64_t landing = 0;  // of the client
  std::array<char, kProofBytes> proof{};
  uint32_t landing_key = 0;
  uint32_t channels = 0;
};
static_assert(sizeof(Request) == 56);

// Worker to client, with its acceptance.
struct Acceptance {
  std::array<char, 4> magic{'b', 'f', 'r', 'a'};
  uint32_t version = kVersion;
  uint64_t landing = 0;
  uint32_t landing_key = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(Acceptance) == 24);

// Worker to client, with its refusal: at most 148 bytes.
struct Refusal {
  std::array<char, 4> magic{'b', 'f', 'r', 'x'};
  uint32_t code = 0;                // StatusCode
  std::array<char, 136> message{};  // ends with a zero byte or with the array
};
static_assert(sizeof(Refusal) == 144);

// Private data may arrive padded. Nothing if it is too short or not `Message`.
template <typename Message>
std::optional<Message> read_message(const void* data, size_t bytes) {
  Message message, expected;
  if (!data || bytes < sizeof message) return std::nullopt;
  memcpy(&message, data, sizeof message);
  if (message.magic != expected.magic) return std::nullopt;
  return message;
}

// The proof of a request whose other fields are set.
std::array<char, kProofBytes> proof_of(Request request, const std::string& session_key);

// What a worker says to a request, before it makes anything for it. `taken` has a bit for each channel it has.
Status judge(const Request& request, const std::string& session_key, uint32_t channels, uint32_t taken);

}  // namespace bf::transport::rdma
