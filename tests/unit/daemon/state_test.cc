// What a server keeps: tokens, limits, history, audit log, backups.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "proto/secrets.h"
#include "server/daemon/audit.h"
#include "server/daemon/authority.h"
#include "server/daemon/backup.h"
#include "server/daemon/guests.h"
#include "server/daemon/quota.h"
#include "server/daemon/store.h"

namespace bf::daemon {
namespace {

using namespace std::chrono_literals;

class State : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "state-XXXXXX";
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
  }
  void TearDown() override { [[maybe_unused]] int done = system(("rm -r " + folder_).c_str()); }
  mode_t mode(const std::string& name) {
    struct stat facts {};
    stat((folder_ + "/" + name).c_str(), &facts);
    return facts.st_mode & 0777;
  }
  std::unique_ptr<Store> open() {
    auto store = Store::open(folder_ + "/backfield.db");
    EXPECT_TRUE(store.ok()) << store.status().message();
    return std::move(*store);
  }
  std::string folder_;
};

Token token(const std::string& name, const std::string& id = "0123456789abcdef") {
  return {.id = id, .name = name, .group = "lab", .hash = secrets::digest("secret of " + name)};
}

TEST_F(State, TokensAndLimitsSurviveARestart) {
  {
    auto store = open();
    Token alice = token("alice");
    alice.expires = 4'000'000'000;
    alice.admin = true;
    ASSERT_TRUE(store->put(alice).ok());
    ASSERT_TRUE(store->put(token("bob", "b000000000000000")).ok());
    ASSERT_TRUE(store->remove_token("bob").ok());
    ASSERT_TRUE(store->put("client", Limit{.gpus = 2.5}).ok());
    ASSERT_TRUE(store->put("server", Limit{.leases = 7}).ok());
    ASSERT_TRUE(store->remove_limit("server").ok());
  }
  auto store = open();
  ASSERT_EQ(store->tokens().size(), 1u);
  const Token* alice = store->token("0123456789abcdef");
  ASSERT_NE(alice, nullptr);
  EXPECT_EQ(alice->hash, secrets::digest("secret of alice"));
  EXPECT_TRUE(alice->admin);
  EXPECT_EQ(alice->expires, 4'000'000'000);
  EXPECT_EQ(store->limits().size(), 1u);
  EXPECT_EQ(store->limits().at("client").gpus, 2.5);
  EXPECT_EQ(mode("backfield.db"), 0600u);
  std::ifstream file(folder_ + "/backfield.db");
  std::string bytes((std::istreambuf_iterator<char>(file)), {});
  EXPECT_EQ(bytes.find("secret of alice"), std::string::npos) << "only hashes";
}

TEST_F(State, RotatingReplacesTheSecretUnderTheSameName) {
  auto store = open();
  ASSERT_TRUE(store->put(token("alice")).ok());
  ASSERT_TRUE(store->put(token("alice", "ffffffffffffffff")).ok());
  EXPECT_EQ(store->token("0123456789abcdef"), nullptr);
  EXPECT_NE(store->token("ffffffffffffffff"), nullptr);
}

TEST_F(State, HistoryIsKeptAndForgotten) {
  auto store = open();
  for (int i = 0; i < 5; i++)
    ASSERT_TRUE(store->record({"lease" + std::to_string(i), "alice", "host", "prog", 100 + i, 200 + i, 1, 512, "it's over"}).ok());
  auto past = store->history(3);
  ASSERT_TRUE(past.ok());
  ASSERT_EQ(past->size(), 3u);
  EXPECT_EQ((*past)[0].id, "lease4");
  EXPECT_EQ((*past)[0].end_reason, "it's over");
  ASSERT_TRUE(store->forget_before(203).ok());
  EXPECT_EQ(store->history(9).value().size(), 2u);
}

TEST_F(State, SaysWhenTheFileIsNotIts) {
  std::ofstream(folder_ + "/backfield.db") << "this is no database, and longer than the header of one would be, by far, really";
  EXPECT_FALSE(Store::open(folder_ + "/backfield.db").ok());
  EXPECT_FALSE(Store::open(folder_ + "/no/such/folder").ok());
  ASSERT_EQ(symlink("/etc/passwd", (folder_ + "/link").c_str()), 0);
  EXPECT_FALSE(Store::open(folder_ + "/link").ok()) << "no way out of the folder";
}

TEST_F(State, AnAuthorityAndACertificateAreMadeOnce) {
  auto first = make_credentials(folder_, "gpu1");
  ASSERT_TRUE(first.ok()) << first.status().message();
  EXPECT_EQ(first->pin.size(), 32u);
  EXPECT_GT(first->expires, time(nullptr) + 300 * 86400);
  for (auto name : {"ca.pem", "ca-key.pem", "server.pem", "server-key.pem"}) EXPECT_EQ(mode(name), 0600u) << name;
  auto second = make_credentials(folder_, "gpu1");
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->pin, first->pin);
  EXPECT_EQ(second->expires, first->expires) << "the same certificate";
  unlink((folder_ + "/server.pem").c_str());
  EXPECT_EQ(make_credentials(folder_, "gpu1").value().pin, first->pin) << "made again by the same authority";
  std::ofstream(folder_ + "/ca.pem") << "damaged";
  EXPECT_EQ(make_credentials(folder_, "gpu1").status().code(), StatusCode::kInvalid);
}

TEST_F(State, ABackupMakesAnotherServerOfTheSamePool) {
  std::string other = folder_ + "/other", file = folder_ + "/backup.json";
  mkdir(other.c_str(), 0700);
  auto store = open();
  ASSERT_TRUE(store->put(token("alice")).ok());
  ASSERT_TRUE(store->put("client", Limit{.gpus = 2.5}).ok());
  auto own = make_credentials(folder_, "gpu1");
  ASSERT_TRUE(own.ok());
  std::ofstream(file) << backup_of(configuration_of(*store, folder_));
  auto copy = Store::open(other + "/backfield.db").value();
  ASSERT_TRUE(copy->put(token("old", "aaaaaaaaaaaaaaaa")).ok());
  ASSERT_NE(make_credentials(other, "gpu2").value().pin, own->pin);
  auto restore = [](Store& into, const std::string& folder, const std::string& path) -> Status {
    auto all = read_backup(read_file(path).value(), path);
    return all.ok() ? adopt(*all, into, folder) : all.status();
  };
  Status restored = restore(*copy, other, file);
  ASSERT_TRUE(restored.ok()) << restored.message();
  EXPECT_EQ(copy->token_named("old"), nullptr);
  EXPECT_EQ(copy->token_named("alice")->hash, secrets::digest("secret of alice"));
  EXPECT_EQ(copy->limits().at("client").gpus, 2.5);
  EXPECT_EQ(make_credentials(other, "gpu2").value().pin, own->pin);
  for (std::string bad : {"", "{}", "[1]", R"({"backfield_backup":1,"tokens":[{"id":1}],"limits":[]})", R"({"backfield_backup":99,"tokens":[],"limits":[]})"}) {
    std::ofstream(file) << bad;
    EXPECT_EQ(restore(*copy, other, file).code(), StatusCode::kInvalid) << bad;
    EXPECT_NE(copy->token_named("alice"), nullptr) << "nothing has changed";
  }
}

// --- tokens ----------------------------------------------------------------------------------------------------------

TEST_F(State, EveryReasonToRefuseATokenIsItsOwn) {
  auto store = open();
  Token alice = token("alice");
  alice.expires = 2'000'000;
  ASSERT_TRUE(store->put(alice).ok());
  Identity who;
  auto answer = [&](const std::string& secret, uint64_t client_time, time_t server_time) {
    who = {};
    return check_token(*store, {alice.id, secret, client_time}, server_time, &who);
  };
  auto good = answer("secret of alice", 1'000'000, 1'000'000);
  EXPECT_EQ(good.status, 0u);
  EXPECT_EQ(good.message, "");
  EXPECT_TRUE(who.known);
  EXPECT_EQ(who.client, "alice");
  EXPECT_EQ(who.group, "lab");
  EXPECT_NE(answer("secret of alice", 1'004'000, 1'000'000).message.find("clock is 66 minutes ahead"), std::string::npos);
  auto wrong = answer("secret of mallory", 1'000'000, 1'000'000);
  EXPECT_EQ(wrong.status, uint32_t(StatusCode::kDenied));
  EXPECT_FALSE(who.known);
  auto unknown = check_token(*store, {"ffffffffffffffff", "secret of alice", 0}, 1'000'000, &who);
  EXPECT_EQ(unknown.message, wrong.message) << "whether the id is known is not told";
  EXPECT_NE(answer("secret of alice", 2'000'000, 2'000'000).message.find("expired on 1970-01-24"), std::string::npos);
  EXPECT_NE(answer("secret of alice", 1'000'000, 2'000'000).message.find("behind the server's"), std::string::npos)
      << "a wrong clock may be the reason";
  alice.disabled = true;
  ASSERT_TRUE(store->put(alice).ok());
  EXPECT_NE(answer("secret of alice", 1'000'000, 1'000'000).message.find("disabled"), std::string::npos);
  EXPECT_EQ(answer("secret of mallory", 1'000'000, 1'000'000).message, wrong.message) << "only its holder hears that";
}

TEST(Guesses, AreSlowedDownByAddress) {
  Guesses guesses;
  auto now = Guesses::Clock::now();
  for (int i = 0; i < Guesses::kFree; i++) {
    EXPECT_FALSE(guesses.pause("10.0.0.1", now)) << i;
    guesses.failed("10.0.0.1", now);
  }
  ASSERT_TRUE(guesses.pause("10.0.0.1", now));
  EXPECT_FALSE(guesses.pause("10.0.0.2", now)) << "another address";
  auto first = *guesses.pause("10.0.0.1", now);
  now += first;
  EXPECT_FALSE(guesses.pause("10.0.0.1", now));
  guesses.failed("10.0.0.1", now);
  EXPECT_GT(*guesses.pause("10.0.0.1", now), first);
  for (int i = 0; i < 20; i++) guesses.failed("10.0.0.1", now);
  EXPECT_LE(*guesses.pause("10.0.0.1", now), Guesses::kLongestPause);
  now += Guesses::kForgotten + 1min;
  guesses.failed("10.0.0.1", now);
  EXPECT_FALSE(guesses.pause("10.0.0.1", now)) << "forgotten";
  for (int i = 0; i < 10'000; i++) guesses.failed("address " + std::to_string(i), now);  // bounded
}

// --- limits ----------------------------------------------------------------------------------------------------------

TEST(Quota, FractionsAddUpAndTheMessageShowsHow) {
  Limit limit{.gpus = 2.5};
  std::vector<Taken> held;
  for (double part : {1.0, 0.75, 0.75}) {
    Taken wanted{{part}, 100};
    EXPECT_TRUE(check_limit("of the client 'alice'", limit, held, wanted).ok()) << part;
    held.push_back(wanted);
  }
  Status fourth = check_limit("of the client 'alice'", limit, held, {{0.75}, 100});
  EXPECT_EQ(fourth.code(), StatusCode::kExhausted);
  EXPECT_EQ(fourth.message(),
            "the limit of the client 'alice' is 2.5 GPUs: 1 + 0.75 + 0.75 = 2.5 are taken, and 0.75 more would make 3.25");
  EXPECT_EQ(check_limit("x", limit, {}, {{1, 1, 1}, 100}).code(), StatusCode::kImpossible);
  std::vector<Taken> thirds(2, Taken{{1.0 / 3}, 1});
  EXPECT_TRUE(check_limit("x", {.gpus = 1}, thirds, {{1.0 / 3}, 1}).ok()) << "three thirds are one";
}

TEST(Quota, MemoryAndLeasesAreCounted) {
  std::vector<Taken> held = {{{0.5}, 600}, {{0.5}, 300}};
  EXPECT_TRUE(check_limit("x", {.memory_mib = 1000}, held, {{0.1}, 100}).ok());
  EXPECT_EQ(check_limit("x", {.memory_mib = 1000}, held, {{0.1}, 101}).code(), StatusCode::kExhausted);
  EXPECT_EQ(check_limit("x", {.memory_mib = 1000}, held, {{0.1}, 1001}).code(), StatusCode::kImpossible);
  EXPECT_TRUE(check_limit("x", {.leases = 3}, held, {{0.1}, 1}).ok());
  EXPECT_EQ(check_limit("x", {.leases = 2}, held, {{0.1}, 1}).code(), StatusCode::kExhausted);
  EXPECT_EQ(check_limit("x", {.leases = 0}, {}, {{0.1}, 1}).code(), StatusCode::kImpossible);
  EXPECT_TRUE(check_limit("x", {}, held, {{16}, 1 << 30}).ok()) << "no limit";
}

// --- audit -----------------------------------------------------------------------------------------------------------

TEST_F(State, TheAuditLogIsJsonLinesAndRotates) {
  std::string path = folder_ + "/audit.log";
  auto audit = Audit::open(path, 1000).value();
  for (int i = 0; i < 30; i++) audit.write("lease", {{"lease", "line\nbreak \xff \"quoted\""}, {"mib", int64_t(i)}});
  EXPECT_EQ(mode("audit.log"), 0600u);
  int lines = 0, last = -1;
  for (int file = Audit::kFiles; file >= 0; file--) {
    std::ifstream in(file == 0 ? path : path + "." + std::to_string(file));
    for (std::string line; std::getline(in, line); lines++) {
      auto entry = nlohmann::json::parse(line);
      EXPECT_EQ(entry["event"], "lease");
      EXPECT_EQ(entry["mib"], ++last) << "in order, none missing";
    }
  }
  EXPECT_EQ(lines, 30);
  EXPECT_EQ(access((path + ".1").c_str(), F_OK), 0);
}

}  // namespace
}  // namespace bf::daemon
