#include "tools/borrow.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <thread>

namespace bf::tools {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr auto kAnswerTime = milliseconds(5000);
constexpr auto kFirstPause = milliseconds(200);
constexpr auto kLongestPause = milliseconds(5000);

bool whole(const control::LeaseRequest& request) {
  return request.memory_bytes == 0 && (request.fraction == 0 || request.fraction == 1);
}

// Lower is better; infinite: it cannot grant this now.
double score(const control::ListReply& list, const control::LeaseRequest& request) {
  std::vector<double> left_over;
  double all_free = 0;
  for (auto& gpu : list.gpus) {
    if (!gpu.healthy) continue;
    all_free += double(gpu.free_bytes);
    double wanted =
        request.memory_bytes > 0 ? double(request.memory_bytes) : request.fraction * double(gpu.memory_bytes);
    bool fits = whole(request) ? gpu.leases == 0 : wanted <= double(gpu.free_bytes);
    if (fits) left_over.push_back(double(gpu.free_bytes) - wanted);
  }
  if (list.draining || left_over.size() < request.gpus) return INFINITY;
  if (whole(request)) return -all_free;
  std::sort(left_over.begin(), left_over.end());
  double sum = 0;
  for (size_t i = 0; i < request.gpus; i++) sum += left_over[i];
  return sum;
}

// Two clients that wait for the same GPU should not ask in step.
milliseconds jittered(milliseconds pause) {
  static std::minstd_rand random(std::random_device{}());
  return milliseconds(std::uniform_int_distribution<long long>(pause.count() / 2, pause.count() * 3 / 2)(random));
}

milliseconds left_until(control::Deadline deadline) {
  return std::max(milliseconds(0), std::chrono::ceil<milliseconds>(deadline - Clock::now()));
}

Result<Borrowed> take(const Answer& answer, const control::LeaseRequest& request) {
  auto deadline = control::deadline_in(kAnswerTime);
  auto socket = transport::dial(answer.server, kAnswerTime);
  if (!socket.ok()) return socket.status();
  auto body = control::round_trip(socket->get(), Opcode::kLease, control::encode_LeaseRequest(request), deadline);
  if (!body.ok()) return body.status();
  auto lease = control::decode_LeaseReply(control::as_bytes(*body));
  if (!lease.ok()) return lease.status();
  if (lease->status != 0) return control::to_status(lease->status, printable(lease->message));
  return Borrowed{answer.server, printable(answer.list.server_name), std::move(*socket), std::move(*lease)};
}

// What a round of asking everybody came to, for the decision to wait and for the final message.
struct Round {
  std::string reasons;
  bool anybody = false;  // answered
  bool busy = false;     // could grant it later

  void add(const transport::Address& server, const std::string& why) {
    reasons += (reasons.empty() ? "" : "; ") + server.to_string() + ": " + why;
  }
};

}  // namespace

std::vector<size_t> rank(const std::vector<Answer>& answers, const control::LeaseRequest& request) {
  std::vector<std::pair<double, size_t>> order;
  for (size_t i = 0; i < answers.size(); i++)
    if (answers[i].status.ok()) order.emplace_back(score(answers[i].list, request), i);
  std::stable_sort(order.begin(), order.end(), [](auto& a, auto& b) { return a.first < b.first; });
  std::vector<size_t> positions;
  for (auto& [unused, position] : order) positions.push_back(position);
  return positions;
}

Result<Borrowed> borrow(const std::vector<transport::Address>& servers, const control::LeaseRequest& request,
                        control::Deadline deadline, const std::function<void(const std::string&)>& waiting) {
  for (milliseconds pause = kFirstPause;; pause = std::min(kLongestPause, pause * 8 / 5)) {
    Round round;
    auto answers = ask_servers(servers, kAnswerTime);
    for (auto& answer : answers)
      if (!answer.status.ok()) round.add(answer.server, answer.status.message());
    for (size_t i : rank(answers, request)) {
      auto borrowed = take(answers[i], request);
      if (borrowed.ok()) return borrowed;
      Status why = borrowed.status();
      if (why.code() == StatusCode::kInvalid) return why;
      round.anybody |= why.code() == StatusCode::kExhausted || why.code() == StatusCode::kImpossible;
      round.busy |= why.code() == StatusCode::kExhausted;
      round.add(answers[i].server, why.message());
    }
    if (!round.anybody) return Status{StatusCode::kUnavailable, "no server answers: " + round.reasons};
    if (!round.busy) return Status{StatusCode::kImpossible, "no server can ever grant this: " + round.reasons};
    milliseconds left = left_until(deadline);
    if (left.count() == 0) return Status{StatusCode::kExhausted, "all servers are busy: " + round.reasons};
    waiting(round.reasons);
    std::this_thread::sleep_for(std::min(left, jittered(pause)));
  }
}

}  // namespace bf::tools
