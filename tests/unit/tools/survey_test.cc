#include "tools/survey.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <thread>

namespace bf::tools {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// Answers one ListRequest after `delay`; never, if it is 24 hours.
class SlowServer {
 public:
  SlowServer(std::string id, std::chrono::milliseconds delay) : id_(std::move(id)), delay_(delay) {
    transport::Address any{.host = "127.0.0.1", .port = 0, .unix_name = {}};
    listener_ = std::move(transport::listen(any, 64)).value();
    sockaddr_in name{};
    socklen_t bytes = sizeof name;
    getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&name), &bytes);
    address_ = {.host = "127.0.0.1", .port = ntohs(name.sin_port), .unix_name = {}};
    if (delay_ < 24h) thread_ = std::thread([this] { serve(); });
  }
  ~SlowServer() {
    if (thread_.joinable()) thread_.join();
  }
  const transport::Address& address() const { return address_; }
  // When the answer was sent; the epoch before.
  Clock::time_point answered() const { return answered_; }

 private:
  void serve() {
    for (auto end = Clock::now() + 5s; Clock::now() < end; std::this_thread::sleep_for(1ms)) {
      Fd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!socket) continue;
      (void)control::receive_frame(socket.get(), control::deadline_in(5s));
      std::this_thread::sleep_for(delay_);
      control::ListReply list;
      list.server_id = id_;
      (void)control::send_frame(socket.get(), Opcode::kList, kReply, control::encode_ListReply(list), {},
                                control::deadline_in(5s));
      answered_ = Clock::now();
      return;
    }
  }

  std::string id_;
  std::chrono::milliseconds delay_;
  Fd listener_;
  transport::Address address_;
  std::atomic<Clock::time_point> answered_{};
  std::thread thread_;
};

TEST(Survey, DeadServersCostNothingOnceTheRestWillDo) {
  std::vector<std::unique_ptr<SlowServer>> pool;
  std::vector<transport::Address> servers;
  for (int i = 0; i < 25; i++) {
    bool dead = i % 8 == 3;  // three of them
    pool.push_back(std::make_unique<SlowServer>("server" + std::to_string(i), dead ? 24h : i == 20 ? 500ms : 300ms));
    servers.push_back(pool.back()->address());
  }
  auto start = Clock::now();
  auto answers = survey(servers, 5s, [](const std::vector<Answer>& so_far) { return so_far.size() >= 22; });
  auto took = Clock::now() - start;
  Clock::duration slowest{};
  for (auto& server : pool) slowest = std::max(slowest, server->answered() - start);
  auto ms = [](Clock::duration time) { return std::chrono::duration<double, std::milli>(time).count(); };
  printf("25 servers, 3 of them dead: %.0f ms, the slowest answer came after %.0f ms\n", ms(took), ms(slowest));
  EXPECT_GE(took, slowest);
  EXPECT_LT(took, slowest * 6 / 5 + 50ms) << "a sixth of it, and room for a loaded machine";
  ASSERT_EQ(answers.size(), 25u);
  for (int i = 0; i < 25; i++) {
    EXPECT_EQ(answers[size_t(i)].status.ok(), i % 8 != 3) << i;
    EXPECT_EQ(answers[size_t(i)].server.port, servers[size_t(i)].port) << "in the order they were given";
  }
}

TEST(Survey, WaitsForAllWhenToldNothing) {
  SlowServer quick("a", 0ms), slow("b", 300ms);
  auto answers = survey({quick.address(), slow.address()}, 5s);
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_TRUE(answers[0].status.ok() && answers[1].status.ok());
}

TEST(Survey, AServerWithTwoNamesIsOne) {
  SlowServer one("same", 0ms), other("same", 100ms);
  EXPECT_EQ(survey({one.address(), other.address()}, 5s).size(), 1u);
}

TEST(Survey, UnreachableServersSaySo) {
  transport::Address nobody{.host = "127.0.0.1", .port = 1, .unix_name = {}};
  transport::Address neither{.host = "127.0.0.1", .port = 2, .unix_name = {}};
  auto answers = survey({nobody, neither}, 500ms);
  ASSERT_EQ(answers.size(), 2u);
  for (auto& answer : answers) EXPECT_EQ(answer.status.code(), StatusCode::kUnavailable);
  EXPECT_EQ(answers[1].server.port, 2);
}

}  // namespace
}  // namespace bf::tools
