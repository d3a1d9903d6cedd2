#include "server/daemon/worker_pool.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>

#include "proto/secrets.h"
#include "proto/supervise.h"
#include "server/daemon/log.h"
#include "server/daemon/process.h"
#include "base/random.h"

namespace bf::daemon {
namespace {

constexpr auto kReplenishDelay = std::chrono::milliseconds(100);  // let the session that took the worker start first
constexpr int kMessagesPerEvent = 16;

std::string describe_exit(int status) {
  if (WIFSIGNALED(status)) return "killed by signal " + std::to_string(WTERMSIG(status));
  if (WEXITSTATUS(status) != 0) return "ended with status " + std::to_string(WEXITSTATUS(status));
  return "ended";
}

}  // namespace

WorkerPool::~WorkerPool() {
  for (auto& worker : workers_) {
    forget(worker);
    ::kill(worker.pid, SIGKILL);
    while (::waitpid(worker.pid, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
}

// --- starting --------------------------------------------------------------------------------------------------------

Result<Worker*> WorkerPool::spawn(std::vector<size_t> gpus, bool warm) {
  auto pair = supervise::make_pair();
  if (!pair.ok()) return pair.status();
  ProcessSpec spec{setup_.path, {"--control-fd", "3"}, setup_.environment, -1, pair->second.get()};
  if (warm) spec.arguments.push_back("--warm");
  std::string visible;
  for (size_t gpu : gpus) visible += (visible.empty() ? "" : ",") + gpus_[gpu].facts.uuid;
  spec.environment.push_back("CUDA_VISIBLE_DEVICES=" + visible);
  auto pid = spawn_process(spec);
  if (!pid.ok()) return pid.status();

  Worker& worker = workers_.emplace_back();
  worker.pid = *pid;
  worker.control = std::move(pair->first);
  worker.gpus = std::move(gpus);
  worker.warm = warm;
  worker.started = EventLoop::Clock::now();
  Status watched = loop_.watch(worker.control.get(), EPOLLIN, [this, &worker](uint32_t) { on_message(worker); });
  if (!watched.ok()) {
    kill(worker);
    return watched;
  }
  log::debug("worker {} started on {}{}", worker.pid, visible, warm ? ", warm" : "");
  return &worker;
}

void WorkerPool::keep_warm(uint32_t count) {
  warm_count_ = count;
  for (auto& worker : workers_)
    if (worker.idle() && worker.lease_id.empty() && idle_count(worker.gpus[0]) > count) kill(worker);
  replenish();
}

size_t WorkerPool::idle_count(size_t gpu) const {
  return size_t(std::count_if(workers_.begin(), workers_.end(), [&](const Worker& worker) {
    return worker.idle() && worker.lease_id.empty() && worker.gpus[0] == gpu;
  }));
}

void WorkerPool::set_aside(size_t gpu, const std::string& lease_id) {
  if (Worker* worker = find_idle(gpu, {})) worker->lease_id = lease_id;
  replenish_later();
}

void WorkerPool::make_room(size_t gpu) {
  for (auto& worker : workers_) {
    if (idle_count(gpu) * gpus_[gpu].facts.context_bytes <= owner_.spare_bytes(gpu)) return;
    if (worker.idle() && worker.lease_id.empty() && worker.gpus[0] == gpu) kill(worker);
  }
}

void WorkerPool::replenish_later() {
  if (replenish_pending_ || warm_count_ == 0) return;
  replenish_pending_ = true;
  loop_.after(kReplenishDelay, [this] {
    replenish_pending_ = false;
    replenish();
  });
}

void WorkerPool::back_off(size_t gpu) {
  auto delay = std::chrono::seconds(1u << std::min(++failures_[gpu], 6u));
  retry_at_[gpu] = EventLoop::Clock::now() + delay;
  loop_.after(delay, [this] { replenish(); });
}

void WorkerPool::replenish() {
  for (size_t gpu = 0; gpu < gpus_.size(); gpu++) {
    if (!gpus_[gpu].facts.healthy || EventLoop::Clock::now() < retry_at_[gpu]) continue;
    size_t idle = idle_count(gpu);
    while (idle < warm_count_ && (idle + 1) * gpus_[gpu].facts.context_bytes <= owner_.spare_bytes(gpu)) {
      auto worker = spawn({gpu}, true);
      if (!worker.ok()) {
        log::warn("cannot start a warm worker: {}", worker.status().message());
        back_off(gpu);
        break;
      }
      idle++;
    }
  }
}

// --- sessions --------------------------------------------------------------------------------------------------------

Worker* WorkerPool::find_idle(size_t gpu, const std::string& lease_id) {
  Worker* best = nullptr;
  for (auto& worker : workers_)
    if (worker.idle() && worker.lease_id == lease_id && worker.gpus[0] == gpu &&
        (best == nullptr || (worker.ready && !best->ready)))
      best = &worker;
  return best;
}

Status WorkerPool::assign(const std::vector<size_t>& gpus, control::Assign session, Fd& client, int ledger) {
  Worker* worker = nullptr;
  if (gpus.size() == 1) {
    worker = find_idle(gpus[0], session.lease_id);
    if (worker == nullptr) worker = find_idle(gpus[0], {});
  }
  // A warm worker that just died still stands in the table; then a new one takes the session.
  if (worker == nullptr || !hand_over(*worker, session, client.get(), ledger).ok()) {
    auto fresh = spawn(gpus, false);
    if (!fresh.ok()) return fresh.status();
    worker = *fresh;
    if (Status sent = hand_over(*worker, session, client.get(), ledger); !sent.ok()) {
      kill(*worker);
      return sent;
    }
  }
  worker->serving = true;
  worker->last_active = EventLoop::Clock::now();
  worker->lease_id = session.lease_id;
  worker->session = std::move(session);
  worker->client = std::move(client);
  Status watched = loop_.watch(worker->client.get(), EPOLLRDHUP | EPOLLONESHOT,
                               [this, worker](uint32_t) { on_client_gone(*worker); });
  if (!watched.ok()) ask(*worker);
  replenish_later();
  return {};
}

Status WorkerPool::hand_over(Worker& worker, const control::Assign& session, int client, int ledger) {
  int fds[3] = {client, ledger, -1};
  size_t count = 2;
  Fd images;
  if (images_) {
    if (auto connected = images_->connect(); connected.ok()) {
      images = std::move(*connected);
      fds[count++] = images.get();
    }
  }
  return supervise::send(worker.control.get(), supervise::Kind::kAssign, control::encode_Assign(session), std::span(fds).first(count));
}

Worker* WorkerPool::find_session(const std::string& session_id) {
  for (auto& worker : workers_)
    if (worker.serving && worker.session.session_id == session_id) return &worker;
  return nullptr;
}

Result<Worker*> WorkerPool::may_join(const control::JoinRequest& request) {
  Worker* worker = find_session(request.session_id);
  if (worker == nullptr || !equal_secrets(secrets::join_proof(worker->session.session_key, request.index), request.proof))
    return Status{StatusCode::kDenied, "no such session, or the wrong proof"};
  if (worker->stage != Worker::Stage::kRunning) return Status{StatusCode::kUnavailable, "the session is ending"};
  if (request.index >= worker->session.channels || (worker->joined >> request.index & 1))
    return Status{StatusCode::kInvalid, "the session has no free channel of that number"};
  return worker;
}

Status WorkerPool::join(Worker& worker, uint32_t index, int socket) {
  BF_RETURN_IF_ERROR(supervise::send(worker.control.get(), supervise::Kind::kChannel, control::encode_Channel({index}),
                                     std::span(&socket, 1)));
  worker.joined |= 1u << index;
  return {};
}

size_t WorkerPool::serving(const std::string& lease_id) const {
  return size_t(std::count_if(workers_.begin(), workers_.end(),
                              [&](const Worker& worker) { return worker.serving && worker.lease_id == lease_id; }));
}

size_t WorkerPool::serving() const {
  return size_t(std::count_if(workers_.begin(), workers_.end(), [](const Worker& worker) { return worker.serving; }));
}

void WorkerPool::on_message(Worker& worker) {
  for (int i = 0; i < kMessagesPerEvent; i++) {
    auto message = supervise::receive(worker.control.get(), EventLoop::Clock::time_point{});
    if (!message.ok()) {
      if (message.status().code() == StatusCode::kTimeout) return;
      // It closed its end or talks nonsense: it is about to end, or must.
      loop_.forget(worker.control.get());
      worker.control.reset();
      worker.unasked = worker.stage == Worker::Stage::kRunning;
      return on_client_gone(worker);
    }
    if (message->kind == supervise::Kind::kReady) {
      worker.ready = true;
      failures_[worker.gpus[0]] = 0;
    } else if (message->kind == supervise::Kind::kReport) {
      auto report = control::decode_WorkerReport(control::as_bytes(message->body));
      if (!report.ok()) continue;
      if (report->calls != worker.report.calls || worker.report.outstanding > 0)
        worker.last_active = EventLoop::Clock::now();
      worker.report = std::move(*report);
    }
  }
}

// --- ending ----------------------------------------------------------------------------------------------------------

void WorkerPool::on_client_gone(Worker& worker) {
  if (worker.stage != Worker::Stage::kRunning) return;
  loop_.cancel(worker.timer);
  worker.timer = loop_.after(kGrace, [this, &worker] { ask(worker); });
}

void WorkerPool::ask(Worker& worker) {
  if (worker.stage != Worker::Stage::kRunning) return;
  loop_.cancel(worker.timer);
  worker.stage = Worker::Stage::kAsked;
  ::kill(worker.pid, SIGTERM);
  worker.timer = loop_.after(kAskedGrace, [this, &worker] {
    log::warn("worker {} did not end when asked; killing it", worker.pid);
    kill(worker);
  });
}

void WorkerPool::kill(Worker& worker) {
  if (worker.stage == Worker::Stage::kKilled) return;
  loop_.cancel(worker.timer);
  worker.stage = Worker::Stage::kKilled;
  ::kill(worker.pid, SIGKILL);
}

void WorkerPool::end_lease(const std::string& lease_id) {
  for (auto& worker : workers_) {
    if (worker.lease_id != lease_id) continue;
    if (worker.serving) {
      ask(worker);
    } else if (worker.idle()) {
      worker.lease_id.clear();
      if (idle_count(worker.gpus[0]) > warm_count_) kill(worker);
    }
  }
}

void WorkerPool::end_idle() {
  warm_count_ = 0;
  for (auto& worker : workers_)
    if (worker.idle()) kill(worker);
}

void WorkerPool::end_all(bool at_once) {
  end_idle();
  for (auto& worker : workers_) at_once ? kill(worker) : ask(worker);
}

void WorkerPool::forget(Worker& worker) {
  loop_.cancel(worker.timer);
  if (worker.control) loop_.forget(worker.control.get());
  if (worker.client) loop_.forget(worker.client.get());
}

void WorkerPool::reap() {
  for (auto worker = workers_.begin(); worker != workers_.end();) {
    int status = 0;
    if (::waitpid(worker->pid, &status, WNOHANG) != worker->pid) {
      ++worker;
      continue;
    }
    if (worker->control) on_message(*worker);  // its last report
    forget(*worker);
    std::list<Worker> ended;
    ended.splice(ended.begin(), workers_, worker++);
    Worker& gone = ended.front();
    if (gone.serving) {
      owner_.on_session_end(gone, describe_exit(status));
    } else if (gone.stage == Worker::Stage::kRunning) {
      log::warn("a warm worker on {} {} before it had a client", gpus_[gone.gpus[0]].facts.name, describe_exit(status));
      back_off(gone.gpus[0]);
    }
    replenish_later();
  }
}

}  // namespace bf::daemon
