// Decompression of fatbin entries (zstd, LZ4): a separate library, so that the shim does not carry it.
#pragma once

#include "proto/abi/fatbin.h"

namespace bf::abi {

// The entry's code as nvcc made it: PTX text (its NUL included if it was stored with one) or an ELF cubin. Copies
// stored entries too. kInvalid for broken data; kExhausted if it claims more than `limit_bytes`.
Result<std::vector<std::byte>> decompress(const FatbinEntry& entry, size_t limit_bytes = limits::kImageBytes);

}  // namespace bf::abi
