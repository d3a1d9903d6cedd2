// How a client proves a lease, and where a session's keys come from. Every key is HMAC-SHA256 of a label and what it is
// bound to, under the key above it:
//
//   lease secret                     random; travels once, inside TLS, from bfserver to the tool that took the lease
//    |- attach proof                 bound to the AttachRequest (with the client's nonce) and the server's nonce
//    `- session key                  bound to the same, so no two sessions share one
//        |- join proof of channel i  each channel joins once: seeing the proof helps nobody
//        |- TLS key of connection i  pre-shared key of TLS 1.3; -1 is the call stream
//        `- rdma proof               bound to one connection request, whose channel connects once
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace bf::secrets {

// `request` is the body of the AttachRequest as it travelled, `nonce` the Challenge's.
std::string attach_proof(std::string_view lease_secret, std::string_view request, std::string_view nonce);
// For readings of the lease's GPUs (docs/nvml.md): the same each time, and good for nothing else.
std::string reading_proof(std::string_view lease_secret);
std::string session_key(std::string_view lease_secret, std::string_view request, std::string_view nonce);
std::string join_proof(std::string_view session_key, uint32_t index);
std::string tls_key(std::string_view session_key, int32_t index);
// `request` is what the request says, without the proof (transport/rdma_connect.h).
std::string rdma_proof(std::string_view session_key, std::string_view request);

// SHA-256 of some bytes, as bytes.
std::string digest(std::string_view bytes);

}  // namespace bf::secrets
