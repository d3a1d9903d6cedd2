// Hand-written PTX: barriers, divergence, address spaces, and what the launch refuses.
#include <atomic>
#include <chrono>
#include <thread>

#include "tests/unit/ptx/harness.h"

namespace bf::ptx::test {
namespace {

std::string kernel(const std::string& body) {
  return header() +
         ".visible .entry k(.param .u64 p) {\n.reg .pred %p<8>; .reg .u32 %r<20>; .reg .u64 %d<10>;\n"
         "ld.param.u64 %d0, [p]; mov.u32 %r0, %tid.x; mul.wide.u32 %d1, %r0, 4; add.u64 %d1, %d0, %d1;\n" +
         body + "\nret;\n}\n";
}

TEST(PtxControl, IndexedBranch) {
  Machine machine;
  machine.load(
      kernel("and.b32 %r1, %r0, 3; targets: .branchtargets A, B, C, D; brx.idx %r1, targets;\n"
             "A: mov.u32 %r2, 10; bra E; B: mov.u32 %r2, 20; bra E; C: mov.u32 %r2, 30; bra E; D: mov.u32 %r2, 40;\n"
             "E: st.global.u32 [%d1], %r2;"));
  auto* out = machine.array<uint32_t>(32);
  auto outcome = machine.run("k", {1}, {32}, out);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(out[i], 10 * ((i & 3) + 1));
}

TEST(PtxControl, BarrierReductionsAndNamedBarriers) {
  Machine machine;
  machine.load(
      kernel("and.b32 %r1, %r0, 1; setp.eq.u32 %p0, %r1, 0; barrier.red.popc.u32 %r2, 0, %p0;\n"
             "barrier.red.or.pred %p1, 0, %p0; barrier.red.and.pred %p2, 0, %p0; bar.red.popc.u32 %r3, 0, !%p0;\n"
             "selp.u32 %r4, 100, 0, %p1; selp.u32 %r5, 1000, 0, %p2; add.u32 %r2, %r2, %r4; add.u32 %r2, %r2, %r5;\n"
             "setp.lt.u32 %p3, %r0, 64; @!%p3 bra other; bar.sync 1, 64; bra done; other: bar.sync 2, 32; done:\n"
             "add.u32 %r2, %r2, %r3; st.global.u32 [%d1], %r2;"));
  auto* out = machine.array<uint32_t>(96);
  auto outcome = machine.run("k", {1}, {96}, out);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  for (int i = 0; i < 96; ++i) EXPECT_EQ(out[i], 48u + 100u + 48u);
}

TEST(PtxControl, BarrierCountsEndedThreads) {
  Machine machine;
  machine.load(kernel("setp.ge.u32 %p0, %r0, 40; @%p0 exit; bar.sync 0; st.global.u32 [%d1], 1;"));
  auto* out = machine.array<uint32_t>(128);
  ASSERT_TRUE(machine.run("k", {1}, {128}, out).ok());
  for (int i = 0; i < 128; ++i) EXPECT_EQ(out[i], i < 40 ? 1u : 0u);
}

TEST(PtxControl, DeadlockIsReported) {
  Machine machine;
  machine.load(kernel("setp.ge.u32 %p0, %r0, 32; @%p0 bar.sync 1, 64; @!%p0 bar.sync 2, 64;"));
  EXPECT_EQ(machine.run("k", {1}, {64}, machine.array<uint32_t>(64)).code, LaunchCode::kDeadlock);
}

TEST(PtxControl, LanesWaitForEachOtherInOneWarp) {
  // Odd lanes spin until even lanes, which come later in the text, have written.
  Machine machine;
  auto* out = machine.array<uint32_t>(32);
  machine.load(
      kernel("and.b32 %r1, %r0, 1; setp.eq.u32 %p0, %r1, 0; @%p0 bra writer;\n"
             "wait: ld.volatile.global.u32 %r2, [%d1+-4]; setp.eq.u32 %p1, %r2, 0; @%p1 bra wait; bra done;\n"
             "writer: mov.u32 %r2, 5; done: st.global.u32 [%d1], %r2;"));
  auto outcome = machine.run("k", {1}, {32}, out);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  for (int i = 0; i < 32; ++i) EXPECT_EQ(out[i], 5u);
}

TEST(PtxControl, ShuffleAcrossDivergedPaths) {
  // The same shuffle written twice, on two sides of a branch: all lanes of the mask must meet.
  Machine machine;
  machine.load(
      kernel("and.b32 %r1, %r0, 1; setp.eq.u32 %p0, %r1, 0; @%p0 bra even;\n"
             "shfl.sync.bfly.b32 %r2, %r0, 1, 31, 0xffffffff; bra done;\n"
             "even: shfl.sync.bfly.b32 %r2, %r0, 1, 31, 0xffffffff; done: st.global.u32 [%d1], %r2;"));
  auto* out = machine.array<uint32_t>(32);
  auto outcome = machine.run("k", {1}, {32}, out);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(out[i], i ^ 1);
}

TEST(PtxControl, GenericAddresses) {
  Machine machine;
  machine.load(kernel(
      ".shared .align 8 .b8 s[256]; .local .align 8 .b8 l[16];\n"
      "mov.u64 %d2, s; cvta.shared.u64 %d3, %d2; mov.u64 %d4, l; cvta.local.u64 %d5, %d4;\n"
      "st.u32 [%d5+4], %r0; ld.u32 %r1, [%d5+4]; ld.local.u32 %r6, [l+4];\n"
      "mul.wide.u32 %d6, %r0, 4; add.u64 %d3, %d3, %d6; st.u32 [%d3], %r1; bar.sync 0;\n"
      "isspacep.shared %p0, %d3; isspacep.local %p1, %d5; isspacep.global %p2, %d1; isspacep.shared %p3, %d1;\n"
      "selp.u32 %r2, 1, 0, %p0; selp.u32 %r3, 2, 0, %p1; selp.u32 %r4, 4, 0, %p2; selp.u32 %r5, 8, 0, %p3;\n"
      "add.u32 %r2, %r2, %r3; add.u32 %r2, %r2, %r4; add.u32 %r2, %r2, %r5; ld.u32 %r1, [%d3]; add.u32 %r1, %r1, %r6;\n"
      "shl.b32 %r1, %r1, 8; or.b32 %r2, %r2, %r1; st.u32 [%d1], %r2;"));
  auto* out = machine.array<uint32_t>(64);
  auto outcome = machine.run("k", {1}, {64}, out);
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  for (uint32_t i = 0; i < 64; ++i) EXPECT_EQ(out[i], (2 * i) << 8 | 7);
}

TEST(PtxControl, SharedMemoryIsChecked) {
  Machine machine;
  machine.load(
      kernel(".shared .align 4 .b8 s[64]; mov.u64 %d2, s; mul.wide.u32 %d3, %r0, 4; add.u64 %d2, %d2, %d3; "
             "st.shared.u32 [%d2], %r0;"));
  EXPECT_TRUE(machine.run("k", {1}, {16}, machine.array<uint32_t>(1)).ok());
  auto outcome = machine.run("k", {1}, {17}, machine.array<uint32_t>(1));
  EXPECT_EQ(outcome.code, LaunchCode::kIllegalAddress);
  EXPECT_EQ(outcome.where.thread.x, 16u);
}

TEST(PtxControl, ForgedFunctionPointer) {
  Machine machine;
  machine.load(kernel("proto: .callprototype ();\n mov.u64 %d2, 0x1234; call %d2, (), proto;"));
  EXPECT_EQ(machine.run("k", {1}, {1}, machine.array<uint32_t>(1)).code, LaunchCode::kInvalidProgramCounter);
}

TEST(PtxControl, AbortEndsAnEndlessKernel) {
  Machine machine;
  machine.load(kernel("loop: bra loop;"));
  std::atomic<bool> stop{false};
  machine.abort = &stop;
  std::thread stopper([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    stop = true;
  });
  EXPECT_EQ(machine.run("k", {4}, {64}, machine.array<uint32_t>(64)).code, LaunchCode::kAborted);
  stopper.join();
}

TEST(PtxControl, GridsAreChecked) {
  Machine machine;
  machine.load(kernel(""));
  auto* p = machine.array<uint32_t>(1);
  EXPECT_EQ(machine.run("k", {1}, {1025}, p).code, LaunchCode::kInvalidLaunch);
  EXPECT_EQ(machine.run("k", {0}, {1}, p).code, LaunchCode::kInvalidLaunch);
  EXPECT_EQ(machine.run("k", {1, 70000}, {1}, p).code, LaunchCode::kInvalidLaunch);
  EXPECT_EQ(machine.run_with(Grid{{1}, {1}, {}, 300 << 10, false}, "k", p).code, LaunchCode::kInvalidLaunch);
  EXPECT_EQ(machine.run_with(Grid{{2}, {1}, {2}, 0, false}, "k", p).code, LaunchCode::kInvalidLaunch);
}

TEST(PtxControl, Speed) {
  // Straight-line f32 code: far above the 100 M thread instructions per second and core that the design asks for, with
  // room for slow and busy machines.
  Machine machine;
  std::string body = ".reg .f32 %f<4>; mov.f32 %f0, 0f3F800000; mov.f32 %f1, 0f3F000000; mov.u32 %r1, 0; loop:\n";
  for (int i = 0; i < 50; ++i) body += "fma.rn.f32 %f2, %f0, %f1, %f1; add.f32 %f0, %f2, %f1;\n";
  machine.load(
      kernel(body + "add.u32 %r1, %r1, 1; setp.lt.u32 %p0, %r1, 500; @%p0 bra loop; st.global.f32 [%d1], %f0;"));
  machine.threads = 1;
  auto start = std::chrono::steady_clock::now();
  auto outcome = machine.run("k", {4}, {256}, machine.array<uint32_t>(256));
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  ASSERT_TRUE(outcome.ok()) << outcome.message;
  double rate = 4.0 * 256 * 500 * 100 / seconds / 1e6;
  RecordProperty("million_thread_instructions_per_second", int(rate));
#ifndef BF_SANITIZERS
  EXPECT_GT(rate, 50);
#endif
}

}  // namespace
}  // namespace bf::ptx::test
