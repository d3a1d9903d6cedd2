// Loading: what is refused, and how; linking of several units; variables and their initial values.
#include "tests/unit/ptx/harness.h"

namespace bf::ptx::test {
namespace {

std::string refusal(const std::string& body, const std::string& before = {}) {
  auto module = Module::load(header() + before + ".visible .entry foo(.param .u64 p)\n{\n" + body + "\n}\n");
  return module.ok() ? "accepted" : module.status().message();
}

TEST(PtxLoad, RefusesByName) {
  EXPECT_EQ(refusal("wgmma.fence.sync.aligned;"),
            "unsupported instruction 'wgmma.fence.sync.aligned' at line 6 in kernel foo");
  EXPECT_NE(refusal(".reg .u32 %r<2>;\nadd.u32.fancy %r0, %r1, 1;").find("unsupported modifier '.fancy'"),
            std::string::npos);
  EXPECT_NE(refusal(".reg .u32 %r<2>;\nadd.f77 %r0, %r1, 1;").find("'add.f77' at line 7"), std::string::npos);
  EXPECT_NE(refusal("mov.u32 %r0, 1;").find("unknown register '%r0'"), std::string::npos);
  EXPECT_NE(refusal(".reg .u32 %r<2>; .reg .u64 %d;\nadd.u64 %d, %r0, 1;").find("wrong width"), std::string::npos);
  EXPECT_NE(refusal("bra nowhere;").find("no label 'nowhere'"), std::string::npos);
  EXPECT_NE(refusal("call nothing;").find("unknown function 'nothing'"), std::string::npos);
  EXPECT_NE(refusal(".reg .u64 %d;\nld.param.u64 %d, [p+4];").find("access outside the variable"), std::string::npos);
  EXPECT_NE(refusal("", ".extern .global .u32 elsewhere;\n.global .u64 x = elsewhere;\n")
                .find("undefined symbol 'elsewhere'"),
            std::string::npos);
  EXPECT_NE(refusal(".local .b8 big[1000000];").find("512 KiB of local memory"), std::string::npos);
  EXPECT_EQ(refusal("ret;"), "accepted");
}

TEST(PtxLoad, RefusesWhatIsNotPtx) {
  for (const char* text :
       {"", "hello",
        "\x7f"
        "ELF",
        ".version 9.0", ".version 9.0\n.entry", ".version 9.0 .target sm_90 .entry k( {",
        ".version 9.0 .global .b8 a[99999999999999999999];", ".version 9.0 .global .b8 a[2] = {1,2,3};"}) {
    auto module = Module::load(text);
    if (std::string_view(text) == ".version 9.0")
      EXPECT_TRUE(module.ok());
    else
      EXPECT_FALSE(module.ok()) << text;
  }
}

TEST(PtxLoad, DescribesKernels) {
  auto module = Module::load(
      header() +
      ".const .align 4 .b8 c[40];\n"
      ".visible .entry foo(.param .u8 a, .param .align 8 .b8 s[12], .param .u64 b) .reqntid 64, 2 .minnctapersm 3\n"
      "{ .shared .align 16 .b8 x[100]; .local .align 8 .b8 l[24]; .reg .u64 %d<2>; mov.u64 %d0, x; mov.u64 %d1, l; "
      "ret; }\n");
  ASSERT_TRUE(module.ok()) << module.status().message();
  const KernelInfo* k = module.value()->find_kernel("foo");
  ASSERT_NE(k, nullptr);
  EXPECT_EQ(k->params.size(), 3u);
  EXPECT_EQ(k->params[1].offset, 8u);
  EXPECT_EQ(k->params[2].offset, 24u);
  EXPECT_EQ(k->param_bytes, 32u);
  EXPECT_EQ(k->static_shared_bytes, 100u);
  EXPECT_EQ(k->local_bytes, 24u);
  EXPECT_EQ(k->max_threads, 128u);
  EXPECT_EQ(k->min_blocks, 3u);
  EXPECT_EQ(k->const_bytes, 40u);
  EXPECT_EQ(k->ptx_version, 90);
  EXPECT_EQ(k->target, 90);
  EXPECT_EQ(module.value()->find_kernel("bar"), nullptr);
}

TEST(PtxLoad, InitialValues) {
  Machine machine;
  machine.load(header() +
               ".global .align 8 .b8 bytes[8] = {1, 2, 0xff};\n.visible .global .f32 f[2] = {0f3F800000, 2.5};\n"
               ".global .u64 p = bytes+4;\n.global .u64 q[2] = {generic(f)+4, fn};\n.const .s16 c[3] = {-1, 2, -3};\n"
               ".global .align 1 .b8 masked[2] = {0xFF(bytes), 0xFF00(bytes)};\n.func fn { ret; }\n");
  auto variable = [&](std::string_view name) {
    auto all = machine.image->module().variables();
    for (size_t i = 0; i < all.size(); ++i)
      if (all[i].name == name) return machine.addresses[i];
    return uint64_t{0};
  };
  EXPECT_EQ(0, memcmp(reinterpret_cast<void*>(variable("bytes")), "\x01\x02\xff\0\0\0\0\0", 8));
  EXPECT_EQ(reinterpret_cast<float*>(variable("f"))[1], 2.5f);
  EXPECT_EQ(*reinterpret_cast<uint64_t*>(variable("p")), variable("bytes") + 4);
  EXPECT_EQ(*reinterpret_cast<uint64_t*>(variable("q")), variable("f") + 4);
  EXPECT_EQ(reinterpret_cast<int16_t*>(variable("c"))[2], -3);
  EXPECT_EQ(reinterpret_cast<uint8_t*>(variable("masked"))[0], uint8_t(variable("bytes")));
  EXPECT_EQ(reinterpret_cast<uint8_t*>(variable("masked"))[1], uint8_t(variable("bytes") >> 8));
}

TEST(PtxLoad, LinksUnits) {
  std::string first =
      header() +
      ".extern .func (.param .b32 r) add_value(.param .b32 a);\n.extern .global .u32 value;\n"
      ".visible .entry k(.param .u64 p) { .reg .u32 %r<3>; .reg .u64 %d; ld.param.u64 %d, [p];\n"
      "{ .param .b32 a; .param .b32 x; st.param.b32 [a], 5; call (x), add_value, (a); ld.param.b32 %r0, [x]; }\n"
      "ld.global.u32 %r1, [value]; add.u32 %r0, %r0, %r1; st.global.u32 [%d], %r0; ret; }\n";
  std::string second = header() +
                       ".visible .global .u32 value = 100;\n.visible .func (.param .b32 r) add_value(.param .b32 a) {\n"
                       ".reg .u32 %r; ld.param.u32 %r, [a]; add.u32 %r, %r, 1000; st.param.b32 [r], %r; ret; }\n";
  EXPECT_FALSE(Module::load(first).ok());
  auto alone = Module::load(first, LoadOptions{true});
  ASSERT_TRUE(alone.ok()) << alone.status().message();
  EXPECT_FALSE(alone.value()->instantiate({}).ok());
  Source sources[] = {{first, "first"}, {second, "second"}};
  auto module = Module::load(sources);
  ASSERT_TRUE(module.ok()) << module.status().message();
  Machine machine;
  machine.use(module.value());
  auto* out = machine.array<uint32_t>(1);
  ASSERT_TRUE(machine.run("k", {1}, {1}, out).ok());
  EXPECT_EQ(*out, 1105u);
  Source twice[] = {{second, "a"}, {second, "b"}};
  EXPECT_FALSE(Module::load(twice).ok());
}

}  // namespace
}  // namespace bf::ptx::test
