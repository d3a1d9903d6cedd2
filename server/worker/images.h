// Code images by their SHA-256. A client sends an image once per session, in slices; the calls that load it name the
// hash. The bytes are checked against the hash before anything is loaded, so a name always means the same code.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/sha256.h"

namespace bf::server {

using Image = std::vector<std::byte>;  // one zero byte follows the image: PTX is text

// cudart's wrapper around a fat binary is an address inside the program; only what it points at may travel.
bool loadable(const Image& image);

class Images {
 public:
  static constexpr size_t kUnfinished = 16;                // images whose slices are still coming
  static constexpr size_t kKeepBytes = size_t{512} << 20;  // beyond, the least recently used whole images go

  // A slice; slices of one image come in order. Null, or what breaks the protocol.
  const char* put(std::span<const std::byte> hash, uint64_t total_bytes, uint64_t offset,
                  std::span<const std::byte> bytes);
  // The whole image, or null.
  std::shared_ptr<const Image> find(std::span<const std::byte> hash);

 private:
  struct Unfinished {
    uint64_t total_bytes = 0;
    std::shared_ptr<Image> image;
  };
  struct Whole {
    Sha256 hash;
    std::shared_ptr<const Image> image;
  };

  std::mutex mutex_;
  std::map<Sha256, Unfinished> unfinished_;
  std::list<Whole> whole_;  // most recently used first
  size_t whole_bytes_ = 0;
};

}  // namespace bf::server
