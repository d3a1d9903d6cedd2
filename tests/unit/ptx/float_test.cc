// Floating point, bit for bit, over special values and random ones, in all rounding directions. The reference is the
// host's arithmetic under fesetround, or exact arithmetic in wider types.
#include <fenv.h>

#include <bit>
#include <cmath>

#include "tests/unit/ptx/harness.h"

namespace bf::ptx::test {
namespace {

float as_f32(uint64_t bits) { return std::bit_cast<float>(uint32_t(bits)); }
double as_f64(uint64_t bits) { return std::bit_cast<double>(bits); }

constexpr std::pair<const char*, int> kRounds[] = {
    {"rn", FE_TONEAREST}, {"rz", FE_TOWARDZERO}, {"rm", FE_DOWNWARD}, {"rp", FE_UPWARD}};

template <typename F>
void check32(const std::string& code, const std::vector<std::array<uint64_t, 3>>& rows, int round, F f) {
  auto results = apply(code, "f32", "f32", "f32", "f32", rows);
  int failures = 0;
  for (size_t i = 0; i < rows.size() && failures < 3; ++i) {
    fesetround(round);
    volatile float a = as_f32(rows[i][0]), b = as_f32(rows[i][1]), c = as_f32(rows[i][2]);
    volatile float want = f(a, b, c);
    fesetround(FE_TONEAREST);
    uint32_t bits = std::isnan(want) ? 0x7fffffffu : std::bit_cast<uint32_t>(float(want));
    if (uint32_t(results[i]) != bits) {
      ++failures;
      ADD_FAILURE() << code << " of " << std::hex << rows[i][0] << ", " << rows[i][1] << ", " << rows[i][2] << ": got "
                    << results[i] << ", want " << bits;
    }
  }
}

template <typename F>
void check64(const std::string& code, const std::vector<std::array<uint64_t, 3>>& rows, int round, F f) {
  auto results = apply(code, "f64", "f64", "f64", "f64", rows);
  int failures = 0;
  for (size_t i = 0; i < rows.size() && failures < 3; ++i) {
    fesetround(round);
    volatile double a = as_f64(rows[i][0]), b = as_f64(rows[i][1]), c = as_f64(rows[i][2]);
    volatile double want = f(a, b, c);
    fesetround(FE_TONEAREST);
    bool same = std::isnan(want) ? std::isnan(as_f64(results[i])) : results[i] == std::bit_cast<uint64_t>(double(want));
    if (!same) {
      ++failures;
      ADD_FAILURE() << code << " of " << std::hex << rows[i][0] << ", " << rows[i][1] << ": got " << results[i];
    }
  }
}

TEST(PtxFloat, RoundedArithmetic32) {
  auto rows = interesting(32, 'f');
  for (auto [name, round] : kRounds) {
    std::string r = std::string(".") + name + ".f32 %d, %a, %b";
    check32("add" + r + ";", rows, round, [](float a, float b, float) { return a + b; });
    check32("sub" + r + ";", rows, round, [](float a, float b, float) { return a - b; });
    check32("mul" + r + ";", rows, round, [](float a, float b, float) { return a * b; });
    check32("div" + r + ";", rows, round, [](float a, float b, float) { return a / b; });
    check32("fma" + r + ", %c;", rows, round, [](float a, float b, float c) { return std::fma(a, b, c); });
    check32(std::string("sqrt.") + name + ".f32 %d, %a;", rows, round,
            [](float a, float, float) { return std::sqrt(a); });
    check32(std::string("rcp.") + name + ".f32 %d, %a;", rows, round, [](float a, float, float) { return 1.0f / a; });
  }
}

TEST(PtxFloat, RoundedArithmetic64) {
  auto rows = interesting(64, 'f');
  for (auto [name, round] : kRounds) {
    std::string r = std::string(".") + name + ".f64 %d, %a, %b";
    check64("add" + r + ";", rows, round, [](double a, double b, double) { return a + b; });
    check64("mul" + r + ";", rows, round, [](double a, double b, double) { return a * b; });
    check64("div" + r + ";", rows, round, [](double a, double b, double) { return a / b; });
    check64("fma" + r + ", %c;", rows, round, [](double a, double b, double c) { return std::fma(a, b, c); });
    check64(std::string("sqrt.") + name + ".f64 %d, %a;", rows, round,
            [](double a, double, double) { return std::sqrt(a); });
  }
}

float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

TEST(PtxFloat, FlushAndSaturate) {
  auto rows = interesting(32, 'f');
  check32("add.ftz.f32 %d, %a, %b;", rows, FE_TONEAREST,
          [](float a, float b, float) { return flushed(flushed(a) + flushed(b)); });
  check32("mul.ftz.f32 %d, %a, %b;", rows, FE_TONEAREST,
          [](float a, float b, float) { return flushed(flushed(a) * flushed(b)); });
  check32("add.sat.f32 %d, %a, %b;", rows, FE_TONEAREST, [](float a, float b, float) {
    float s = a + b;
    return s > 0 ? std::min(s, 1.0f) : 0.0f;
  });
}

TEST(PtxFloat, MinMax) {
  auto rows = interesting(32, 'f');
  auto least = [](float a, float b, float) {
    if (std::isnan(a)) return b;
    if (std::isnan(b)) return a;
    if (a == b) return std::signbit(a) ? a : b;
    return a < b ? a : b;
  };
  check32("min.f32 %d, %a, %b;", rows, FE_TONEAREST, least);
  check32("max.f32 %d, %a, %b;", rows, FE_TONEAREST, [&](float a, float b, float c) { return -least(-a, -b, c); });
  check32("min.NaN.f32 %d, %a, %b;", rows, FE_TONEAREST,
          [&](float a, float b, float c) { return std::isnan(a) || std::isnan(b) ? NAN : least(a, b, c); });
}

TEST(PtxFloat, ApproximationsAreClose) {
  auto rows = interesting(32, 'f');
  for (auto& row : rows) row[0] = std::bit_cast<uint32_t>(float(int32_t(row[0]) / 1e8));
  auto near = [&](const std::string& op, auto f, float tolerance) {
    auto results = apply(op + " %d, %a;", "f32", "f32", "f32", "f32", rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      double want = f(double(as_f32(rows[i][0])));
      float got = as_f32(results[i]);
      if (std::isnan(want)) {
        ASSERT_TRUE(std::isnan(got)) << op;
      } else if (std::fabs(want) < 1e30) {
        ASSERT_NEAR(got, want, tolerance * std::max(1.0, std::fabs(want))) << op;
      }
    }
  };
  near(
      "sin.approx.f32", [](double x) { return std::sin(x); }, 1e-6f);
  near(
      "cos.approx.f32", [](double x) { return std::cos(x); }, 1e-6f);
  near(
      "ex2.approx.f32", [](double x) { return std::exp2(x); }, 1e-6f);
  near(
      "lg2.approx.f32", [](double x) { return std::log2(x); }, 1e-6f);
  near(
      "rsqrt.approx.f32", [](double x) { return 1 / std::sqrt(x); }, 1e-6f);
  near(
      "tanh.approx.f32", [](double x) { return std::tanh(x); }, 1e-6f);
}

// Exact reference for f16: every f16 operation is exact in long double or decided by it.
double half_value(uint64_t h) {
  int exponent = int(h >> 10 & 31), fraction = int(h & 1023);
  double m = exponent == 31 ? (fraction ? NAN : INFINITY)
             : exponent     ? std::ldexp(1024 + fraction, exponent - 25)
                            : std::ldexp(fraction, -24);
  return h & 0x8000 ? -m : m;
}
uint16_t nearest_half(long double x) {
  if (std::isnan(x)) return 0x7fff;
  uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  x = std::fabs(x);
  if (x >= 65520.0L) return sign | 0x7c00;
  uint16_t low = 0, high = 0x7c00;  // find neighbours by bisection over the ordered bit patterns
  while (high - low > 1) {
    uint16_t mid = uint16_t((low + high) / 2);
    (half_value(mid) <= x ? low : high) = mid;
  }
  if (high == 0x7c00) return sign | low;
  long double down = x - half_value(low), up = half_value(high) - x;
  return uint16_t(sign | (down < up || (down == up && !(low & 1)) ? low : high));
}

TEST(PtxFloat, HalfArithmetic) {
  auto rows = interesting(16, 'f');
  struct Op {
    const char* code;
    std::function<long double(long double, long double, long double)> f;
  };
  for (const Op& op : {Op{"add.f16 %d, %a, %b;", [](auto a, auto b, auto) { return a + b; }},
                       Op{"sub.f16 %d, %a, %b;", [](auto a, auto b, auto) { return a - b; }},
                       Op{"mul.f16 %d, %a, %b;", [](auto a, auto b, auto) { return a * b; }},
                       Op{"fma.rn.f16 %d, %a, %b, %c;", [](auto a, auto b, auto c) { return a * b + c; }}}) {
    auto results = apply(op.code, "b16", "b16", "b16", "b16", rows);
    int failures = 0;
    for (size_t i = 0; i < rows.size() && failures < 3; ++i) {
      uint16_t want = nearest_half(op.f(half_value(rows[i][0]), half_value(rows[i][1]), half_value(rows[i][2])));
      if (uint16_t(results[i]) != want) {
        ++failures;
        ADD_FAILURE() << op.code << std::hex << " " << rows[i][0] << " " << rows[i][1] << " " << rows[i][2] << ": got "
                      << results[i] << ", want " << want;
      }
    }
  }
}

TEST(PtxFloat, ConvertFloatToInteger) {
  auto rows = interesting(32, 'f');
  for (auto& row : rows)
    if (row[2] & 1) row[0] = std::bit_cast<uint32_t>(float(int32_t(row[1])) / 1024);  // values of moderate size
  struct Mode {
    const char* name;
    double (*round)(double);
  };
  for (const Mode& mode :
       {Mode{"rni", [](double x) { return std::nearbyint(x); }}, Mode{"rzi", [](double x) { return std::trunc(x); }},
        Mode{"rmi", [](double x) { return std::floor(x); }}, Mode{"rpi", [](double x) { return std::ceil(x); }}}) {
    auto test = [&](const char* type, double low, double high, uint64_t nan, int bits) {
      auto results =
          apply(std::string("cvt.") + mode.name + "." + type + ".f32 %d, %a;", type, "f32", "f32", "f32", rows);
      uint64_t mask = bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
      for (size_t i = 0; i < rows.size(); ++i) {
        double x = as_f32(rows[i][0]);
        double r = mode.round(x);
        uint64_t want = std::isnan(x) ? nan
                        : r <= low    ? (low < 0 ? uint64_t{1} << (bits - 1) : 0)
                        : r >= high   ? (low < 0 ? mask >> 1 : mask)
                        : r < 0       ? uint64_t(int64_t(r)) & mask
                                      : uint64_t(r);
        ASSERT_EQ(results[i] & mask, want) << mode.name << " " << type << " of " << x;
      }
    };
    test("s32", -0x1p31, 0x1p31 - 1, 0, 32);
    test("u32", 0, 0x1p32 - 1, 0, 32);
    test("s64", -0x1p63, 0x1p63, uint64_t{1} << 63, 64);
    test("s16", -32768, 32767, 0, 16);
  }
}

TEST(PtxFloat, ConvertIntegerToFloat) {
  auto rows = interesting(64, 'i');
  for (auto [name, round] : kRounds) {
    auto results = apply(std::string("cvt.") + name + ".f32.s64 %d, %a;", "f32", "s64", "s64", "s64", rows);
    auto unsigned_results = apply(std::string("cvt.") + name + ".f64.u64 %d, %a;", "f64", "u64", "u64", "u64", rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      fesetround(round);
      volatile int64_t v = int64_t(rows[i][0]);
      volatile float want = float(v);
      // Exact in the 64-bit significand of long double; one rounding remains.
      volatile long double exact = static_cast<long double>(rows[i][0]);
      volatile double wide = double(exact);
      fesetround(FE_TONEAREST);
      ASSERT_EQ(uint32_t(results[i]), std::bit_cast<uint32_t>(float(want))) << name << " " << rows[i][0];
      ASSERT_EQ(unsigned_results[i], std::bit_cast<uint64_t>(double(wide))) << name << " " << rows[i][0];
    }
  }
}

TEST(PtxFloat, ConvertBetweenFloats) {
  auto rows = interesting(64, 'f');
  for (auto& row : rows)
    if (row[1] & 1) row[0] = std::bit_cast<uint64_t>(double(as_f32(row[1] >> 5)));
  for (auto [name, round] : kRounds) {
    auto results = apply(std::string("cvt.") + name + ".f32.f64 %d, %a;", "f32", "f64", "f64", "f64", rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      fesetround(round);
      volatile double x = as_f64(rows[i][0]);
      volatile float want = float(x);
      fesetround(FE_TONEAREST);
      ASSERT_EQ(uint32_t(results[i]), std::isnan(want) ? 0x7fffffffu : std::bit_cast<uint32_t>(float(want))) << name;
    }
  }
  auto singles = interesting(32, 'f');
  auto results = apply("cvt.rn.f16.f32 %d, %a;", "b16", "f32", "f32", "f32", singles);
  for (size_t i = 0; i < singles.size(); ++i) ASSERT_EQ(uint16_t(results[i]), nearest_half(as_f32(singles[i][0])));
  results = apply("cvt.rn.f16x2.f32 %d, %a, %b;", "b32", "f32", "f32", "f32", singles);
  for (size_t i = 0; i < singles.size(); ++i)
    ASSERT_EQ(uint32_t(results[i]),
              uint32_t(nearest_half(as_f32(singles[i][0]))) << 16 | nearest_half(as_f32(singles[i][1])));
  results = apply("cvt.rn.bf16.f32 %d, %a;", "b16", "f32", "f32", "f32", singles);
  for (size_t i = 0; i < singles.size(); ++i) {
    uint32_t bits = uint32_t(singles[i][0]);
    uint32_t want = std::isnan(as_f32(bits)) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    ASSERT_EQ(uint32_t(uint16_t(results[i])), want);
  }
}

TEST(PtxFloat, Comparisons) {
  auto rows = interesting(32, 'f');
  struct Case {
    const char* op;
    bool (*f)(float, float);
  };
  for (const Case& c :
       {Case{"eq", [](float a, float b) { return a == b; }},
        Case{"ne", [](float a, float b) { return a < b || a > b; }}, Case{"lt", [](float a, float b) { return a < b; }},
        Case{"ge", [](float a, float b) { return a >= b; }}, Case{"ltu", [](float a, float b) { return !(a >= b); }},
        Case{"neu", [](float a, float b) { return !(a == b); }},
        Case{"num", [](float a, float b) { return a == a && b == b; }},
        Case{"nan", [](float a, float b) { return a != a || b != b; }}}) {
    auto results = apply(std::string("setp.") + c.op + ".f32 %p, %a, %b; selp.u32 %d, 1, 0, %p;", "u32", "f32", "f32",
                         "f32", rows);
    for (size_t i = 0; i < rows.size(); ++i)
      ASSERT_EQ(results[i] & 0xffffffff, c.f(as_f32(rows[i][0]), as_f32(rows[i][1])))
          << c.op << std::hex << rows[i][0] << " " << rows[i][1];
  }
}

}  // namespace
}  // namespace bf::ptx::test
