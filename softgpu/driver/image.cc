// Which PTX an image holds. A fatbin contributes its newest PTX that this device may run; the parts of a relocatable
// build (a version 2 wrapper) are units to be linked; cuLinkComplete's output is units joined by a comment line.
#include <string_view>

#include "base/log.h"
#include "proto/abi/fatbin.h"
#include "proto/abi/fatbin_decompress.h"
#include "softgpu/driver/module.h"

namespace bf::softgpu {
namespace {

constexpr std::string_view kSeparator = "\n// ---- next linked unit ----\n";
constexpr uint32_t kArch = 80;

void split_units(std::string_view text, std::vector<std::string>* units) {
  for (size_t at = 0; at <= text.size();) {
    size_t end = std::min(text.find(kSeparator, at), text.size());
    units->emplace_back(text.substr(at, end - at));
    at = end + kSeparator.size();
  }
}

CUresult fatbin_units(std::span<const std::byte> bytes, std::vector<std::string>* units, std::string* message) {
  Result<abi::Fatbin> fatbin = abi::Fatbin::parse(bytes);
  if (!fatbin.ok()) {
    *message = fatbin.status().message();
    return CUDA_ERROR_INVALID_IMAGE;
  }
  const abi::FatbinEntry* best = nullptr;
  for (const abi::FatbinEntry& entry : fatbin->entries()) {
    bool specific = entry.flags & (abi::kEntryArchSpecific | abi::kEntryFamilySpecific);
    if (entry.kind != abi::kEntryPtx || entry.arch > kArch || specific) continue;
    if (!best || entry.arch > best->arch) best = &entry;
  }
  if (!best) {
    *message = "no PTX for compute capability 8.0 or lower: build with -gencode arch=compute_80,code=compute_80";
    return CUDA_ERROR_NO_BINARY_FOR_GPU;
  }
  Result<std::vector<std::byte>> text = abi::decompress(*best);
  if (!text.ok()) {
    *message = text.status().message();
    return CUDA_ERROR_INVALID_IMAGE;
  }
  std::string_view ptx((const char*)text->data(), text->size());
  units->emplace_back(ptx.substr(0, ptx.find('\0')));
  return CUDA_SUCCESS;
}

// The fatbins that a relocatable build was linked from.
CUresult prelinked_units(const void* image, std::vector<std::string>* units, std::string* message) {
  const auto& wrapper = *(const abi::FatbinWrapper*)image;
  if (wrapper.version != 2 || !wrapper.prelinked) return CUDA_ERROR_NO_BINARY_FOR_GPU;
  for (auto part = (const void* const*)wrapper.prelinked; *part; part++) {
    Result<abi::Image> found = abi::image_at(*part);
    if (!found.ok() || found->kind != abi::ImageKind::kFatbin) return CUDA_ERROR_INVALID_IMAGE;
    BF_TRY(fatbin_units(found->bytes, units, message));
  }
  return units->empty() ? CUDA_ERROR_NO_BINARY_FOR_GPU : CUDA_SUCCESS;
}

}  // namespace

CUresult ptx_units(const void* image, FatbinForm form, std::vector<std::string>* units, std::string* message) {
  Result<abi::Image> found = abi::image_at(image);
  if (!found.ok()) {
    *message = found.status().message();
    return CUDA_ERROR_INVALID_IMAGE;
  }
  if (found->wrapped && form == FatbinForm::kHeader) return CUDA_ERROR_INVALID_IMAGE;
  if (!found->wrapped && form == FatbinForm::kWrapper) return CUDA_ERROR_INVALID_VALUE;
  switch (found->kind) {
    case abi::ImageKind::kFatbin: {
      CUresult result = fatbin_units(found->bytes, units, message);
      if (result == CUDA_ERROR_NO_BINARY_FOR_GPU && found->wrapped) result = prelinked_units(image, units, message);
      return result;
    }
    case abi::ImageKind::kPtx: {
      std::string_view text((const char*)found->bytes.data(), found->bytes.size());
      // Text is PTX once it says so; without a version the driver sees no image at all (580.159.04).
      if (text.find(".version") == std::string_view::npos) {
        *message = "text without a .version directive is not PTX";
        return CUDA_ERROR_INVALID_IMAGE;
      }
      split_units(text.substr(0, text.find('\0')), units);
      return CUDA_SUCCESS;
    }
    case abi::ImageKind::kElf:
      *message = "a cubin holds machine code only; the software GPU needs PTX";
      return CUDA_ERROR_NO_BINARY_FOR_GPU;
    default:
      return CUDA_ERROR_INVALID_IMAGE;
  }
}

std::string join_units(const std::vector<std::string>& units) {
  std::string joined;
  for (const std::string& unit : units) {
    if (!joined.empty()) joined += kSeparator;
    joined += unit;
  }
  return joined;
}

}  // namespace bf::softgpu
