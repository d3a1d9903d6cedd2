#include "transport/thread.h"

#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

namespace bf::transport {
namespace {

// Sinks run on these threads and may log and allocate; static TLS of the host program lies in the stack, too.
constexpr size_t kStackBytes = 512 << 10;

constexpr uint64_t kShortSliceNs = 100'000;  // the least that Linux gives

// The kernel's struct sched_attr, first version (linux/sched/types.h; some C libraries declare it in <sched.h>, too).
struct SchedulingAttributes {
  uint32_t bytes;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime_ns;  // under SCHED_OTHER: the slice
  uint64_t deadline_ns;
  uint64_t period_ns;
};

void* run(void* argument) {
  std::unique_ptr<std::function<void()>> body(static_cast<std::function<void()>*>(argument));
  (*body)();
  return nullptr;
}

}  // namespace

Result<Thread> Thread::start(const char* name, std::function<void()> body) {
  auto argument = std::make_unique<std::function<void()>>(std::move(body));
  sigset_t blocked, before;
  sigfillset(&blocked);
  for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS}) sigdelset(&blocked, fault);

  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  pthread_sigmask(SIG_SETMASK, &blocked, &before);  // inherited, so that no signal finds the thread unprepared
  pthread_t id;
  int error = pthread_create(&id, &attributes, run, argument.get());
  // A program with very much static TLS: the small stack cannot hold it.
  if (error == EINVAL) error = pthread_create(&id, nullptr, run, argument.get());
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  if (error != 0) {
    return Status(StatusCode::kExhausted, std::string("cannot start a thread (") + strerror(error) +
                                              "): raise the limit on processes (ulimit -u) or end other programs");
  }
  argument.release();
  pthread_setname_np(id, name);
  return Thread(id);
}

Status run_together(size_t count, const std::function<Status(size_t)>& body) {
  std::vector<Status> results(count);
  {
    std::vector<Thread> threads;
    for (size_t i = 0; i < count; ++i) {
      auto thread = Thread::start("bf-together", [&, i] { results[i] = body(i); });
      if (thread.ok()) {
        threads.push_back(std::move(*thread));
      } else {
        results[i] = body(i);
      }
    }
  }
  for (Status& result : results) BF_RETURN_IF_ERROR(std::move(result));
  return {};
}

void prefer_short_slices() noexcept {
  if (sched_getscheduler(0) != SCHED_OTHER) return;  // somebody has decided otherwise
  SchedulingAttributes wanted{sizeof(SchedulingAttributes), SCHED_OTHER, 0, getpriority(PRIO_PROCESS, 0), 0, kShortSliceNs, 0, 0};
  (void)syscall(SYS_sched_setattr, 0, &wanted, 0);
}

bool Thread::start_detached(const char* name, std::function<void()> body) {
  auto thread = start(name, std::move(body));
  if (!thread.ok()) return false;
  thread->running_ = false;
  pthread_detach(thread->id_);
  return true;
}

Thread::Thread(Thread&& other) noexcept : id_(other.id_), running_(std::exchange(other.running_, false)) {}

Thread& Thread::operator=(Thread&& other) noexcept {
  if (this != &other) {
    join();
    id_ = other.id_;
    running_ = std::exchange(other.running_, false);
  }
  return *this;
}

void Thread::join() noexcept {
  if (std::exchange(running_, false)) pthread_join(id_, nullptr);
}

}  // namespace bf::transport
