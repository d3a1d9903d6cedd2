// Integer and bit instructions against plain C++ on wide types.
#include <limits>

#include "tests/unit/ptx/harness.h"

namespace bf::ptx::test {
namespace {

using u128 = unsigned __int128;
using s128 = __int128;

template <typename T>
constexpr const char* kName = nullptr;
template <>
constexpr const char* kName<uint16_t> = "u16";
template <>
constexpr const char* kName<int16_t> = "s16";
template <>
constexpr const char* kName<uint32_t> = "u32";
template <>
constexpr const char* kName<int32_t> = "s32";
template <>
constexpr const char* kName<uint64_t> = "u64";
template <>
constexpr const char* kName<int64_t> = "s64";

template <typename D, typename T>
void check(const std::string& op, std::function<D(T, T, T)> expected, int operands, const char* c_type = nullptr) {
  std::string t = kName<T>;
  std::string code = op + " %d, %a" + (operands > 1 ? ", %b" : "") + (operands > 2 ? ", %c" : "") + ";";
  auto rows = interesting(sizeof(T) * 8, 'i');
  auto results = apply(code, kName<D>, t, t, c_type ? c_type : operands > 2 ? kName<T> : t, rows);
  int failures = 0;
  for (size_t i = 0; i < rows.size() && failures < 3; ++i) {
    D want = expected(T(rows[i][0]), T(rows[i][1]), T(rows[i][2]));
    if (D(results[i]) != want) {
      ++failures;
      ADD_FAILURE() << code << " of " << std::hex << rows[i][0] << ", " << rows[i][1] << ", " << rows[i][2] << ": got "
                    << uint64_t(D(results[i])) << ", want " << uint64_t(want);
    }
  }
}

template <typename T>
void arithmetic() {
  std::string t = kName<T>;
  using U = std::make_unsigned_t<T>;
  check<T, T>(
      "add." + t, [](T a, T b, T) { return T(U(a) + U(b)); }, 2);
  check<T, T>(
      "sub." + t, [](T a, T b, T) { return T(U(a) - U(b)); }, 2);
  check<T, T>(
      "mul.lo." + t, [](T a, T b, T) { return T(u128(a) * u128(b)); }, 2);
  check<T, T>(
      "mul.hi." + t,
      [](T a, T b, T) {
        return T(std::is_signed_v<T> ? u128((s128(a) * s128(b)) >> sizeof(T) * 8)
                                     : (u128(a) * u128(b)) >> sizeof(T) * 8);
      },
      2);
  check<T, T>(
      "mad.lo." + t, [](T a, T b, T c) { return T(u128(a) * u128(b) + u128(c)); }, 3);
  check<T, T>(
      "div." + t, [](T a, T b, T) { return b == 0 ? T(~T(0)) : T(s128(a) / s128(b)); }, 2);
  check<T, T>(
      "rem." + t, [](T a, T b, T) { return b == 0 ? a : T(s128(a) % s128(b)); }, 2);
  check<T, T>(
      "min." + t, [](T a, T b, T) { return std::min(a, b); }, 2);
  check<T, T>(
      "max." + t, [](T a, T b, T) { return std::max(a, b); }, 2);
  check<T, T>(
      "sad." + t, [](T a, T b, T c) { return T(s128(c) + (a < b ? s128(b) - a : s128(a) - b)); }, 3);
  if constexpr (std::is_signed_v<T>) {
    check<T, T>(
        "abs." + t, [](T a, T, T) { return T(a < 0 ? 0 - U(a) : U(a)); }, 1);
    check<T, T>(
        "neg." + t, [](T a, T, T) { return T(0 - U(a)); }, 1);
  }
}

TEST(PtxInt, Arithmetic) {
  arithmetic<uint16_t>();
  arithmetic<int16_t>();
  arithmetic<uint32_t>();
  arithmetic<int32_t>();
  arithmetic<uint64_t>();
  arithmetic<int64_t>();
}

TEST(PtxInt, WideAndSaturating) {
  check<uint32_t, uint16_t>(
      "mul.wide.u16", [](uint16_t a, uint16_t b, uint16_t) { return uint32_t(a) * b; }, 2);
  check<int64_t, int32_t>(
      "mul.wide.s32", [](int32_t a, int32_t b, int32_t) { return int64_t(a) * b; }, 2);
  check<uint64_t, uint32_t>(
      "mul.wide.u32", [](uint32_t a, uint32_t b, uint32_t) { return uint64_t(a) * b; }, 2);
  auto clamp = [](int64_t v) { return int32_t(std::clamp<int64_t>(v, INT32_MIN, INT32_MAX)); };
  check<int32_t, int32_t>(
      "add.sat.s32", [&](int32_t a, int32_t b, int32_t) { return clamp(int64_t(a) + b); }, 2);
  check<int32_t, int32_t>(
      "sub.sat.s32", [&](int32_t a, int32_t b, int32_t) { return clamp(int64_t(a) - b); }, 2);
  check<int32_t, int32_t>(
      "mul24.lo.s32", [](int32_t a, int32_t b, int32_t) { return int32_t(int64_t(a << 8 >> 8) * (b << 8 >> 8)); }, 2);
  check<uint32_t, uint32_t>(
      "mul24.hi.u32",
      [](uint32_t a, uint32_t b, uint32_t) { return uint32_t((uint64_t(a & 0xffffff) * (b & 0xffffff)) >> 16); }, 2);
}

template <typename T>
T field(T a, uint32_t b, uint32_t c) {  // word for word from the ISA's definition
  using U = std::make_unsigned_t<T>;
  int msb = sizeof(T) * 8 - 1;
  int pos = int(b & 0xff), len = int(c & 0xff);
  bool sbit = std::is_signed_v<T> && len != 0 && (U(a) >> std::min(pos + len - 1, msb) & 1);
  U d = 0;
  for (int i = 0; i <= msb; ++i) d |= U(i < len && pos + i <= msb ? U(a) >> (pos + i) & 1 : U(sbit)) << i;
  return T(d);
}

TEST(PtxInt, Fields) {
  check<uint32_t, uint32_t>(
      "bfe.u32", [](uint32_t a, uint32_t b, uint32_t c) { return field<uint32_t>(a, b, c); }, 3);
  check<int32_t, int32_t>(
      "bfe.s32", [](int32_t a, int32_t b, int32_t c) { return field<int32_t>(a, uint32_t(b), uint32_t(c)); }, 3);
  auto rows = interesting(64, 'i');
  for (auto& row : rows) row[1] &= 0xffffffff, row[2] &= 0xffffffff;
  auto results = apply("bfe.s64 %d, %a, %b, %c;", "s64", "s64", "u32", "u32", rows);
  for (size_t i = 0; i < rows.size(); ++i)
    ASSERT_EQ(int64_t(results[i]), field<int64_t>(int64_t(rows[i][0]), uint32_t(rows[i][1]), uint32_t(rows[i][2])))
        << i;
  results = apply("bfi.b64 %d, %a, 0x123456789abcdef0, %b, %c;", "b64", "b64", "u32", "u32", rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    uint64_t want = 0x123456789abcdef0;
    int pos = int(rows[i][1] & 0xff), len = int(rows[i][2] & 0xff);
    for (int k = 0; k < len && pos + k <= 63; ++k)
      want = (want & ~(uint64_t{1} << (pos + k))) | (rows[i][0] >> k & 1) << (pos + k);
    ASSERT_EQ(results[i], want) << i;
  }
}

TEST(PtxInt, Bits) {
  using U = uint32_t;
  check<U, U>(
      "and.b32", [](U a, U b, U) { return a & b; }, 2);
  check<U, U>(
      "xor.b32", [](U a, U b, U) { return a ^ b; }, 2);
  check<U, U>(
      "not.b32", [](U a, U, U) { return ~a; }, 1);
  check<U, U>(
      "cnot.b32", [](U a, U, U) { return U(a == 0); }, 1);
  check<U, U>(
      "shl.b32", [](U a, U b, U) { return b > 31 ? 0 : a << b; }, 2);
  check<U, U>(
      "shr.u32", [](U a, U b, U) { return b > 31 ? 0 : a >> b; }, 2);
  check<int32_t, int32_t>(
      "shr.s32", [](int32_t a, int32_t b, int32_t) { return a >> std::min(U(b), 31u); }, 2);
  check<U, U>(
      "shf.l.wrap.b32", [](U a, U b, U c) { return U(((uint64_t(b) << 32 | a) << (c & 31)) >> 32); }, 3);
  check<U, U>(
      "shf.r.clamp.b32", [](U a, U b, U c) { return U((uint64_t(b) << 32 | a) >> std::min(c, 32u)); }, 3);
  check<U, U>(
      "popc.b32", [](U a, U, U) { return U(__builtin_popcount(a)); }, 1);
  check<U, uint64_t>(
      "popc.b64", [](uint64_t a, uint64_t, uint64_t) { return U(__builtin_popcountll(a)); }, 1);
  check<U, U>(
      "clz.b32",
      [](U a, U, U) {
        U n = 0;
        while (n < 32 && !(a >> (31 - n) & 1)) ++n;
        return n;
      },
      1);
  check<U, U>(
      "brev.b32",
      [](U a, U, U) {
        U r = 0;
        for (int i = 0; i < 32; ++i) r |= (a >> i & 1) << (31 - i);
        return r;
      },
      1);
  check<U, U>(
      "bfind.u32",
      [](U a, U, U) {
        for (int i = 31; i >= 0; --i)
          if (a >> i & 1) return U(i);
        return ~0u;
      },
      1);
  check<U, int32_t>(
      "bfind.shiftamt.s32",
      [](int32_t a, int32_t, int32_t) {
        U v = U(a < 0 ? ~a : a);
        for (int i = 31; i >= 0; --i)
          if (v >> i & 1) return U(31 - i);
        return ~0u;
      },
      1);
  check<U, U>(
      "bmsk.clamp.b32",
      [](U a, U b, U) {
        U r = 0;
        for (uint64_t i = a; i < 32 && i < uint64_t(a) + b; ++i) r |= 1u << i;
        return r;
      },
      2);
  check<int32_t, int32_t>(
      "szext.wrap.s32",
      [](int32_t a, int32_t b, int32_t) {
        int n = b & 31;
        return n == 0 ? 0 : a << (32 - n) >> (32 - n);
      },
      2);
  check<U, U>(
      "prmt.b32",
      [](U a, U b, U c) {
        U r = 0;
        for (int k = 0; k < 4; ++k) {
          U s = c >> 4 * k & 15, byte = U((uint64_t(b) << 32 | a) >> 8 * (s & 7)) & 255;
          r |= (s & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * k;
        }
        return r;
      },
      3);
  for (int table : {0x00, 0x1a, 0x96, 0xca, 0xe8, 0xff}) {
    auto rows = interesting(32, 'i');
    auto results = apply("lop3.b32 %d, %a, %b, %c, " + std::to_string(table) + ";", "b32", "b32", "b32", "b32", rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      U want = 0;
      for (int k = 0; k < 32; ++k) {
        int index = int((rows[i][0] >> k & 1) << 2 | (rows[i][1] >> k & 1) << 1 | (rows[i][2] >> k & 1));
        want |= U(table >> index & 1) << k;
      }
      ASSERT_EQ(U(results[i]), want) << table;
    }
  }
}

TEST(PtxInt, CarryChain) {
  // A 128-bit addition and a 32x32+64 multiply-add in halves.
  auto rows = interesting(64, 'i');
  auto results = apply(".reg .u64 %l; add.cc.u64 %l, %a, %b; addc.u64 %d, %c, 0;", "u64", "u64", "u64", "u64", rows);
  for (size_t i = 0; i < rows.size(); ++i)
    ASSERT_EQ(results[i], uint64_t((u128(rows[i][0]) + rows[i][1]) >> 64) + rows[i][2]);
  results = apply(".reg .u64 %l; sub.cc.u64 %l, %a, %b; subc.u64 %d, %c, 0;", "u64", "u64", "u64", "u64", rows);
  for (size_t i = 0; i < rows.size(); ++i) ASSERT_EQ(results[i], rows[i][2] - (rows[i][0] < rows[i][1]));
  results = apply(
      ".reg .u32 %h, %l, %u, %v, %y; mov.b64 {%u, %v}, %c; cvt.u32.u64 %h, %a; cvt.u32.u64 %l, %b;"
      "mad.lo.cc.u32 %u, %h, %l, %u; madc.hi.u32 %v, %h, %l, %v; mov.b64 %d, {%u, %v};",
      "b64", "u64", "u64", "b64", rows);
  for (size_t i = 0; i < rows.size(); ++i)
    ASSERT_EQ(results[i], uint64_t(uint32_t(rows[i][0])) * uint32_t(rows[i][1]) + rows[i][2]);
}

TEST(PtxInt, DotProducts) {
  auto rows = interesting(32, 'i');
  auto results = apply("dp4a.u32.s32 %d, %a, %b, %c;", "s32", "u32", "u32", "s32", rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    int32_t want = int32_t(rows[i][2]);
    for (int k = 0; k < 4; ++k)
      want = int32_t(uint32_t(want) + uint32_t(int32_t(uint8_t(rows[i][0] >> 8 * k)) * int8_t(rows[i][1] >> 8 * k)));
    ASSERT_EQ(int32_t(results[i]), want);
  }
}

}  // namespace
}  // namespace bf::ptx::test
