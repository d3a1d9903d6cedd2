// What the PTX tests share: device memory in host memory, launches, and a kernel around one instruction.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "softgpu/ptx/ptx.h"

namespace bf::ptx::test {

class Machine : public LaunchEnvironment {
 public:
  Machine() { threads = 2; }
  ~Machine() override {
    for (auto& [begin, range] : ranges_) free(reinterpret_cast<void*>(begin));
  }

  uint64_t allocate(uint64_t bytes, bool writable = true) {
    auto begin = reinterpret_cast<uint64_t>(aligned_alloc(256, (bytes + 511) / 256 * 256));
    memset(reinterpret_cast<void*>(begin), 0, bytes);
    ranges_[begin] = {begin, begin + bytes, writable};
    return begin;
  }
  template <typename T>
  T* array(size_t n) {
    return reinterpret_cast<T*>(allocate(n * sizeof(T)));
  }

  MemoryRange find_memory(uint64_t address) override {
    auto it = ranges_.upper_bound(address);
    if (it == ranges_.begin()) return {};
    --it;
    return address < it->second.end ? it->second : MemoryRange{};
  }
  void print(std::string_view text) override {
    std::lock_guard lock(mutex_);
    printed += text;
  }
  void assertion_failed(const AssertFailure& failure) override {
    std::lock_guard lock(mutex_);
    assertions.push_back(failure);
  }

  // Loads and gives every variable storage; fails the test if that does not work.
  void load(std::string_view text) {
    auto module = Module::load(text);
    ASSERT_TRUE(module.ok()) << module.status().message();
    use(module.value());
  }
  void use(std::shared_ptr<Module> module) {
    addresses.clear();
    for (const Variable& v : module->variables()) addresses.push_back(allocate(v.bytes));
    auto made = module->instantiate(addresses);
    ASSERT_TRUE(made.ok()) << made.status().message();
    image = made.value();
  }

  // Launches the kernel whose name contains `name`.
  template <typename... A>
  LaunchOutcome run(std::string_view name, Dim3 grid, Dim3 block, A... arguments) {
    return run_with(Grid{grid, block, {}, 0, false}, name, arguments...);
  }
  template <typename... A>
  LaunchOutcome run_with(const Grid& grid, std::string_view name, A... arguments) {
    const KernelInfo* kernel = nullptr;
    for (const KernelInfo& k : image->module().kernels())
      if (k.name.find(name) != std::string::npos) kernel = &k;
    if (!kernel) {
      ADD_FAILURE() << "no kernel " << name;
      return {};
    }
    std::vector<uint8_t> params(kernel->param_bytes);
    size_t at = 0;
    auto put = [&](auto argument) { memcpy(&params[kernel->params[at++].offset], &argument, sizeof argument); };
    (put(arguments), ...);
    return launch(*image, *kernel, grid, params, *this);
  }

  std::string printed;
  std::vector<AssertFailure> assertions;
  std::vector<uint64_t> addresses;
  std::shared_ptr<Image> image;

 private:
  std::map<uint64_t, MemoryRange> ranges_;
  std::mutex mutex_;
};

inline std::string header() { return ".version 9.0\n.target sm_90\n.address_size 64\n"; }

// A kernel that applies `code` to inputs %a, %b, %c (types in PTX's spelling) and stores %d, for every row of three
// 64-bit words of input.
inline std::vector<uint64_t> apply(const std::string& code, const std::string& d, const std::string& a,
                                   const std::string& b, const std::string& c,
                                   const std::vector<std::array<uint64_t, 3>>& rows) {
  std::string text =
      header() +
      ".visible .entry k(.param .u64 in, .param .u64 out, .param .u32 n) {\n"
      ".reg .pred %p, %q; .reg .u64 %i, %o; .reg .u32 %n, %x, %t, %m;\n"
      ".reg ." +
      d + " %d; .reg ." + a + " %a; .reg ." + b + " %b; .reg ." + c +
      " %c;\n"
      "ld.param.u64 %i, [in]; ld.param.u64 %o, [out]; ld.param.u32 %n, [n];\n"
      "mov.u32 %x, %ctaid.x; mov.u32 %t, %ntid.x; mov.u32 %m, %tid.x; mad.lo.u32 %x, %x, %t, %m;\n"
      "setp.ge.u32 %p, %x, %n; @%p bra end;\n"
      ".reg .u64 %w; mul.wide.u32 %w, %x, 24; add.u64 %i, %i, %w; mul.wide.u32 %w, %x, 8; add.u64 %o, %o, %w;\n"
      "ld.global." +
      a + " %a, [%i]; ld.global." + b + " %b, [%i+8]; ld.global." + c + " %c, [%i+16];\n" + code + "\nst.global." + d +
      " [%o], %d;\nend: ret;\n}\n";
  Machine machine;
  machine.load(text);
  std::vector<uint64_t> result(rows.size());
  if (!machine.image) return result;
  auto* in = machine.array<uint64_t>(rows.size() * 3);
  auto* out = machine.array<uint64_t>(rows.size());
  memcpy(in, rows.data(), rows.size() * 24);
  auto outcome = machine.run("k", {uint32_t((rows.size() + 127) / 128)}, {128}, in, out, uint32_t(rows.size()));
  EXPECT_TRUE(outcome.ok()) << outcome.message << "\n" << code;
  memcpy(result.data(), out, rows.size() * 8);
  return result;
}

// Bit patterns worth trying for a type of `bits` bits with `kind` 'f' or 'i', all pairs and some random triples.
inline std::vector<std::array<uint64_t, 3>> interesting(int bits, char kind) {
  std::vector<uint64_t> special;
  uint64_t mask = bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
  if (kind == 'i') {
    special = {0,        1,          2,         3,      7,    31,        32,
               33,       63,         64,        100,    255,  256,       0x7f,
               0x80,     0x7fff,     0x8000,    0xffff, mask, mask >> 1, (mask >> 1) + 1,
               mask - 1, 0x12345678, 0xdeadbeef};
  } else {
    int fraction = bits == 64 ? 52 : bits == 32 ? 23 : bits == 16 ? 10 : 7;
    uint64_t one = (mask >> 2) & ~((uint64_t{1} << fraction) - 1);
    uint64_t infinity = (mask >> 1) & ~((uint64_t{1} << fraction) - 1);
    special = {0,
               one,
               one + 1,
               one - 1,
               infinity,
               infinity - 1,
               infinity | uint64_t{1} << (fraction - 1),
               1,
               2,
               (uint64_t{1} << fraction) - 1,
               uint64_t{1} << fraction,
               (uint64_t{1} << fraction) + 1,
               one + (uint64_t{1} << fraction),
               one | uint64_t{1} << (fraction - 1),
               one + (uint64_t{3} << (fraction - 2)),
               one + (uint64_t{5} << fraction) + 12345 % (1 << 10)};
    size_t n = special.size();
    for (size_t i = 0; i < n; ++i) special.push_back(special[i] | ((mask >> 1) + 1));
  }
  for (uint64_t& v : special) v &= mask;
  std::mt19937_64 random(42);
  std::vector<std::array<uint64_t, 3>> rows;
  for (uint64_t a : special)
    for (uint64_t b : special) rows.push_back({a, b, special[random() % special.size()]});
  for (int i = 0; i < 3000; ++i) {
    std::array<uint64_t, 3> row{random() & mask, random() & mask, random() & mask};
    if (i % 3 == 0) row[1] = row[0] + random() % 5;  // near each other
    if (i % 5 == 0) row[2] = special[random() % special.size()];
    row[1] &= mask;
    rows.push_back(row);
  }
  return rows;
}

}  // namespace bf::ptx::test
