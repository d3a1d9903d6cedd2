// The worker's end of the server's image cache (server/image_cache.h).
#pragma once

#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/fd.h"
#include "base/sha256.h"

namespace bf::server {

class ImageStore {
 public:
  explicit ImageStore(Fd socket);

  // The bytes stored under the name, unchecked; nothing if there are none, or if the cache does not answer. With room for
  // one byte more.
  std::optional<std::vector<std::byte>> find(const Sha256& name);
  void store(const Sha256& name, std::span<const std::byte> image);

 private:
  std::mutex mutex_;  // one question at a time
  Fd socket_;         // closed when the cache misbehaved
};

}  // namespace bf::server
