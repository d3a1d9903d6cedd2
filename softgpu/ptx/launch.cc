// Blocks over threads. The calling thread and helpers from a process-wide pool take blocks from a *job*. A block runs
// in slices; one that spends its slice waiting for others (volatile loads, compare-and-swap) is set aside so that fresh
// blocks, or the ones set aside before, can run: grid-wide barriers and look-back scans make progress with any number
// of threads. The caller never depends on a helper that has not joined, so a forked child without helpers still works.
#include <algorithm>
#include <condition_variable>
#include <deque>
#include <thread>

#include "softgpu/ptx/image.h"
#include "softgpu/ptx/machine.h"

namespace bf::ptx {
namespace {

constexpr int64_t kSlice = 400'000;  // warp instructions between looks at the abort flag: about a millisecond
constexpr uint32_t kMaxSharedBytes = 227 << 10;
constexpr uint32_t kReservedSharedBytes = 1024;  // as devices keep for the system
constexpr uint32_t kMaxLocalBytes = 512 << 10;
constexpr int kPatience = 64;  // slices that a block may keep a thread while others wait

struct Job {
  Launch launch;
  uint64_t blocks = 0, next = 0;
  uint64_t started = 0;   // unfinished
  uint64_t resident = 0;  // limit of `started`
  std::deque<std::unique_ptr<Block>> waiting;
  std::mutex mutex;
  std::condition_variable left;
  unsigned helpers = 0;
  bool closed = false;

  // A fresh block or one set aside; nullptr: nothing to do for this thread.
  std::unique_ptr<Block> take(Worker& worker, bool prefer_fresh) {
    uint64_t index;
    {
      std::lock_guard lock(mutex);
      if (launch.stop.load(std::memory_order_relaxed)) return nullptr;
      bool fresh = next < blocks && started < resident;
      if (!waiting.empty() && !(fresh && prefer_fresh)) {
        auto block = std::move(waiting.front());
        waiting.pop_front();
        return block;
      }
      if (!fresh) return nullptr;
      index = next++;
      ++started;
    }
    return start_block(launch, worker, index);
  }

  bool others_wait() {
    std::lock_guard lock(mutex);
    return !waiting.empty() || (next < blocks && started < resident);
  }

  void work() {
    Worker worker;
    worker.launch = &launch;
    try {
      run(worker);
    } catch (const std::bad_alloc&) {
      LaunchOutcome outcome;
      outcome.code = LaunchCode::kInvalidLaunch;
      outcome.message = "out of host memory for the blocks of kernel " + launch.kernel->name;
      launch.finish(std::move(outcome));
    }
    std::lock_guard lock(mutex);
    launch.outcome.instructions += worker.instructions;
  }

  void run(Worker& worker) {
    bool prefer_fresh = false;
    while (auto block = take(worker, prefer_fresh)) {
      prefer_fresh = false;
      for (int slices = 1;; ++slices) {
        bool ended = run_block(*block, worker, kSlice);
        if (ended || block->failed || launch.stop.load(std::memory_order_relaxed)) {
          block.reset();
          std::lock_guard lock(mutex);
          --started;
          break;
        }
        if (launch.aborted()) {
          LaunchOutcome outcome;
          outcome.code = LaunchCode::kAborted;
          outcome.message = "kernel " + launch.kernel->name + " was aborted";
          launch.finish(std::move(outcome));
          continue;
        }
        bool polling = block->polls > kSlice / 2;
        if ((polling || slices >= kPatience) && others_wait()) {
          std::lock_guard lock(mutex);
          waiting.push_back(std::move(block));
          prefer_fresh = true;
          break;
        }
        if (polling) std::this_thread::yield();
      }
    }
  }
};

// Threads that help any launch of the process. They live as long as the process: never destroyed, so that exit handlers
// cannot find them half gone.
class Helpers {
 public:
  static Helpers& get() {
    static Helpers* const instance = new Helpers;
    return *instance;
  }

  void offer(const std::shared_ptr<Job>& job, unsigned count) {
    std::lock_guard lock(mutex_);
    for (unsigned i = 0; i < count; ++i) jobs_.push_back(job);
    while (threads_ < std::min<size_t>(jobs_.size() + busy_, kMaxThreads)) {
      std::thread([this] { loop(); }).detach();
      ++threads_;
    }
    ready_.notify_all();
  }

 private:
  static constexpr size_t kMaxThreads = 256;

  void loop() {
    std::unique_lock lock(mutex_);
    for (;;) {
      ready_.wait(lock, [this] { return !jobs_.empty(); });
      std::shared_ptr<Job> job = std::move(jobs_.front());
      jobs_.pop_front();
      ++busy_;
      lock.unlock();
      help(*job);
      job.reset();
      lock.lock();
      --busy_;
    }
  }

  static void help(Job& job) {
    {
      std::lock_guard lock(job.mutex);
      if (job.closed) return;
      ++job.helpers;
    }
    job.work();
    std::lock_guard lock(job.mutex);
    if (--job.helpers == 0) job.left.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::shared_ptr<Job>> jobs_;
  size_t threads_ = 0, busy_ = 0;
};

LaunchOutcome refused(std::string message) {
  LaunchOutcome outcome;
  outcome.code = LaunchCode::kInvalidLaunch;
  outcome.message = std::move(message);
  return outcome;
}

std::string check_grid(const KernelInfo& kernel, const Grid& grid, size_t param_bytes) {
  const Dim3 &g = grid.grid, &b = grid.block;
  if (!g.x || !g.y || !g.z || !b.x || !b.y || !b.z) return "a dimension of the grid is 0";
  if (g.x > 0x7fffffff || g.y > 65535 || g.z > 65535) return "the grid is too large";
  if (b.x > 1024 || b.y > 1024 || b.z > 64 || b.count() > 1024) return "the block is too large";
  if (b.count() > kernel.max_threads) return "the block has more threads than the kernel's .maxntid";
  if (grid.cluster.count() != 1) return "clusters of more than one block are not supported";
  if (param_bytes < kernel.param_bytes) return "too few parameter bytes";
  return {};
}

}  // namespace

void Launch::finish(LaunchOutcome&& result) {
  std::lock_guard lock(mutex);
  if (outcome.ok()) {
    uint64_t instructions = outcome.instructions;
    outcome = std::move(result);
    outcome.instructions = instructions;
  }
  stop.store(true, std::memory_order_relaxed);
}

LaunchOutcome launch(const Image& image, const KernelInfo& kernel, const Grid& grid, std::span<const uint8_t> params,
                     LaunchEnvironment& environment) {
  const Program& program = LaunchAccess::program(image);
  if (kernel.index >= program.kernels.size()) return refused("no such kernel in this image");
  const KernelInfo& known = program.kernels[kernel.index];
  if (std::string why = check_grid(known, grid, params.size()); !why.empty())
    return refused("kernel " + known.name + ": " + why);

  auto job = std::make_shared<Job>();
  Launch& l = job->launch;
  l.program = &program;
  l.pool = LaunchAccess::pool(image);
  l.environment = &environment;
  l.function = &program.functions[program.kernel_functions[kernel.index]];
  l.kernel = &known;
  l.grid = grid;
  l.params.assign(params.begin(), params.end());
  uint64_t alignment = 16;
  for (const SharedVariable& v : program.shared)
    if (v.dynamic) alignment = std::max<uint64_t>(alignment, v.alignment);
  uint64_t base = (known.static_shared_bytes + alignment - 1) & ~(alignment - 1);
  uint64_t shared = base + grid.dynamic_shared_bytes;
  if (grid.dynamic_shared_bytes == 0) shared = known.static_shared_bytes;
  if (shared > kMaxSharedBytes) return refused("kernel " + known.name + ": more than 227 KiB of shared memory");
  l.dynamic_base = uint32_t(base);
  l.reserved_base = l.shared_bytes = uint32_t(shared);
  if (l.function->reserved_shared) {
    l.reserved_base = uint32_t((shared + 15) & ~uint64_t{15});
    l.shared_bytes = l.reserved_base + kReservedSharedBytes;
  }
  uint64_t local = 0;
  if (l.function->local_bytes || l.function->stack_bytes || l.function->recursive) {
    local = frame_cost(l.function->local_bytes) + l.function->stack_bytes;
    // A compiled frame is smaller than ours, which keeps arguments in memory: allow for that.
    if (l.function->recursive) local += uint64_t(std::max(environment.stack_bytes, 1024u)) * 8;
  }
  l.local_bytes = uint32_t(std::min<uint64_t>((local + 15) & ~uint64_t{15}, kMaxLocalBytes));

  job->blocks = grid.grid.count();
  job->resident = grid.cooperative ? job->blocks : std::max(1u, environment.resident_blocks);
  unsigned threads = environment.threads ? environment.threads : std::max(1u, std::thread::hardware_concurrency());
  unsigned helpers = unsigned(std::min<uint64_t>(threads - 1, job->blocks - 1));
  if (helpers > 0) Helpers::get().offer(job, helpers);
  // Helpers may set blocks aside after this thread found nothing to do; whoever sets one aside takes the next himself,
  // so none is forgotten.
  job->work();
  std::unique_lock lock(job->mutex);
  job->closed = true;
  job->left.wait(lock, [&] { return job->helpers == 0; });
  job->waiting.clear();
  return l.outcome;
}

}  // namespace bf::ptx
