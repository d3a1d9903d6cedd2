#include "proto/mirror.h"

#include <emmintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace bf {

namespace {

constexpr uint64_t page_of(uint64_t address) { return address & ~uint64_t{kMirrorPage - 1}; }
constexpr uint64_t line_of(uint64_t address) { return address & ~uint64_t{kMirrorLine - 1}; }

// Bit j: byte j differs.
uint64_t difference(const std::byte* a, const std::byte* b) {
  uint64_t mask = 0;
  for (int part = 0; part < 4; ++part) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a) + part);
    const __m128i y = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b) + part);
    mask |= uint64_t(~uint32_t(_mm_movemask_epi8(_mm_cmpeq_epi8(x, y))) & 0xffff) << (16 * part);
  }
  return mask;
}

// Writes the bytes of `mask` and no other: those belong to whoever else writes there.
void put(std::byte* to, const std::byte* from, uint64_t mask) {
  if (mask == ~uint64_t{0}) {
    std::memcpy(to, from, kMirrorLine);
    return;
  }
  while (mask) {
    const int begin = std::countr_zero(mask);
    const int count = std::countr_one(mask >> begin);
    std::memcpy(to + begin, from + begin, size_t(count));
    mask &= begin + count == 64 ? 0 : ~uint64_t{0} << (begin + count);
  }
}

}  // namespace

std::unique_ptr<Mirror> Mirror::make(std::byte* memory, uint64_t address, size_t bytes) {
  const size_t shadow_bytes = page_of(address % kMirrorPage + bytes + kMirrorPage - 1);
  void* shadow =
      mmap(nullptr, shadow_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (shadow == MAP_FAILED) return nullptr;
  return std::unique_ptr<Mirror>(new Mirror(memory, address, bytes, static_cast<std::byte*>(shadow), shadow_bytes));
}

Mirror::~Mirror() { munmap(shadow_map_, shadow_map_bytes_); }

uint64_t Mirror::inside(uint64_t line) const {
  const uint64_t first = std::max(line, address_) - line;
  const uint64_t last = std::min(line + kMirrorLine, end()) - line;  // behind it
  const uint64_t below = last == 64 ? ~uint64_t{0} : (uint64_t{1} << last) - 1;
  return below & ~((uint64_t{1} << first) - 1);
}

uint64_t Mirror::collect(uint64_t from, uint64_t to, PatchBuffer& out) {
  for (uint64_t page = page_of(from); page < to; page += kMirrorPage) {
    if (!out.fits_page()) return std::max(page, from);
    const bool whole = page >= address_ && page + kMirrorPage <= end();
    if (whole && std::memcmp(memory_at(page), shadow_at(page), kMirrorPage) == 0) continue;
    collect_page(page, out);
  }
  return to;
}

void Mirror::collect_page(uint64_t page, PatchBuffer& out) {
  std::byte* const head = out.data() + out.used_;
  std::byte* at = head + 16;
  uint64_t lines = 0;
  const uint64_t first = std::max(page, line_of(address_));
  const uint64_t last = std::min(page + kMirrorPage, end());
  for (uint64_t line = first; line < last; line += kMirrorLine) {
    // Read once: what is compared is what travels and what both sides then agree on.
    alignas(16) std::byte now[kMirrorLine], agreed[kMirrorLine];
    const uint64_t mine = inside(line);
    std::memcpy(agreed, shadow_at(line), kMirrorLine);
    if (mine == ~uint64_t{0}) {
      std::memcpy(now, memory_at(line), kMirrorLine);
    } else {
      std::memcpy(now, agreed, kMirrorLine);
      put(now, memory_at(line), mine);
    }
    const uint64_t mask = difference(now, agreed);
    if (mask == 0) continue;
    std::memcpy(shadow_at(line), now, kMirrorLine);
    lines |= uint64_t{1} << (line - page) / kMirrorLine;
    std::memcpy(at, &mask, 8);
    std::memcpy(at + 8, now, kMirrorLine);
    at += 8 + kMirrorLine;
  }
  if (lines == 0) return;
  std::memcpy(head, &page, 8);
  std::memcpy(head + 8, &lines, 8);
  out.used_ += size_t(at - head);
}

bool Mirror::apply(uint64_t line, uint64_t mask, const std::byte* data) {
  if (line % kMirrorLine || line + kMirrorLine <= address_ || line >= end() || (mask & ~inside(line))) return false;
  put(memory_at(line), data, mask);
  put(shadow_at(line), data, mask);
  return true;
}

Status read_patches(size_t total, const std::function<bool(void*, size_t)>& read,
                    const std::function<bool(uint64_t, uint64_t, const std::byte*)>& line) {
  const Status broken(StatusCode::kInvalid, "malformed changes of mirrored memory");
  const Status gone(StatusCode::kUnavailable, "changes of mirrored memory ended early");
  while (total > 0) {
    struct {
      uint64_t page, lines;
    } head;
    if (total < sizeof head) return broken;
    if (!read(&head, sizeof head)) return gone;
    total -= sizeof head;
    const size_t body = size_t(std::popcount(head.lines)) * (8 + kMirrorLine);
    if (head.lines == 0 || head.page % kMirrorLine || body > total) return broken;
    total -= body;
    while (head.lines) {
      const auto index = uint64_t(std::countr_zero(head.lines));
      head.lines &= head.lines - 1;
      struct {
        uint64_t mask;
        std::byte data[kMirrorLine];
      } one;
      if (!read(&one, sizeof one)) return gone;
      uint64_t address;
      if (one.mask == 0 || __builtin_add_overflow(head.page, index * kMirrorLine, &address) || !line(address, one.mask, one.data))
        return broken;
    }
  }
  return ok_status();
}

}  // namespace bf
