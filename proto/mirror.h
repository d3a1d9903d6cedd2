// Mirrored memory: a range that client and worker both hold, made equal at launches and at synchronisations
// (docs/design.md, "Data"). This is the half that both sides share: finding what changed here since the two sides last
// agreed, and taking over what changed there.
//
// Beside the memory each side keeps a *shadow*, the bytes that both sides agreed on last. What differs from it was
// changed on this side; single bytes count, so that a program may write next to a byte that a kernel writes.
// Changes travel as patches: for a page, which of its lines changed, and for each such line a mask of bytes and the line.
//
//   u64 address   of the page's first line (a multiple of 64), as both sides call it
//   u64 lines     bit i: line i follows; not 0
//   for each bit, lowest first:  u64 mask (bit j: byte j is meant; not 0), 64 bytes
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"

namespace bf {

inline constexpr size_t kMirrorLine = 64;
inline constexpr size_t kMirrorPage = 4096;
inline constexpr size_t kPatchBound = 16 + kMirrorPage / kMirrorLine * (8 + kMirrorLine);  // of one page

// Patches on their way, whole ones only.
class PatchBuffer {
 public:
  explicit PatchBuffer(size_t capacity) : bytes_(new std::byte[capacity]), capacity_(capacity) {}
  std::byte* data() { return bytes_.get(); }
  size_t size() const { return used_; }
  bool fits_page() const { return capacity_ - used_ >= kPatchBound; }
  void clear() { used_ = 0; }

 private:
  friend class Mirror;
  std::unique_ptr<std::byte[]> bytes_;
  size_t capacity_;
  size_t used_ = 0;
};

// One range. Not thread-safe; the memory itself may change at any time, which costs no more than a second patch.
class Mirror {
 public:
  // Of `bytes` at `memory`, which the wire calls `address`: the two are equal modulo kMirrorPage. Both sides begin with
  // a shadow of zeros. nullptr: no memory for the shadow.
  static std::unique_ptr<Mirror> make(std::byte* memory, uint64_t address, size_t bytes);
  ~Mirror();
  Mirror(const Mirror&) = delete;
  Mirror& operator=(const Mirror&) = delete;

  uint64_t address() const { return address_; }
  uint64_t end() const { return address_ + bytes_; }
  size_t bytes() const { return bytes_; }
  std::byte* memory() const { return memory_; }

  // Appends a patch for each page of [from, to), addresses within the range, that changed here, and agrees to it. Stops
  // when `out` may not hold another page; returns the address from which to go on, `to` when done.
  uint64_t collect(uint64_t from, uint64_t to, PatchBuffer& out);

  // Takes over one line of a patch. False: it is not within this range.
  bool apply(uint64_t line, uint64_t mask, const std::byte* data);

 private:
  Mirror(std::byte* memory, uint64_t address, size_t bytes, std::byte* shadow, size_t shadow_bytes)
      : memory_(memory), address_(address), bytes_(bytes), shadow_map_(shadow), shadow_map_bytes_(shadow_bytes) {}
  void collect_page(uint64_t page, PatchBuffer& out);
  // Which bytes of the line belong to the range.
  uint64_t inside(uint64_t line) const;
  std::byte* memory_at(uint64_t address) const { return memory_ + int64_t(address - address_); }
  std::byte* shadow_at(uint64_t address) const {
    return shadow_map_ + address_ % kMirrorPage + int64_t(address - address_);
  }

  std::byte* const memory_;
  const uint64_t address_;
  const size_t bytes_;
  std::byte* const shadow_map_;
  const size_t shadow_map_bytes_;
};

// The driver reserves address space where it is asked to only from this size on (measured, 580.159.04): managed ranges lie
// so far apart, and the worker reserves no less.
inline constexpr uint64_t kManagedStep = 32 << 20;

// What the client wants mirrored (bfMirrorMap).
enum MirrorKind : uint32_t {
  kMirrorHost = 0,      // pinned or registered memory
  kMirrorManaged = 1,   // managed memory: addresses and bytes are multiples of 2 MiB
  kMirrorPinned = 3,    // pinned memory that both ends map (proto/shared_memory.h): nothing travels
  kMirrorVariable = 2,  // a managed variable of a module, named by cuModuleGetGlobal and its kin before
};

// `read` for read_patches: from bytes in memory, which hold all of them.
inline auto read_from(std::span<const std::byte> bytes) {
  return [at = bytes.data()](void* to, size_t count) mutable {
    std::memcpy(to, at, count);
    at += count;
    return true;
  };
}

// Reads patches, piece by piece, from anything: `read(to, n)` gives the next n bytes, false at a failure; `line(address,
// mask, data)` takes each line. `total` bytes hold whole patches. kInvalid when the bytes are no patches, or `line`
// refuses one; kUnavailable when `read` fails.
Status read_patches(size_t total, const std::function<bool(void*, size_t)>& read,
                    const std::function<bool(uint64_t, uint64_t, const std::byte*)>& line);

}  // namespace bf
