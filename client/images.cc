#include "client/images.h"

#include <algorithm>
#include <unordered_set>

#include "api/remote.h"
#include "client/contexts.h"
#include "proto/abi/fatbin.h"

namespace bf::client {

namespace {

constexpr size_t kSliceBytes = 1 << 20;  // other threads' calls go in between
static_assert(kSliceBytes <= limits::kPayloadBytes);

// An image as it travels: parts of the program's memory, and the header of a fatbin reduced to what fits.
struct Parcel {
  std::vector<std::span<const std::byte>> parts;
  abi::FatbinHeader header;
  size_t bytes() const {
    size_t sum = 0;
    for (auto part : parts) sum += part.size();
    return sum;
  }
};

CUresult make_parcel(const abi::Image& image, Parcel* parcel) {
  parcel->parts = {image.bytes};
  const auto& devices = Session::get()->snapshot().devices;
  if (image.kind != abi::ImageKind::kFatbin || devices.empty()) return CUDA_SUCCESS;
  auto fatbin = abi::Fatbin::parse(image.bytes);
  if (!fatbin.ok()) return CUDA_ERROR_INVALID_IMAGE;
  std::vector<std::pair<int, int>> capabilities;
  for (const DeviceSnapshot& device : devices) capabilities.emplace_back(int(device.compute_major), int(device.compute_minor));
  auto selection = abi::select_entries(*fatbin, capabilities);
  if (selection.empty()) return CUDA_ERROR_NO_BINARY_FOR_GPU;
  parcel->header = selection.header;
  parcel->parts = std::move(selection.parts);
  parcel->parts.insert(parcel->parts.begin(), std::as_bytes(std::span(&parcel->header, 1)));
  return CUDA_SUCCESS;
}

CUresult put(const Parcel& parcel, const Sha256& name) {
  const size_t total = parcel.bytes();
  size_t offset = 0;
  std::vector<iovec> slice;
  size_t slice_bytes = 0;
  auto flush = [&] {
    CUresult result = post_bfImagePut(name, total, offset, Payload(slice.data(), slice.size()));
    offset += slice_bytes;
    slice_bytes = 0;
    slice.clear();
    return result;
  };
  for (auto part : parcel.parts) {
    while (!part.empty()) {
      auto piece = part.first(std::min(part.size(), kSliceBytes - slice_bytes));
      slice.push_back({const_cast<std::byte*>(piece.data()), piece.size()});
      slice_bytes += piece.size();
      part = part.subspan(piece.size());
      if (slice_bytes < kSliceBytes) continue;
      if (CUresult result = flush(); result != CUDA_SUCCESS) return result;
    }
  }
  return slice.empty() ? CUDA_SUCCESS : flush();
}

// One upload at a time: two threads that load the same image must not send its slices twice, interleaved.
std::mutex& upload_order() {
  static auto* mutex = new std::mutex;
  return *mutex;
}

CUresult send(const Parcel& parcel, Sha256* name) {
  // The server's salt in front: only who has the bytes can name them there (server/image_cache.h).
  auto salted = parcel.parts;
  salted.insert(salted.begin(), std::as_bytes(std::span(Session::get()->snapshot().image_salt)));
  *name = sha256(salted);
  std::lock_guard guard(upload_order());
  uint32_t present = 0;
  if (CUresult result = remote_bfImageProbe(*name, present); result != CUDA_SUCCESS) return result;
  return present ? CUDA_SUCCESS : put(parcel, *name);
}

}  // namespace

CUresult send_image(const void* address, Loader loader, Sha256* name) {
  auto image = abi::image_at(address);
  if (!image.ok() || (image->wrapped && loader == Loader::kModule)) return CUDA_ERROR_INVALID_IMAGE;
  Parcel parcel;
  if (CUresult result = make_parcel(*image, &parcel); result != CUDA_SUCCESS) return result;
  return send(parcel, name);
}

CUresult send_bytes(std::span<const std::byte> bytes, Sha256* name) {
  Parcel parcel;
  parcel.parts = {bytes};
  return send(parcel, name);
}

}  // namespace bf::client
