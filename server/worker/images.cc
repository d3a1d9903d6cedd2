#include "server/worker/images.h"

#include <algorithm>
#include <cstring>

#include "base/limits.h"
#include "server/worker/session.h"

namespace bf::server {
namespace {

bool to_hash(std::span<const std::byte> bytes, Sha256& hash) {
  if (bytes.size() != hash.size()) return false;
  std::copy(bytes.begin(), bytes.end(), hash.begin());
  return true;
}

}  // namespace

bool loadable(const Image& image) {
  constexpr uint32_t kWrapperMagic = 0x466243b1;
  uint32_t magic = 0;
  if (image.size() < sizeof(magic)) return false;
  std::memcpy(&magic, image.data(), sizeof(magic));
  return magic != kWrapperMagic;
}

const char* Images::put(std::span<const std::byte> name, uint64_t total_bytes, uint64_t offset,
                        std::span<const std::byte> bytes) {
  Sha256 hash;
  if (!to_hash(name, hash)) return "an image's hash does not have 32 bytes";
  if (total_bytes == 0 || total_bytes > limits::kImageBytes) return "an image is empty or too large";
  std::unique_lock guard(mutex_);
  if (offset == 0) {
    if (unfinished_.size() >= kUnfinished && !unfinished_.contains(hash)) return "too many unfinished images";
    unfinished_[hash] = {total_bytes, std::make_shared<Image>()};
  }
  const auto found = unfinished_.find(hash);
  if (found == unfinished_.end()) return "a slice of an image comes before the first one";
  Unfinished& unfinished = found->second;
  Image& image = *unfinished.image;
  if (unfinished.total_bytes != total_bytes || offset != image.size() || bytes.empty() ||
      bytes.size() > total_bytes - offset) {
    return "slices of an image do not fit together";
  }
  image.insert(image.end(), bytes.begin(), bytes.end());
  if (image.size() < total_bytes) return nullptr;
  if (!named(image, hash)) return "an image does not have the hash it came under";
  auto complete = std::move(unfinished.image);
  unfinished_.erase(found);
  const auto kept = keep(hash, std::move(complete));
  guard.unlock();
  if (store_) store_->store(hash, std::span(*kept).first(kept->size() - 1));
  return nullptr;
}

bool Images::named(const Image& image, const Sha256& hash) const {
  const std::span<const std::byte> parts[] = {std::as_bytes(std::span(salt_)), image};
  return sha256(parts) == hash;
}

std::shared_ptr<const Image> Images::keep(const Sha256& hash, std::shared_ptr<Image> image) {
  image->push_back(std::byte{0});
  whole_bytes_ += image->size();
  whole_.push_front({hash, std::move(image)});
  while (whole_bytes_ > kKeepBytes && whole_.size() > 1) {
    whole_bytes_ -= whole_.back().image->size();
    whole_.pop_back();
  }
  return whole_.front().image;
}

std::shared_ptr<const Image> Images::find(std::span<const std::byte> name) {
  Sha256 hash;
  if (!to_hash(name, hash)) return nullptr;
  std::lock_guard guard(mutex_);
  const auto found = std::find_if(whole_.begin(), whole_.end(), [&](const Whole& whole) { return whole.hash == hash; });
  if (found != whole_.end()) {
    whole_.splice(whole_.begin(), whole_, found);
    return whole_.front().image;
  }
  if (!store_) return nullptr;
  auto stored = store_->find(hash);
  // Damaged, or put there by somebody who lied: the client sends it again, and that replaces it.
  if (!stored || !named(*stored, hash)) return nullptr;
  return keep(hash, std::make_shared<Image>(std::move(*stored)));
}

// --- Calls
// ---------------------------------------------------------------------------------------------------------------

CUresult handle_bfImagePut(Call& call, std::span<const std::byte> hash, uint64_t total_bytes, uint64_t offset) {
  if (const char* what = session_of(call).images.put(hash, total_bytes, offset, call.payload)) {
    session_of(call).violation(call, what);
    return CUDA_ERROR_INVALID_IMAGE;
  }
  return CUDA_SUCCESS;
}

CUresult handle_bfImageProbe(Call& call, std::span<const std::byte> hash, uint32_t& present) {
  present = session_of(call).images.find(hash) != nullptr;
  return CUDA_SUCCESS;
}

}  // namespace bf::server
