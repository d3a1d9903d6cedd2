#include "proto/abi/fatbin_decompress.h"

#include <lz4.h>
#include <zstd.h>

#include <climits>

namespace bf::abi {

Result<std::vector<std::byte>> decompress(const FatbinEntry& entry, size_t limit_bytes) {
  if (!entry.compressed()) return std::vector<std::byte>(entry.payload.begin(), entry.payload.end());
  if (entry.flags & kEntryOldCompression)
    return Status(StatusCode::kInvalid,
                  "the fatbin entry uses a compression from before CUDA 11; rebuild the program with a newer nvcc");
  if (entry.uncompressed_bytes > limit_bytes || entry.uncompressed_bytes > INT_MAX)
    return Status(StatusCode::kExhausted, "the fatbin entry claims to be larger than any image may be");
  // Neither format packs better than this; a smaller payload that claims more is a bomb or broken, and costs no memory.
  constexpr uint64_t kMaxRatio = 64 << 10;
  if (entry.uncompressed_bytes / kMaxRatio > entry.payload.size())
    return Status(StatusCode::kInvalid, "the fatbin entry claims an impossible size");
  std::vector<std::byte> out(entry.uncompressed_bytes);
  if (entry.flags & kEntryZstd) {
    const size_t got = ZSTD_decompress(out.data(), out.size(), entry.payload.data(), entry.payload.size());
    if (ZSTD_isError(got) || got != out.size())
      return Status(StatusCode::kInvalid, "the fatbin entry's zstd data is broken");
    return out;
  }
  if (entry.payload.size() > INT_MAX) return Status(StatusCode::kInvalid, "the fatbin entry's LZ4 data is too large");
  const int got = LZ4_decompress_safe(reinterpret_cast<const char*>(entry.payload.data()),
                                      reinterpret_cast<char*>(out.data()), int(entry.payload.size()), int(out.size()));
  if (got < 0 || size_t(got) != out.size())
    return Status(StatusCode::kInvalid, "the fatbin entry's LZ4 data is broken");
  return out;
}

}  // namespace bf::abi
