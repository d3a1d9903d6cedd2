// The PTX type names and what the engine knows about each.
#pragma once

#include <cstdint>
#include <string_view>

namespace bf::ptx {

// clang-format off
enum class Type : uint8_t {
  kNone, kPred, kB8, kB16, kB32, kB64, kB128, kU8, kU16, kU32, kU64, kS8, kS16, kS32, kS64,
  kF16, kF16x2, kBf16, kBf16x2, kTf32, kE4m3, kE5m2, kE4m3x2, kE5m2x2, kF32, kF64, kU16x2, kS16x2,
};
// clang-format on

struct TypeInfo {
  std::string_view name;
  uint8_t bytes;  // 0: predicate or none
  char kind;      // 'p'redicate, 'b'its, 'u'nsigned, 's'igned, 'f'loating
};

inline constexpr TypeInfo kTypes[] = {
    {"", 0, ' '},       {"pred", 0, 'p'}, {"b8", 1, 'b'},    {"b16", 2, 'b'},   {"b32", 4, 'b'},    {"b64", 8, 'b'},
    {"b128", 16, 'b'},  {"u8", 1, 'u'},   {"u16", 2, 'u'},   {"u32", 4, 'u'},   {"u64", 8, 'u'},    {"s8", 1, 's'},
    {"s16", 2, 's'},    {"s32", 4, 's'},  {"s64", 8, 's'},   {"f16", 2, 'f'},   {"f16x2", 4, 'f'},  {"bf16", 2, 'f'},
    {"bf16x2", 4, 'f'}, {"tf32", 4, 'f'}, {"e4m3", 1, 'f'},  {"e5m2", 1, 'f'},  {"e4m3x2", 2, 'f'}, {"e5m2x2", 2, 'f'},
    {"f32", 4, 'f'},    {"f64", 8, 'f'},  {"u16x2", 4, 'u'}, {"s16x2", 4, 's'},
};

inline Type parse_type(std::string_view name) {
  for (size_t i = 1; i < sizeof kTypes / sizeof *kTypes; ++i)
    if (kTypes[i].name == name) return Type(i);
  return Type::kNone;
}
inline uint32_t type_bytes(Type type) { return kTypes[size_t(type)].bytes; }
inline char type_kind(Type type) { return kTypes[size_t(type)].kind; }
inline std::string_view type_name(Type type) { return kTypes[size_t(type)].name; }

}  // namespace bf::ptx
