// The protobuf encoding, as far as calls use it: varint, fixed32, fixed64 and length-delimited fields. Writers put
// bytes at a pointer (the caller reserved an upper bound first); the reader has one sticky failure flag, so that
// decoders check once at the end. Tests compare both with libprotobuf.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace bf::wire {

enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kLength = 2, kFixed32 = 5 };

constexpr uint32_t tag(uint32_t field, WireType type) { return field << 3 | type; }

// --- Writing
// -----------------------------------------------------------------------------------------------------------

inline constexpr size_t kMaxVarint = 10;

inline std::byte* put_varint(std::byte* p, uint64_t value) {
  while (value >= 0x80) {
    *p++ = std::byte(value | 0x80);
    value >>= 7;
  }
  *p++ = std::byte(value);
  return p;
}

// Field numbers are constants, so the tag's length is too.
template <uint32_t Tag>
inline std::byte* put_tag(std::byte* p) {
  if constexpr (Tag < 0x80) {
    *p++ = std::byte(Tag);
  } else {
    *p++ = std::byte(Tag | 0x80);
    *p++ = std::byte(Tag >> 7);
  }
  return p;
}

template <uint32_t Field>
inline std::byte* put_u64(std::byte* p, uint64_t value) {
  return put_varint(put_tag<tag(Field, kVarint)>(p), value);
}

template <uint32_t Field>
inline std::byte* put_fixed64(std::byte* p, uint64_t value) {
  p = put_tag<tag(Field, kFixed64)>(p);
  std::memcpy(p, &value, 8);
  return p + 8;
}

template <uint32_t Field>
inline std::byte* put_fixed32(std::byte* p, uint32_t value) {
  p = put_tag<tag(Field, kFixed32)>(p);
  std::memcpy(p, &value, 4);
  return p + 4;
}

template <uint32_t Field>
inline std::byte* put_bytes(std::byte* p, const void* data, size_t bytes) {
  p = put_varint(put_tag<tag(Field, kLength)>(p), bytes);
  if (bytes) std::memcpy(p, data, bytes);
  return p + bytes;
}

constexpr uint64_t zigzag(int64_t value) { return (uint64_t(value) << 1) ^ uint64_t(value >> 63); }
constexpr int64_t unzigzag(uint64_t value) { return int64_t(value >> 1) ^ -int64_t(value & 1); }

// Upper bounds of one field: tag and value; `bytes` of content for length-delimited ones.
inline constexpr size_t kVarintBound = 2 + kMaxVarint;
inline constexpr size_t kFixed64Bound = 2 + 8;
inline constexpr size_t kFixed32Bound = 2 + 4;
constexpr size_t bytes_bound(size_t bytes) { return 2 + 5 + bytes; }

// --- Reading
// -----------------------------------------------------------------------------------------------------------

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : p_(bytes.data()), end_(p_ + bytes.size()) {}

  // The next field's tag, or 0 at the end and after a failure.
  uint32_t next() {
    if (p_ == end_ || failed_) return 0;
    uint64_t value = varint();
    if (value > UINT32_MAX || value < 8) fail();
    return failed_ ? 0 : uint32_t(value);
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && p_ != end_; shift += 7) {
      uint64_t byte = uint64_t(*p_++);
      if (shift == 63 && byte > 1) break;
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    fail();
    return 0;
  }

  uint32_t varint32() {
    uint64_t value = varint();
    if (value > UINT32_MAX) fail();
    return uint32_t(value);
  }

  uint64_t fixed64() { return fixed<uint64_t>(); }
  uint32_t fixed32() { return fixed<uint32_t>(); }

  std::span<const std::byte> bytes() {
    uint64_t size = varint();
    if (failed_ || size > size_t(end_ - p_)) {
      fail();
      return {};
    }
    const std::byte* start = p_;
    p_ += size;
    return {start, size_t(size)};
  }

  // A field that this side does not know, or one of another wire type: peers of one protocol version agree on both.
  void fail() {
    failed_ = true;
    p_ = end_;
  }
  bool failed() const { return failed_; }
  std::span<const std::byte> rest() const { return {p_, size_t(end_ - p_)}; }

 private:
  template <typename T>
  T fixed() {
    T value = 0;
    if (size_t(end_ - p_) < sizeof(T)) {
      fail();
      return 0;
    }
    std::memcpy(&value, p_, sizeof(T));
    p_ += sizeof(T);
    return value;
  }

  const std::byte* p_;
  const std::byte* end_;
  bool failed_ = false;
};

// --- The head of every reply
// -------------------------------------------------------------------------------------------

// Fields 1 and 2 of every reply, always first; outs follow from field 3.
struct ReplyHead {
  uint32_t result = 0;     // CUresult
  uint64_t watermark = 0;  // bulk blocks that must have landed before the program may see this reply
};

inline constexpr size_t kReplyHeadBound = 2 * kVarintBound;

inline std::byte* put_reply_head(std::byte* p, const ReplyHead& head) {
  if (head.result) p = put_u64<1>(p, head.result);
  if (head.watermark) p = put_u64<2>(p, head.watermark);
  return p;
}

// Splits a reply's body into head and outs; false if it is malformed.
inline bool read_reply_head(std::span<const std::byte> body, ReplyHead& head, std::span<const std::byte>& outs) {
  Reader reader(body);
  outs = body;
  for (uint32_t tag_read; (tag_read = reader.next()) != 0; outs = reader.rest()) {
    if (tag_read == tag(1, kVarint))
      head.result = reader.varint32();
    else if (tag_read == tag(2, kVarint))
      head.watermark = reader.varint();
    else
      break;
  }
  return !reader.failed();
}

}  // namespace bf::wire
