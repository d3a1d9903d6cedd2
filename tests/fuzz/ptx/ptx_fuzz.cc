// PTX text, as hostile as it may be, into Module::load: it must answer, in bounded time and memory. What loads is also
// instantiated and its kernels are launched for a moment, with no memory to touch and no parameters worth having: a
// program that passed the checks must not reach anything but what its allocations give it.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <string_view>
#include <thread>
#include <vector>

#include "softgpu/ptx/ptx.h"

namespace {

class Nothing : public bf::ptx::LaunchEnvironment {
 public:
  bf::ptx::MemoryRange find_memory(uint64_t) override { return {}; }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bf::ptx;
  auto module = Module::load(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!module.ok()) return 0;
  std::vector<uint64_t> addresses;
  uint64_t total = 0;
  for (const Variable& v : module.value()->variables()) total += v.bytes + v.alignment;
  if (total > (1 << 20)) return 0;
  for (const Variable& v : module.value()->variables())
    addresses.push_back(
        reinterpret_cast<uint64_t>(aligned_alloc(v.alignment, (v.bytes / v.alignment + 1) * v.alignment)));
  if (auto image = module.value()->instantiate(addresses); image.ok()) {
    for (const KernelInfo& kernel : module.value()->kernels()) {
      Nothing environment;
      std::atomic<bool> abort{true};  // ends the kernel after its first slice
      environment.abort = &abort;
      environment.threads = 1;
      std::vector<uint8_t> params(kernel.param_bytes, 0);
      Grid grid;
      grid.block.x = kernel.max_threads < 40 ? kernel.max_threads : 40;
      if (grid.block.x) launch(*image.value(), kernel, grid, params, environment);
    }
  }
  for (uint64_t address : addresses) free(reinterpret_cast<void*>(address));
  return 0;
}
