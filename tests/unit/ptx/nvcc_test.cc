// CUDA C++ through nvcc, optimised and with -G, against the same computation here.
#include <cmath>
#include <fstream>
#include <sstream>

#include "tests/unit/ptx/harness.h"

namespace bf::ptx::test {
namespace {

class PtxNvcc : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
#ifdef BF_PTX_DIR
    std::ifstream file(std::string(BF_PTX_DIR "/kernels_") + GetParam() + ".ptx");
    std::stringstream text;
    text << file.rdbuf();
    machine.load(text.str());
    ASSERT_TRUE(machine.image);
#else
    GTEST_SKIP() << "nvcc was not found when the tests were built";
#endif
  }
  Machine machine;
};
INSTANTIATE_TEST_SUITE_P(, PtxNvcc, testing::Values("O", "G"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(PtxNvcc, VectorAdd) {
  const int n = 1000;
  float *a = machine.array<float>(n), *b = machine.array<float>(n), *c = machine.array<float>(n);
  for (int i = 0; i < n; ++i) a[i] = float(i), b[i] = 0.25f * float(i);
  auto outcome = machine.run("vector_add", {8}, {128}, c, a, b, n);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  for (int i = 0; i < n; ++i) ASSERT_EQ(c[i], std::fma(b[i], 0.5f + float(i & 3), a[i]));
}

TEST_P(PtxNvcc, Reduce) {
  const int n = 100'000;
  float *in = machine.array<float>(n), *out = machine.array<float>(1);
  for (int i = 0; i < n; ++i) in[i] = float(i % 10);
  auto outcome = machine.run("reduce", {20}, {256}, out, in, n);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  EXPECT_EQ(*out, 450'000.0f);
}

TEST_P(PtxNvcc, MatrixProduct) {
  const int n = 64;
  float *a = machine.array<float>(n * n), *b = machine.array<float>(n * n), *c = machine.array<float>(n * n);
  for (int i = 0; i < n * n; ++i) a[i] = float(i % 7), b[i] = float(i % 5) - 2;
  Grid grid{{4, 4, 1}, {16, 16, 1}, {}, 2048, false};
  auto outcome = machine.run_with(grid, "matmul", c, a, b, n);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  for (int row = 0; row < n; ++row)
    for (int col = 0; col < n; ++col) {
      float want = 0;
      for (int k = 0; k < n; ++k) want += a[row * n + k] * b[k * n + col];
      ASSERT_EQ(c[row * n + col], want) << row << "," << col;
    }
  grid.dynamic_shared_bytes = 1024;  // half of what the kernel uses
  EXPECT_EQ(machine.run_with(grid, "matmul", c, a, b, n).code, LaunchCode::kIllegalAddress);
}

TEST_P(PtxNvcc, CallsThroughPointersAndRecursion) {
  int* out = machine.array<int>(64);
  auto outcome = machine.run("calls", {1}, {64}, out, 12);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  std::function<int(int)> fib = [&](int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); };
  for (int i = 0; i < 64; ++i) ASSERT_EQ(out[i], (i & 1 ? i * 2 : i + 1) * 1000 + fib(i % 12) + 3) << i;
}

TEST_P(PtxNvcc, StructuresByValue) {
  struct Big {
    int a[10];
    double d;
  } in{}, *out = machine.array<Big>(20);
  for (int i = 0; i < 10; ++i) in.a[i] = i;
  in.d = 1.25;
  auto outcome = machine.run("structures", {1}, {20}, in, out);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  for (int t = 0; t < 20; ++t) {
    for (int i = 0; i < 10; ++i) ASSERT_EQ(out[t].a[i], i + (i == t % 10 ? 100 : 0));
    ASSERT_EQ(out[t].d, 2.5);
  }
}

TEST_P(PtxNvcc, Divergence) {
  int* steps = machine.array<int>(500);
  auto outcome = machine.run("collatz", {5}, {100}, steps);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  for (int i = 0; i < 500; ++i) {
    int n = 0;
    for (unsigned v = unsigned(i) + 1; v != 1; ++n) v = v & 1 ? 3 * v + 1 : v / 2;
    ASSERT_EQ(steps[i], n) << i;
  }
  int* out = machine.array<int>(64);
  ASSERT_TRUE(machine.run("choose", {1}, {64}, out).ok());
  for (int i = 0; i < 64; ++i) {
    int want[] = {5,     i * 3, 7, __builtin_popcount(unsigned(i)), i ^ 0x55, i ? __builtin_clz(unsigned(i)) : 32,
                  i / 3, -i,    99};
    ASSERT_EQ(out[i], want[i % 9]) << i;
  }
}

TEST_P(PtxNvcc, WarpOperations) {
  int* out = machine.array<int>(64 * 6);
  auto outcome = machine.run("warp_operations", {1}, {64}, out);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  for (int t = 0; t < 64; ++t) {
    int lane = t & 31;
    const int* o = out + t * 6;
    unsigned same = 0;
    for (int k = 0; k < 32; ++k) same |= unsigned(k / 5 == lane / 5) << k;
    EXPECT_EQ(o[0], 10416);
    EXPECT_EQ(o[1], (lane / 8 * 8) * 8 + 28);
    EXPECT_EQ(o[2], lane % 16 < 3 ? lane : lane - 3);
    EXPECT_EQ(unsigned(o[3]), 0x49249249u);
    EXPECT_EQ(unsigned(o[4]), same);
    EXPECT_EQ(o[5], lane & 1 ? 31 * 31 : 240);
  }
}

TEST_P(PtxNvcc, AtomicsUnderContention) {
  const int n = 20'000;
  auto* bins = machine.array<unsigned>(64);
  auto* total = machine.array<unsigned long long>(1);
  auto outcome = machine.run("histogram", {16}, {128}, bins, total, n);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  std::vector<unsigned> want(61);
  for (int i = 0; i < n; ++i) ++want[(i * 7) % 61];
  for (int i = 0; i < 61; ++i) ASSERT_EQ(bins[i], want[i]);
  EXPECT_EQ(*total, uint64_t(n) * (n - 1) / 2);
  EXPECT_EQ(bins[62], unsigned(n - 1));
  EXPECT_EQ(bins[63], unsigned(n % 10));
}

TEST_P(PtxNvcc, SpinLockBetweenLanes) {
  int* lock = machine.array<int>(2);
  auto outcome = machine.run("spin_lock", {4}, {96}, lock, 5);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  EXPECT_EQ(lock[1], 4 * 96 * 5);
}

TEST_P(PtxNvcc, GridBarrier) {
  for (unsigned threads : {1u, 2u}) {
    machine.threads = threads;
    int* counter = machine.array<int>(2);
    auto outcome = machine.run_with(Grid{{12}, {64}, {}, 0, true}, "grid_barrier", counter, 5);
    ASSERT_TRUE(outcome.ok()) << outcome.message;
    EXPECT_EQ(counter[0], 12 * 64 * 5);
    EXPECT_EQ(counter[1], 0);
  }
}

TEST_P(PtxNvcc, BlockWaitsForALaterBlock) {
  machine.threads = 1;
  int* flag = machine.array<int>(2);
  auto outcome = machine.run("wait_for_last", {50}, {32}, flag);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  EXPECT_EQ(flag[1], 7);
}

TEST_P(PtxNvcc, Printf) {
  auto outcome = machine.run("say", {1}, {32}, 5);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  EXPECT_EQ(machine.printed, "thread 5 of 32:  7.50 text 1099511627776 x%|42    |ff\n");
}

TEST_P(PtxNvcc, AssertAndTrap) {
  int* v = machine.array<int>(32);
  EXPECT_TRUE(machine.run("check", {1}, {32}, v).ok());
  v[3] = v[9] = 1;
  EXPECT_EQ(machine.run("check", {1}, {32}, v).code, LaunchCode::kAssert);
  ASSERT_EQ(machine.assertions.size(), 2u);
  EXPECT_EQ(machine.assertions[0].message, "v[threadIdx.x] == 0");
  EXPECT_EQ(machine.assertions[1].where.thread.x, 9u);
  EXPECT_NE(machine.assertions[0].file.find("kernels.cu"), std::string::npos);
  auto outcome = machine.run("trap_if", {1}, {32}, v);
  EXPECT_EQ(outcome.code, LaunchCode::kTrap);
  EXPECT_EQ(outcome.where.thread.x, 3u);
}

TEST_P(PtxNvcc, BadAddresses) {
  int* v = machine.array<int>(100);
  EXPECT_TRUE(machine.run("out_of_bounds", {1}, {1}, v, 99).ok());
  auto outcome = machine.run("out_of_bounds", {1}, {1}, v, 100);
  EXPECT_EQ(outcome.code, LaunchCode::kIllegalAddress);
  EXPECT_EQ(outcome.address, reinterpret_cast<uint64_t>(v + 100));
  EXPECT_EQ(machine.run("out_of_bounds", {1}, {1}, v, -1).code, LaunchCode::kIllegalAddress);
  EXPECT_EQ(machine.run("out_of_bounds", {1}, {1}, static_cast<int*>(nullptr), 0).code, LaunchCode::kIllegalAddress);
  EXPECT_EQ(machine.run("misaligned", {1}, {1}, v).code, LaunchCode::kMisalignedAddress);
  uint64_t constant = machine.allocate(64, false);
  EXPECT_EQ(machine.run("out_of_bounds", {1}, {1}, constant, 0).code, LaunchCode::kIllegalAddress);
}

TEST_P(PtxNvcc, EndlessRecursion) {
  int* v = machine.array<int>(2);
  EXPECT_EQ(machine.run("recurse_forever", {1}, {32}, v).code, LaunchCode::kStackOverflow);
}

TEST_P(PtxNvcc, DeviceHeap) {
  DeviceHeap device_heap(machine.allocate(1 << 20), 1 << 20);
  machine.heap = &device_heap;
  int* out = machine.array<int>(64);
  auto outcome = machine.run("allocate", {1}, {64}, out);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  for (int i = 0; i < 64; ++i) ASSERT_EQ(out[i], i * (i + 1) / 2);
  EXPECT_NE(device_heap.allocate((1 << 20) - 64), 0u) << "everything was freed and merged";
}

TEST_P(PtxNvcc, Mathematics) {
  const int n = 2000;
  auto* d = machine.array<double>(n);
  auto* f = machine.array<float>(n);
  std::vector<double> in(n);
  for (int i = 0; i < n; ++i) in[i] = d[i] = (i - 1000) * 0.0137, f[i] = float(in[i]);
  auto outcome = machine.run("mathematics", {16}, {128}, d, f, n);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  for (int i = 0; i < n; ++i) {
    double x = in[i], y = float(x);
    double want = std::sin(x) + std::pow(std::fabs(x), 0.3) + std::exp(-x) + std::erf(x) + std::log(std::fabs(x) + 1);
    ASSERT_NEAR(d[i], want, 1e-13 * std::max(1.0, std::fabs(want))) << x;
    want = std::sin(y) + std::pow(std::fabs(y), 0.3) + std::exp(-y) + std::tanh(y) + y / 3 + std::sqrt(std::fabs(y));
    ASSERT_NEAR(f[i], want, 4e-6 * std::max(1.0, std::fabs(want))) << y;
  }
}

TEST_P(PtxNvcc, Halves) {
  auto* h = machine.array<uint16_t>(32);
  auto* b = machine.array<uint16_t>(32);
  for (int i = 0; i < 32; ++i) h[i] = 0x4400, b[i] = 0x4040;  // 4.0 and 3.0
  auto outcome = machine.run("halves", {1}, {32}, h, b);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  for (int i = 0; i < 32; ++i) {
    ASSERT_EQ(h[i], 0x4580);  // (sqrt(4) + 0.25) * 2 + 1 = 5.5
    ASSERT_EQ(b[i], 0x40e0);  // 3 * 2 + 1 = 7
  }
}

TEST_P(PtxNvcc, TensorProduct) {
  auto *a = machine.array<uint16_t>(256), *b = machine.array<uint16_t>(256);
  auto* c = machine.array<float>(256);
  auto half = [](int v) { return uint16_t(v == 0 ? 0 : v == 1 ? 0x3c00 : v == 2 ? 0x4000 : 0xbc00); };  // 0 1 2 -1
  int va[256], vb[256];
  for (int i = 0; i < 256; ++i)
    va[i] = (i * 7) % 4, vb[i] = (i * 5 + i / 16) % 4, a[i] = half(va[i]), b[i] = half(vb[i]);
  auto outcome = machine.run("tensor_product", {1}, {32}, c, a, b);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  auto value = [](int v) { return v == 3 ? -1 : v; };
  for (int row = 0; row < 16; ++row)
    for (int col = 0; col < 16; ++col) {
      int want = 1;
      for (int k = 0; k < 16; ++k) want += value(va[row * 16 + k]) * value(vb[col * 16 + k]);
      ASSERT_EQ(c[row * 16 + col], float(want)) << row << "," << col;
    }
}

}  // namespace
}  // namespace bf::ptx::test
