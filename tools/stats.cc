#include "tools/stats.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "base/log.h"
#include "tools/remote.h"
#include "tools/table.h"

namespace bf::tools {
namespace {

constexpr size_t kShown = 12;  // functions

struct Sum {
  std::string name;
  uint64_t calls = 0, local = 0, posts = 0, round_trips = 0, wait_ns = 0, up = 0, down = 0;
  void add(const Sum& other) {
    calls += other.calls, local += other.local, posts += other.posts, round_trips += other.round_trips;
    wait_ns += other.wait_ns, up += other.up, down += other.down;
  }
};

std::vector<Sum> by_function(const StatsMemory& memory) {
  std::vector<Sum> sums;
  for (size_t function = 0; function < StatsMemory::kFunctions; ++function) {
    Sum sum;
    for (const auto& block : memory.blocks) {
      const FunctionCounters& one = block[function];
      sum.add({{}, one.calls, one.local, one.posts, one.round_trips, one.wait_ns, one.bytes_up, one.bytes_down});
    }
    if (sum.calls == 0) continue;
    sum.name = printable(std::string(memory.names[function], strnlen(memory.names[function], StatsMemory::kNameBytes)));
    sums.push_back(std::move(sum));
  }
  std::stable_sort(sums.begin(), sums.end(), [](auto& a, auto& b) {
    return std::pair(a.wait_ns, a.calls) > std::pair(b.wait_ns, b.calls);
  });
  return sums;
}

std::string mib(uint64_t bytes) { return fmt::format("{:.1f}", double(bytes) / (1 << 20)); }
std::string ms(uint64_t ns) { return fmt::format("{:.1f}", double(ns) / 1e6); }

}  // namespace

Result<Stats> Stats::begin() {
  Fd file(memfd_create("backfield-stats", MFD_CLOEXEC));
  if (!file || ftruncate(file.get(), sizeof(StatsMemory)) != 0) return errno_status("cannot make memory for --stats", errno);
  void* memory = mmap(nullptr, sizeof(StatsMemory), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file.get(), 0);
  if (memory == MAP_FAILED) return errno_status("cannot map memory for --stats", errno);
  auto* stats = static_cast<StatsMemory*>(memory);
  stats->magic = StatsMemory::kMagic;
  setenv("BF_STATS", fmt::format("/proc/{}/fd/{}", getpid(), file.get()).c_str(), 1);
  return Stats(std::move(file), stats);
}

Stats::Stats(Stats&& other) noexcept
    : file_(std::move(other.file_)), memory_(std::exchange(other.memory_, nullptr)), begin_(other.begin_) {}

Stats::~Stats() {
  if (memory_) munmap(memory_, sizeof(StatsMemory));
}

std::string Stats::summary() const {
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  const std::vector<Sum> functions = by_function(*memory_);
  Sum all;
  for (const Sum& one : functions) all.add(one);
  const auto processes = memory_->processes.load();
  std::string text = fmt::format(
      "bfrun: {:.2f} s; {} process{} used CUDA\n"
      "bfrun: {} calls: {} answered here; the others sent {} frames that nobody waited for and made {} round trips\n"
      "bfrun: {} MiB to the server, {} MiB from it; threads of the program waited {} ms in all\n",
      seconds, processes, processes == 1 ? "" : "es", all.calls, all.local, all.posts, all.round_trips, mib(all.up), mib(all.down), ms(all.wait_ns));
  if (functions.empty()) return text;
  auto right = [](std::string number) { return Cell{std::move(number), Colour::kNone, true}; };
  Table table({"FUNCTION", "WAIT MS", "CALLS", "HERE", "POSTED", "ROUND TRIPS", "MIB UP", "MIB DOWN"});
  for (size_t i = 0; i < std::min(kShown, functions.size()); ++i) {
    const Sum& one = functions[i];
    table.add({{one.name}, right(ms(one.wait_ns)), right(std::to_string(one.calls)), right(std::to_string(one.local)),
               right(std::to_string(one.posts)), right(std::to_string(one.round_trips)), right(mib(one.up)), right(mib(one.down))});
  }
  text += table.render(false);
  if (functions.size() > kShown) text += fmt::format("bfrun: and {} functions that were waited for less\n", functions.size() - kShown);
  return text;
}

}  // namespace bf::tools
