#include "proto/secrets.h"

#include <span>

#include "base/sha256.h"

namespace bf::secrets {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }
std::string text_of(const Sha256& hash) { return {reinterpret_cast<const char*>(hash.data()), hash.size()}; }

// The label ends with a zero byte and the nonce has a fixed size, so no two uses can mean the same bytes.
std::string derive(std::string_view key, const char* label, std::string_view bound_to) {
  std::string data(label);
  data.push_back('\0');
  data += bound_to;
  return text_of(hmac_sha256(bytes_of(key), bytes_of(data)));
}

std::string transcript(std::string_view request, std::string_view nonce) {
  return digest(request) + std::string(nonce);
}

}  // namespace

std::string attach_proof(std::string_view lease_secret, std::string_view request, std::string_view nonce) {
  return derive(lease_secret, "backfield attach", transcript(request, nonce));
}

std::string session_key(std::string_view lease_secret, std::string_view request, std::string_view nonce) {
  return derive(lease_secret, "backfield session", transcript(request, nonce));
}

std::string reading_proof(std::string_view lease_secret) { return derive(lease_secret, "backfield reading", {}); }

std::string join_proof(std::string_view session_key, uint32_t index) {
  return derive(session_key, "backfield join", std::to_string(index));
}

std::string tls_key(std::string_view session_key, int32_t index) {
  return derive(session_key, "backfield tls", std::to_string(index));
}

std::string rdma_proof(std::string_view session_key, std::string_view request) {
  return derive(session_key, "backfield rdma", request);
}

std::string digest(std::string_view bytes) { return text_of(sha256(bytes_of(bytes))); }

}  // namespace bf::secrets
