// mma with the documented fragment layout, and ldmatrix feeding it.
#include "tests/unit/ptx/harness.h"

namespace bf::ptx::test {
namespace {

// Small integers as f16, bf16 and f32 bits: all products and sums are exact.
uint32_t f16_bits(int v) {
  if (v == 0) return 0;
  int magnitude = v < 0 ? -v : v, exponent = 31 - __builtin_clz(unsigned(magnitude));
  return (v < 0 ? 0x8000u : 0u) | uint32_t(exponent + 15) << 10 |
         uint32_t(magnitude - (1 << exponent)) << (10 - exponent);
}
uint32_t f32_bits(int v) { return std::bit_cast<uint32_t>(float(v)); }

int a_value(int row, int k) { return (row * 3 + k * 5) % 11 - 5; }
int b_value(int k, int col) { return (k * 7 + col) % 9 - 4; }
int product(int row, int col, int depth) {
  int sum = 0;
  for (int k = 0; k < depth; ++k) sum += a_value(row, k) * b_value(k, col);
  return sum;
}

std::string matrix_kernel(const std::string& body) {
  return header() +
         ".visible .entry k(.param .u64 in, .param .u64 out) {\n.reg .u32 %r, %a<4>, %b<2>; .reg .f32 %c<4>; .reg .u64 "
         "%i, %o, %w;\n"
         "ld.param.u64 %i, [in]; ld.param.u64 %o, [out]; mov.u32 %r, %tid.x; mul.wide.u32 %w, %r, 16; add.u64 %o, %o, "
         "%w;\n"
         "mul.wide.u32 %w, %r, 32; add.u64 %i, %i, %w; mov.f32 %c0, 0f3F800000; mov.f32 %c1, %c0; mov.f32 %c2, %c0; "
         "mov.f32 %c3, %c0;\n" +
         body + "\nst.global.v4.f32 [%o], {%c0, %c1, %c2, %c3}; ret; }\n";
}

void expect_product(const float* out, int depth) {
  for (int lane = 0; lane < 32; ++lane)
    for (int r = 0; r < 4; ++r)
      ASSERT_EQ(out[lane * 4 + r], float(1 + product(lane / 4 + 8 * (r >> 1), 2 * (lane % 4) + (r & 1), depth)))
          << lane << " " << r;
}

TEST(PtxMatrix, HalfProducts) {
  Machine machine;
  machine.load(
      matrix_kernel("ld.global.v4.u32 {%a0, %a1, %a2, %a3}, [%i]; ld.global.v2.u32 {%b0, %b1}, [%i+16];\n"
             "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%c0, %c1, %c2, %c3}, {%a0, %a1, %a2, %a3}, {%b0, "
             "%b1}, {%c0, %c1, %c2, %c3};"));
  auto* in = machine.array<uint32_t>(32 * 8);
  auto* out = machine.array<float>(32 * 4);
  for (int lane = 0; lane < 32; ++lane) {
    int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 4; ++r)
      for (int h = 0; h < 2; ++h)
        in[lane * 8 + r] |= f16_bits(a_value(g + 8 * (r & 1), 8 * (r >> 1) + 2 * t + h)) << 16 * h;
    for (int r = 0; r < 2; ++r)
      for (int h = 0; h < 2; ++h) in[lane * 8 + 4 + r] |= f16_bits(b_value(8 * r + 2 * t + h, g)) << 16 * h;
  }
  auto outcome = machine.run("k", {1}, {32}, in, out);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  expect_product(out, 16);
}

TEST(PtxMatrix, Tf32Products) {
  Machine machine;
  machine.load(
      matrix_kernel("ld.global.v4.u32 {%a0, %a1, %a2, %a3}, [%i]; ld.global.v2.u32 {%b0, %b1}, [%i+16];\n"
             "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%c0, %c1, %c2, %c3}, {%a0, %a1, %a2, %a3}, {%b0, "
             "%b1}, {%c0, %c1, %c2, %c3};"));
  auto* in = machine.array<uint32_t>(32 * 8);
  auto* out = machine.array<float>(32 * 4);
  for (int lane = 0; lane < 32; ++lane) {
    int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 4; ++r) in[lane * 8 + r] = f32_bits(a_value(g + 8 * (r & 1), 4 * (r >> 1) + t));
    for (int r = 0; r < 2; ++r) in[lane * 8 + 4 + r] = f32_bits(b_value(4 * r + t, g));
  }
  ASSERT_TRUE(machine.run("k", {1}, {32}, in, out).ok());
  expect_product(out, 8);
}

TEST(PtxMatrix, LoadMatrix) {
  // Row i of matrix j is 8 halves; %i points at 32 bytes per lane, of which 16 go to shared memory as one row.
  Machine machine;
  machine.load(matrix_kernel(
      ".shared .align 16 .b8 s[512]; .reg .u64 %s, %x; mov.u64 %s, s; mul.wide.u32 %x, %r, 16; add.u64 %s, %s, %x;\n"
      "ld.global.v4.u32 {%a0, %a1, %a2, %a3}, [%i]; st.shared.v4.u32 [%s], {%a0, %a1, %a2, %a3}; bar.sync 0;\n"
      "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%a0, %a1, %a2, %a3}, [%s];\n"
      "mov.b32 %c0, %a0; mov.b32 %c1, %a1; mov.b32 %c2, %a2;\n"
      "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%a0, %a1, %a2, %a3}, [%s]; mov.b32 %c3, %a3;"));
  auto* in = machine.array<uint16_t>(32 * 16);
  auto* out = machine.array<uint32_t>(32 * 4);
  for (int lane = 0; lane < 32; ++lane)
    for (int k = 0; k < 8; ++k) in[lane * 16 + k] = uint16_t(lane * 100 + k);
  auto outcome = machine.run("k", {1}, {32}, in, out);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  for (uint32_t lane = 0; lane < 32; ++lane) {
    uint32_t row = lane / 4, column = 2 * (lane % 4);
    for (uint32_t j = 0; j < 3; ++j) {
      uint32_t first = (8 * j + row) * 100 + column;
      ASSERT_EQ(out[lane * 4 + j], first | (first + 1) << 16);
    }
    ASSERT_EQ(out[lane * 4 + 3], ((24 + column) * 100 + row) | ((25 + column) * 100 + row) << 16);
  }
}

}  // namespace
}  // namespace bf::ptx::test
