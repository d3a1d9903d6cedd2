// Code images as programs hand them to the driver: fatbin wrappers and fatbins, ELF cubins, PTX text.
//
// Two readers: image_at() sizes an image behind a bare pointer of the program (the driver API passes no length; the
// program's own memory is trusted as far as the driver would); Fatbin::parse() reads bytes that may come from anybody
// and checks every offset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/limits.h"
#include "base/status.h"

namespace bf::abi {

inline constexpr uint32_t kFatbinWrapperMagic = 0x466243B1;
inline constexpr uint32_t kFatbinMagic = 0xBA55ED50;

// fatbinary_section.h: what __fatBinC_Wrapper_t is.
struct FatbinWrapper {
  uint32_t magic;
  uint32_t version;  // 1; 2: `prelinked` is a NULL-terminated array of pointers to fatbins that `data` was linked from
  const void* data;
  const void* prelinked;
};
static_assert(sizeof(FatbinWrapper) == 24);

struct FatbinHeader {
  uint32_t magic = kFatbinMagic;
  uint16_t version = 1;
  uint16_t header_bytes = 16;
  uint64_t entries_bytes = 0;
};
static_assert(sizeof(FatbinHeader) == 16);

enum class ImageKind : uint8_t { kUnknown, kWrapper, kFatbin, kElf, kPtx };

struct Image {
  ImageKind kind = ImageKind::kUnknown;  // of `bytes`, never kWrapper
  bool wrapped = false;                  // the program's pointer was to a wrapper
  std::span<const std::byte> bytes;      // PTX: with its NUL
};

// What lies at `image`. kInvalid for anything the driver would call CUDA_ERROR_INVALID_IMAGE: NULL data, bad magic or
// version, larger than kImageBytes.
Result<Image> image_at(const void* image);

// Size of the ELF file that starts with `bytes` (at least 64 of them readable): the end of its furthest header table or
// section.
Result<size_t> elf_bytes(std::span<const std::byte> bytes);

enum FatbinEntryKind : uint16_t { kEntryPtx = 1, kEntryCubin = 2, kEntryLtoIr = 8 };

enum FatbinEntryFlags : uint64_t {
  kEntry64Bit = 0x1,
  kEntryDebug = 0x2,
  kEntryOldCompression = 0x1000,
  kEntryLz4 = 0x2000,
  kEntryZstd = 0x8000,
  kEntryArchSpecific = 0x100000,    // sm_90a
  kEntryFamilySpecific = 0x200000,  // sm_100f
};

struct FatbinEntry {
  uint16_t kind = 0;
  uint32_t arch = 0;  // 75, 90, 100, 120
  uint64_t flags = 0;
  uint64_t uncompressed_bytes = 0;     // 0: stored as it is
  std::span<const std::byte> whole;    // header and padded payload: what is copied into a smaller fatbin
  std::span<const std::byte> payload;  // exact stored bytes: without padding if compressed, else with it
  bool compressed() const { return flags & (kEntryLz4 | kEntryZstd | kEntryOldCompression); }
};

class Fatbin {
 public:
  // `bytes` must outlive the result. kInvalid with what is wrong; at most kMaxEntries entries.
  static Result<Fatbin> parse(std::span<const std::byte> bytes);
  static constexpr size_t kMaxEntries = 4096;

  const std::vector<FatbinEntry>& entries() const { return entries_; }
  size_t bytes() const { return bytes_; }  // of the fatbin, header included; `parse` may have been given more

 private:
  std::vector<FatbinEntry> entries_;
  size_t bytes_ = 0;
};

// A smaller fatbin of the entries that a GPU of compute capability major.minor can use: every cubin that runs on it
// (same major and minor not above; arch-specific only exactly; family-specific within the major) and the best PTX
// (highest arch not above). Which cubin wins stays the driver's decision.
struct FatbinSelection {
  FatbinHeader header;
  std::vector<std::span<const std::byte>> parts;  // of the original, in order
  size_t bytes() const { return sizeof(header) + header.entries_bytes; }
  bool empty() const { return parts.empty(); }  // nothing fits: CUDA_ERROR_NO_BINARY_FOR_GPU
  std::vector<std::byte> assemble() const;
};
FatbinSelection select_entries(const Fatbin& fatbin, int major, int minor);
// What any of several GPUs needs; (major, minor) each.
FatbinSelection select_entries(const Fatbin& fatbin, std::span<const std::pair<int, int>> capabilities);

}  // namespace bf::abi
