// The books of a managed pool, in a real etcd of one member. Skipped where none is installed.
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "base/random.h"
#include "proto/secrets.h"
#include "server/daemon/pool_books.h"
#include "tests/unit/daemon/test_server.h"

extern char** environ;

namespace bf::daemon {
namespace {

class Books : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (system("command -v etcd >/dev/null") != 0) return;
    folder_ = testing::TempDir() + "etcd-XXXXXX";
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    const std::string port = std::to_string(20'000 + getpid() % 10'000), peer = std::to_string(30'000 + getpid() % 2'000);
    url_ = "http://127.0.0.1:" + port;
    const std::string peer_url = "http://127.0.0.1:" + peer;
    std::vector<std::string> words = {"etcd", "--name", "one", "--data-dir", folder_, "--listen-client-urls", url_, "--advertise-client-urls", url_,
                                      "--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url, "--initial-cluster", "one=" + peer_url,
                                      "--logger", "zap", "--log-level", "error"};
    std::vector<char*> argv;
    for (auto& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    ASSERT_EQ(posix_spawnp(&pid_, "etcd", nullptr, nullptr, argv.data(), environ), 0);
  }
  static void TearDownTestSuite() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    [[maybe_unused]] int done = system(("rm -r " + folder_).c_str());
  }

  void SetUp() override {
    if (pid_ <= 0) GTEST_SKIP() << "etcd is not installed";
    ASSERT_TRUE(test::eventually(std::chrono::seconds(20), [] { return connect()->well(url_); })) << "etcd does not start";
    ASSERT_TRUE(connect()->commit(Etcd::Transaction().remove_prefix("backfield/")).ok());
  }

  static std::unique_ptr<Etcd> connect() {
    auto etcd = Etcd::open({{url_}, {}, {}, {}});
    EXPECT_TRUE(etcd.ok()) << etcd.status().message();
    return std::move(*etcd);
  }
  static std::unique_ptr<PoolBooks> books(const std::string& server) {
    return std::make_unique<PoolBooks>(connect(), server, nlohmann::json{{"name", server}});
  }

  static inline std::string folder_, url_;
  static inline pid_t pid_ = -1;
};

Claim claim(const std::string& lease, std::vector<double> gpus, const std::string& client = "alice") {
  return {lease, client, "lab", {std::move(gpus), 100}};
}

Token token(const std::string& name, const std::string& id) { return {.id = id, .name = name, .group = "lab", .hash = secrets::digest(name)}; }

TEST_F(Books, WhatOneServerChangesAllKnow) {
  auto one = books("one"), two = books("two");
  ASSERT_TRUE(one->create({"ca", "key", {token("alice", "a")}, {{"client", Limit{.gpus = 2.5}}}}).ok());
  EXPECT_EQ(two->create({}).code(), StatusCode::kInvalid) << "there is a pool already";
  ASSERT_TRUE(two->refresh().ok());
  EXPECT_EQ(two->configuration().ca_key, "key");
  ASSERT_EQ(two->configuration().tokens.size(), 1u);
  EXPECT_EQ(two->configuration().tokens[0].hash, secrets::digest("alice"));
  ASSERT_TRUE(two->apply(token("alice", "b")).ok()) << "a new secret under the same name";
  EXPECT_EQ(one->apply(RemoveToken{"alice"}).code(), StatusCode::kExhausted) << "it has not seen that yet";
  ASSERT_TRUE(one->refresh().ok());
  ASSERT_EQ(one->configuration().tokens.size(), 1u);
  EXPECT_EQ(one->configuration().tokens[0].id, "b");
  ASSERT_TRUE(one->apply(RemoveLimit{"client"}).ok());
  ASSERT_TRUE(two->refresh().ok());
  EXPECT_TRUE(two->configuration().limits.empty());
}

TEST_F(Books, ARestoredConfigurationReplacesAllOfIt) {
  auto one = books("one"), two = books("two");
  Configuration many;
  for (int i = 0; i < 250; i++) many.tokens.push_back(token("client" + std::to_string(i), random_id()));
  ASSERT_TRUE(one->create({"ca", "key", {token("old", "a")}, {{"server", Limit{.leases = 1}}}}).ok());
  ASSERT_TRUE(one->apply(many).ok());
  ASSERT_TRUE(two->refresh().ok());
  EXPECT_EQ(two->configuration().tokens.size(), 250u) << "more than one transaction takes";
  EXPECT_TRUE(two->configuration().limits.empty());
  auto left = connect()->commit(Etcd::Transaction().read_prefix("backfield/config/"));
  ASSERT_TRUE(left.ok());
  EXPECT_EQ(left->reads[0].size(), 251u) << "nothing of the old generation stays";
}

TEST_F(Books, LimitsHoldOverAllServersWithTheirArithmetic) {
  auto one = books("one"), two = books("two");
  ASSERT_TRUE(one->create({{}, {}, {}, {{"client", Limit{.gpus = 2.5}}, {"group:lab", Limit{.gpus = 3}}, {"pool", Limit{.leases = 4}}, {"server", Limit{.leases = 0}}}}).ok());
  ASSERT_TRUE(one->claim(claim("l1", {1})).ok()) << "limits of servers are not counted here";
  ASSERT_TRUE(two->claim(claim("l2", {0.75, 0.75})).ok());
  Status fourth = one->claim(claim("l3", {0.25}));
  EXPECT_EQ(fourth.code(), StatusCode::kExhausted);
  EXPECT_NE(fourth.message().find("1 + 0.75 + 0.75 = 2.5 are taken, and 0.25 more would make 2.75"), std::string::npos) << fourth.message();
  EXPECT_NE(one->claim(claim("l4", {0.75}, "bob")).message().find("group 'lab' is 3"), std::string::npos);
  ASSERT_TRUE(one->claim(claim("l5", {0.25}, "bob")).ok());
  EXPECT_EQ(one->claim(claim("l6", {4}, "eve")).code(), StatusCode::kImpossible);
  two->release("l2");
  ASSERT_TRUE(one->claim(claim("l3", {0.25})).ok());
}

TEST_F(Books, RacingServersNeverPassALimit) {
  ASSERT_TRUE(books("maker")->create({{}, {}, {}, {{"client", Limit{.gpus = 2.5}}}}).ok());
  std::atomic<int> granted = 0, refused = 0, other = 0;
  std::vector<std::thread> servers;
  for (int s = 0; s < 5; s++)
    servers.emplace_back([&, s] {
      auto own = books("server" + std::to_string(s));
      for (int i = 0; i < 4; i++) {
        Status claimed = own->claim(claim("s" + std::to_string(s) + "-" + std::to_string(i), {0.5}));
        (claimed.ok() ? granted : claimed.message().find("2.5") != std::string::npos ? refused : other)++;
      }
    });
  for (auto& server : servers) server.join();
  EXPECT_EQ(granted, 5);
  EXPECT_EQ(refused, 15);
  EXPECT_EQ(other, 0);
}

TEST_F(Books, ANewLifeOfAServerEndsWhatTheOldOneHeld) {
  auto other = books("other");
  ASSERT_TRUE(other->create({{}, {}, {}, {{"pool", Limit{.leases = 1}}}}).ok());
  auto first = books("one");
  ASSERT_TRUE(first->claim(claim("old", {1})).ok());
  EXPECT_EQ(other->claim(claim("mine", {1})).code(), StatusCode::kExhausted);
  auto second = books("one");
  ASSERT_TRUE(second->keep().ok());
  ASSERT_TRUE(other->claim(claim("mine", {1})).ok());
  // The old life, if it was only asleep, finds its place gone and takes a new one; it does not fail.
  ASSERT_TRUE(first->refresh().ok());
  EXPECT_EQ(first->claim(claim("again", {1})).code(), StatusCode::kExhausted);
}

TEST_F(Books, ClaimsThatEtcdLostAreEnteredAgain) {
  auto one = books("one");
  ASSERT_TRUE(one->create({}).ok());
  ASSERT_TRUE(one->claim(claim("l1", {1})).ok());
  ASSERT_TRUE(one->claim(claim("l2", {1})).ok());
  auto seen = connect()->commit(Etcd::Transaction().read_prefix("backfield/leases/one/"));
  ASSERT_TRUE(seen.ok());
  ASSERT_EQ(seen->reads[0].size(), 2u);
  ASSERT_TRUE(connect()->revoke(seen->reads[0][0].lease).ok()) << "as if it had been cut off for too long";
  one->release("l2");
  ASSERT_TRUE(test::eventually(std::chrono::seconds(10), [&] {
    return one->keep().ok() && connect()->commit(Etcd::Transaction().read_prefix("backfield/leases/one/"))->reads[0].size() == 1;
  }));
  auto servers = one->servers();
  ASSERT_TRUE(servers.ok());
  EXPECT_EQ((*servers)[0]["leases"], 1);
  one->leave();
  EXPECT_TRUE(one->servers().value().empty());
}

TEST_F(Books, SaysWhenNobodyAnswersAndWhenItIsSomethingElse) {
  auto nobody = Etcd::open({{"http://127.0.0.1:9"}, {}, {}, {}});
  ASSERT_TRUE(nobody.ok());
  PoolBooks lost(std::move(*nobody), "one", {});
  Status claimed = lost.claim(claim("l", {1}));
  EXPECT_EQ(claimed.code(), StatusCode::kUnavailable);
  EXPECT_FALSE(lost.reachable());
  EXPECT_NE(books("x")->refresh().message().find("holds no pool"), std::string::npos);
  ASSERT_TRUE(connect()->commit(Etcd::Transaction().put("backfield/changes", "no json").put("backfield/leases/x/y", "[]")).ok());
  EXPECT_TRUE(books("x")->refresh().ok()) << "nonsense is read as nothing";
}

}  // namespace
}  // namespace bf::daemon
