// The image cache as bfserver and its workers speak of it, over a SOCK_SEQPACKET pair that comes with Assign.
//
// An image's name is the SHA-256 of the server's salt and the image: who can name it has its bytes, on this server. A name
// published elsewhere, or learned on another server, opens nothing. What comes out of the cache is checked against its name
// by the worker that uses it, so nobody can put other code under a name.
//
//   kOpen    worker -> bfserver   is it there?
//   kFound   bfserver -> worker   `bytes` long; descriptor: the file, to read
//   kAbsent  bfserver -> worker
//   kStore   worker -> bfserver   `bytes` follow in datagrams of at most kChunkBytes; no answer
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/sha256.h"

namespace bf::server {

struct ImageCacheMessage {
  enum Kind : uint32_t { kOpen = 1, kFound = 2, kAbsent = 3, kStore = 4 };
  uint32_t kind = 0;
  uint32_t reserved = 0;
  uint64_t bytes = 0;
  Sha256 name{};
};
static_assert(sizeof(ImageCacheMessage) == 48);

inline constexpr size_t kChunkBytes = 64 << 10;
inline constexpr size_t kSaltBytes = 32;

}  // namespace bf::server
