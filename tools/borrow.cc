#include "tools/borrow.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <thread>

namespace bf::tools {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr auto kAnswerTime = milliseconds(5000);
constexpr auto kFirstPause = milliseconds(200);
constexpr auto kLongestPause = milliseconds(2000);  // a server keeps the place of whoever asks this often

bool whole(const control::LeaseRequest& request) {
  return request.memory_bytes == 0 && (request.fraction == 0 || request.fraction == 1);
}

bool spreads(const Wish& wish) {
  return wish.policy == Policy::kSpread || (wish.policy == Policy::kAuto && whole(wish.request));
}

// Lower is better; infinite: it cannot grant this now.
double score(const Answer& answer, const std::vector<std::string>& uuids, const Wish& wish) {
  const control::LeaseRequest& request = wish.request;
  std::vector<double> left_over;
  double all_free = 0;
  for (auto& gpu : answer.list.gpus) {
    if (!gpu.healthy) continue;
    all_free += double(gpu.free_bytes);
    if (std::find(uuids.begin(), uuids.end(), gpu.uuid) == uuids.end()) continue;
    double wanted =
        request.memory_bytes > 0 ? double(request.memory_bytes) : request.fraction * double(gpu.memory_bytes);
    bool fits = whole(request) ? gpu.leases == 0 : wanted <= double(gpu.free_bytes);
    if (fits) left_over.push_back(double(gpu.free_bytes) - wanted);
  }
  if (answer.list.draining || left_over.size() < request.gpus) return INFINITY;
  if (spreads(wish)) return -all_free;
  if (whole(request)) return all_free;
  std::sort(left_over.begin(), left_over.end());
  double sum = 0;
  for (size_t i = 0; i < request.gpus; i++) sum += left_over[i];
  return sum;
}

std::vector<std::pair<double, size_t>> scores(const std::vector<Answer>& answers, const Wish& wish) {
  std::vector<std::pair<double, size_t>> order;
  for (size_t i = 0; i < answers.size(); i++) {
    if (!answers[i].status.ok()) continue;
    auto uuids = matching_gpus(wish.filters, answers[i]);
    if (!uuids.empty()) order.emplace_back(score(answers[i], uuids, wish), i);
  }
  std::stable_sort(order.begin(), order.end(), [](auto& a, auto& b) { return a.first < b.first; });
  return order;
}

// Two clients that wait for the same GPU should not ask in step.
milliseconds jittered(milliseconds pause) {
  static std::minstd_rand random(std::random_device{}());
  return milliseconds(std::uniform_int_distribution<long long>(pause.count() / 2, pause.count() * 3 / 2)(random));
}

Result<Borrowed> take(const Answer& answer, const Wish& wish) {
  auto deadline = control::deadline_in(kAnswerTime);
  control::LeaseRequest request = wish.request;
  request.spread = spreads(wish);
  if (!wish.filters.empty()) request.gpu_uuids = matching_gpus(wish.filters, answer);
  auto body = answer.remote->ask(Opcode::kReserve, control::encode_LeaseRequest(request), deadline);
  if (!body.ok()) return body.status();
  auto reserved = control::decode_ReserveReply(control::as_bytes(*body));
  if (!reserved.ok()) return reserved.status();
  if (reserved->status != 0) return control::to_status(reserved->status, printable(reserved->message));
  body = answer.remote->ask(Opcode::kLease, control::encode_CommitRequest({reserved->reservation_id}), deadline);
  if (!body.ok()) return body.status();
  auto lease = control::decode_LeaseReply(control::as_bytes(*body));
  if (!lease.ok()) return lease.status();
  if (lease->status != 0) return control::to_status(lease->status, printable(lease->message));
  return Borrowed{printable(answer.list.server_name), answer.remote, std::move(*lease)};
}

// What a round of asking everybody came to, for the decision to wait and for the final message.
struct Round {
  std::string reasons;
  bool anybody = false;  // answered
  bool busy = false;     // could grant it later

  void add(const transport::Address& server, const std::string& why) {
    // What could not be reached names the server by itself.
    bool named = why.find(server.to_string()) != std::string::npos;
    reasons += (reasons.empty() ? "" : "; ") + (named ? "" : server.to_string() + ": ") + why;
  }
};

}  // namespace

std::vector<size_t> rank(const std::vector<Answer>& answers, const Wish& wish) {
  std::vector<size_t> positions;
  for (auto& [unused, position] : scores(answers, wish)) positions.push_back(position);
  return positions;
}

Result<Borrowed> borrow(const std::vector<transport::Address>& servers, const Wish& wish, const Listener& listener) {
  std::vector<Answer> answers(servers.size());
  for (size_t i = 0; i < servers.size(); i++) answers[i].server = servers[i];
  std::set<std::string> warned;
  auto enough = [&](const std::vector<Answer>& so_far) {
    auto order = scores(so_far, wish);
    return !order.empty() && order[0].first < INFINITY;
  };
  for (milliseconds pause = kFirstPause;; pause = std::min<milliseconds>(kLongestPause, pause * 8 / 5)) {
    Round round;
    survey(answers, kAnswerTime, enough);
    for (auto& answer : answers) {
      if (answer.status.ok()) continue;
      round.add(answer.server, answer.status.message());
      bool unanswered = answer.status.code() == StatusCode::kTimeout && answer.remote == nullptr;
      if (!unanswered && servers.size() > 1 && warned.insert(answer.server.to_string()).second)
        listener.warning("ignoring a server: " + answer.status.message());
    }
    bool answered = std::any_of(answers.begin(), answers.end(), [](auto& answer) { return answer.status.ok(); });
    auto order = rank(answers, wish);
    if (answered && order.empty()) return Status{StatusCode::kImpossible, no_match(wish.filters, answers)};
    for (size_t i : order) {
      auto borrowed = take(answers[i], wish);
      if (borrowed.ok()) return borrowed;
      Status why = borrowed.status();
      if (why.code() == StatusCode::kInvalid) return why;
      round.anybody |= why.code() == StatusCode::kExhausted || why.code() == StatusCode::kImpossible;
      round.busy |= why.code() == StatusCode::kExhausted;
      round.add(answers[i].server, why.message());
    }
    if (!round.anybody) return Status{StatusCode::kUnavailable, "no server answers: " + round.reasons};
    if (!round.busy) return Status{StatusCode::kImpossible, "no server can ever grant this: " + round.reasons};
    milliseconds wait = jittered(pause);
    if (wish.deadline) {
      auto left = std::chrono::ceil<milliseconds>(*wish.deadline - Clock::now());
      if (left.count() <= 0) return Status{StatusCode::kExhausted, "all servers are busy: " + round.reasons};
      wait = std::min<milliseconds>(wait, left);
    }
    listener.waiting(round.reasons);
    std::this_thread::sleep_for(wait);
  }
}

}  // namespace bf::tools
