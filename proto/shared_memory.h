// The memory that a client and a worker on one host can both map (transport::Link::shared_memory), for pinned memory of the
// program. One file, of which both map the same parts at the same addresses.
#pragma once

#include <cstdint>

namespace bf {

inline constexpr uint64_t kSharedBytes = uint64_t{1} << 40;  // addresses, not memory: pages that nobody uses take none
// What lies at kSharedBegin + n is at n in the file. No system and no driver puts anything there.
inline constexpr uint64_t kSharedBegin = 0x6800'0000'0000;

inline constexpr bool in_shared_memory(uint64_t address) { return address - kSharedBegin < kSharedBytes; }

}  // namespace bf
