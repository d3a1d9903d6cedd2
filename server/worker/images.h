// Code images by name, the SHA-256 of the server's salt and the image. A client sends an image, in slices, if neither this
// session nor the server's cache has it; the calls that load it name it. The bytes are checked against the name before
// anything is loaded, also those from the cache, so a name always means the same code.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/sha256.h"
#include "server/worker/image_store.h"

namespace bf::server {

using Image = std::vector<std::byte>;  // one zero byte follows the image: PTX is text

// cudart's wrapper around a fat binary is an address inside the program; only what it points at may travel.
bool loadable(const Image& image);

class Images {
 public:
  // `store`: the server's cache, or null; `salt`: what stands in front of the bytes in an image's name.
  explicit Images(ImageStore* store = nullptr, std::string salt = {}) : store_(store), salt_(std::move(salt)) {}
  static constexpr size_t kUnfinished = 16;                // images whose slices are still coming
  static constexpr size_t kKeepBytes = size_t{512} << 20;  // beyond, the least recently used whole images go

  // A slice; slices of one image come in order. Null, or what breaks the protocol.
  const char* put(std::span<const std::byte> hash, uint64_t total_bytes, uint64_t offset,
                  std::span<const std::byte> bytes);
  // The whole image, or null.
  std::shared_ptr<const Image> find(std::span<const std::byte> hash);

 private:
  bool named(const Image& image, const Sha256& hash) const;
  std::shared_ptr<const Image> keep(const Sha256& hash, std::shared_ptr<Image> image);  // under the mutex

  struct Unfinished {
    uint64_t total_bytes = 0;
    std::shared_ptr<Image> image;
  };
  struct Whole {
    Sha256 hash;
    std::shared_ptr<const Image> image;
  };

  ImageStore* const store_;
  const std::string salt_;
  std::mutex mutex_;
  std::map<Sha256, Unfinished> unfinished_;
  std::list<Whole> whole_;  // most recently used first
  size_t whole_bytes_ = 0;
};

}  // namespace bf::server
