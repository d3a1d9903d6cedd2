// Threads ask, because a name may take long to resolve and nothing can interrupt that. Those that are still busy when
// the answers are enough are left to themselves: they own what they touch, take no signal, and end with their question.
#include "tools/survey.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>

namespace bf::tools {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kAskedAtOnce = 64;
constexpr auto kLeastGrace = std::chrono::milliseconds(5);

struct Shared {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Answer> answers;
  std::vector<bool> settled;
  size_t next = 0;
  size_t done = 0;
};

void ask_one(Answer& answer, std::chrono::milliseconds time, bool sampled) {
  auto deadline = control::deadline_in(time);
  auto list_over = [&](Remote& remote) -> Status {
    auto body = remote.ask(Opcode::kList, control::encode_ListRequest({sampled}), deadline);
    if (!body.ok()) return body.status();
    auto list = control::decode_ListReply(control::as_bytes(*body));
    if (!list.ok()) return list.status();
    answer.list = std::move(*list);
    return {};
  };
  // The old connection may be gone since; that says nothing about the server.
  if (answer.remote != nullptr && list_over(*answer.remote).ok()) {
    answer.status = {};
    return;
  }
  answer.remote.reset();
  auto opened = Remote::open(answer.server, deadline);
  answer.status = opened.ok() ? list_over(**opened) : opened.status();
  if (answer.status.ok()) answer.remote = std::move(*opened);
  const std::string name = answer.server.to_string();
  if (!answer.status.ok() && answer.status.message().find(name) == std::string::npos)
    answer.status = Status{answer.status.code(), name + ": " + answer.status.message()};
}

void ask_on(const std::shared_ptr<Shared>& shared, std::chrono::milliseconds time, bool sampled) {
  std::unique_lock lock(shared->mutex);
  while (shared->next < shared->answers.size()) {
    size_t i = shared->next++;
    Answer own = shared->answers[i];
    lock.unlock();
    ask_one(own, time, sampled);
    lock.lock();
    shared->answers[i] = std::move(own);
    shared->settled[i] = true;
    shared->done++;
    shared->changed.notify_all();
  }
}

void start_thread(std::function<void()> body) {
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread(std::move(body)).detach();
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace

void survey(std::vector<Answer>& answers, std::chrono::milliseconds time, const Enough& enough, bool sampled) {
  auto shared = std::make_shared<Shared>();
  shared->answers = answers;
  shared->settled.resize(answers.size());
  auto start = Clock::now();
  if (answers.size() == 1) {
    ask_on(shared, time, sampled);
  } else {
    for (size_t t = 0; t < std::min(answers.size(), kAskedAtOnce); t++)
      start_thread([shared, time, sampled] { ask_on(shared, time, sampled); });
  }
  std::unique_lock lock(shared->mutex);
  Clock::time_point end = start + time * int(1 + answers.size() / kAskedAtOnce);
  for (size_t seen = 0; shared->done < answers.size() && Clock::now() < end;) {
    shared->changed.wait_until(lock, end);
    if (shared->done == seen || !enough) continue;
    seen = shared->done;
    std::vector<Answer> so_far;
    for (size_t i = 0; i < answers.size(); i++)
      if (shared->settled[i]) so_far.push_back(shared->answers[i]);
    auto now = Clock::now();
    if (enough(so_far)) end = std::min(end, now + std::max<Clock::duration>((now - start) / 6, kLeastGrace));
  }
  std::set<std::string> known;
  answers.clear();
  for (size_t i = 0; i < shared->answers.size(); i++) {
    Answer answer;
    answer.server = shared->answers[i].server;
    if (shared->settled[i]) answer = shared->answers[i];
    const std::string& id = answer.list.server_id;
    if (answer.status.ok() && !id.empty() && !known.insert(id).second) continue;
    answers.push_back(std::move(answer));
  }
  shared->next = shared->answers.size();  // nobody waits for the rest
}

std::vector<Answer> survey(const std::vector<transport::Address>& servers, std::chrono::milliseconds time,
                           const Enough& enough, bool sampled) {
  std::vector<Answer> answers(servers.size());
  for (size_t i = 0; i < servers.size(); i++) answers[i].server = servers[i];
  survey(answers, time, enough, sampled);
  return answers;
}

}  // namespace bf::tools
