// What an rdma link does when its network, its device or its peer fails or lies, over real verbs. Runs in the VM
// (tests/rdma/vm.py), whose cable it cuts; skipped elsewhere.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "tests/contract/link_pair.h"
#include "transport/rdma.h"
#include "transport/rdma_endpoint.h"

namespace bf::transport::test {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

void shell(const std::string& command) { ASSERT_EQ(system(command.c_str()), 0) << command; }

// The cable between the two interfaces (network.sh). For good: the kernel's Soft-RoCE takes minutes to talk again.
void cut_cable() { shell("ip link set v1 down"); }
void disturb(const std::string& how) {
  for (const char* device : {"v0", "v1"}) shell(std::string("tc qdisc replace dev ") + device + " root netem " + how);
}
void calm() {
  for (const char* device : {"v0", "v1"}) shell(std::string("tc qdisc del dev ") + device + " root");
}

Status send_bytes(Stream& stream, std::span<const std::byte> bytes) {
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  return stream.send(std::span(&part, 1));
}

class RdmaFaults : public testing::Test {
 protected:
  void SetUp() override {
    if (auto why = missing(Kind::kRdma); !why.empty()) GTEST_SKIP() << why;
    if (getuid() != 0 || system("ip link show v1 >/dev/null 2>&1") != 0) GTEST_SKIP() << "not in the VM";
  }
  // A thread of the client blocked in receive(), a transfer that waits for room; `act`, and what they then were told.
  struct Ended {
    std::string reason;  // at the client / at the worker: one of them notices first
    double seconds = 0;
    bool transfer_failed = false;
  };
  Ended end_by(const std::function<void(Pair&)>& act, std::chrono::seconds most) {
    Sink sinks[2];
    SentCounter sent;
    Pair pair = make_pair(Kind::kRdma);
    pair.client->bulk().start(sinks[0]);
    pair.worker->bulk().start(sinks[1]);  // keeps every block
    std::vector<std::byte> much(100 << 20);
    pair.client->bulk().send(1, much.data(), much.size(), sent.callback());
    EXPECT_TRUE(sinks[1].wait_landed(limits::kBulkBlocks));
    Ended ended;
    std::atomic<bool> over{false};
    std::thread reader([&] {
      std::byte byte;
      auto got = pair.client->calls().receive({&byte, 1});
      ended.reason = got.ok() ? "end" : got.status().message();
      got = pair.worker->calls().receive({&byte, 1});
      ended.reason += " / " + (got.ok() ? "end" : got.status().message());
      over = true;
    });
    std::thread side_reader([&] {  // as every session has one
      std::byte byte;
      (void)pair.client->side().receive({&byte, 1});
    });
    auto before = Clock::now();
    act(pair);
    while (!over && Clock::now() - before < most) std::this_thread::sleep_for(10ms);
    ended.seconds = std::chrono::duration<double>(Clock::now() - before).count();
    EXPECT_TRUE(over) << "nothing had noticed after " << ended.seconds << " s";
    ended.transfer_failed = sent.wait(1, 1s) && sent.failed() == 1;
    pair.client->shut();
    reader.join();
    side_reader.join();
    before = Clock::now();
    pair.client.reset();
    pair.worker.reset();
    EXPECT_LT(Clock::now() - before, 5s);
    fprintf(stderr, "after %.2f s: %s\n", ended.seconds, ended.reason.c_str());
    return ended;
  }
};

TEST_F(RdmaFaults, LossAndDelayChangeNothing) {
  Pair pair = make_pair(Kind::kRdma);
  disturb("delay 2ms loss 1%");
  auto source = random_bytes((4 << 20) + 123, 7);
  std::vector<std::byte> target(source.size());
  SentCounter sent;
  Sink unused, sink;
  sink.on_place = [&](const Block& block) { return target.data() + block.offset; };
  pair.client->bulk().start(unused);
  pair.worker->bulk().start(sink);
  pair.client->bulk().send(1, source.data(), source.size(), sent.callback());
  std::thread echo([&] {
    std::vector<std::byte> buffer(10'000);
    while (receive_exactly(pair.worker->calls(), buffer))
      if (!send_bytes(pair.worker->calls(), buffer).ok()) break;
  });
  for (uint64_t i = 0; i < 20; i++) {
    auto out = random_bytes(10'000, i);
    std::vector<std::byte> in(out.size());
    ASSERT_TRUE(send_bytes(pair.client->calls(), out).ok());
    ASSERT_TRUE(receive_exactly(pair.client->calls(), in));
    EXPECT_TRUE(in == out);
  }
  EXPECT_TRUE(sink.wait_landed(5));
  EXPECT_TRUE(same_bytes(target, source));
  calm();
  pair.client->shut();
  echo.join();
  pair.client->bulk().stop();
  pair.worker->bulk().stop();
}

TEST_F(RdmaFaults, ACutCableEndsTheLink) {
  auto ended = end_by([](Pair&) { cut_cable(); }, 5s);
  EXPECT_NE(ended.reason.find("went down"), std::string::npos) << ended.reason;
  EXPECT_TRUE(ended.transfer_failed);
}

TEST_F(RdmaFaults, ASilentNetworkEndsTheLinkOnceSomethingIsSent) {
  auto ended = end_by(
      [](Pair& pair) {
        disturb("loss 100%");
        std::byte byte{};
        (void)send_bytes(pair.client->side(), {&byte, 1});
        // Nobody waits for the completion of one small message: the next sends find out.
        std::thread([&] {
          for (int i = 0; i < 1000 && send_bytes(pair.client->side(), {&byte, 1}).ok(); i++) std::this_thread::sleep_for(100ms);
        }).join();
      },
      60s);
  calm();
  EXPECT_NE(ended.reason.find("no longer answers"), std::string::npos) << ended.reason;
  EXPECT_TRUE(ended.transfer_failed);
}

TEST_F(RdmaFaults, ABrokenQueuePairEndsTheLink) {
  for (size_t channel = 0; channel < 4; channel++) {
    auto ended = end_by([&](Pair& pair) { rdma::endpoint_of(*pair.client).connections()[channel]->break_queue_pair(); }, 5s);
    EXPECT_NE(ended.reason.find("closed"), std::string::npos) << ended.reason;
    EXPECT_TRUE(ended.transfer_failed);
  }
}

TEST_F(RdmaFaults, ThePeerClosesTheControlConnection) {
  Sockets sockets = connect_sockets(Kind::kRdma, 1);
  int control = dup(sockets.ends[1][0].get());
  std::unique_ptr<Link> worker;
  std::thread accepting([&] { worker = link_over(Kind::kRdma, std::move(sockets.ends[1]), true); });
  auto client = link_over(Kind::kRdma, std::move(sockets.ends[0]), false);
  accepting.join();
  shutdown(control, SHUT_RDWR);
  close(control);
  std::byte byte;
  auto before = Clock::now();
  EXPECT_FALSE(receive_exactly(client->calls(), {&byte, 1}));
  EXPECT_FALSE(receive_exactly(worker->side(), {&byte, 1}));
  EXPECT_LT(Clock::now() - before, 2s);
}

TEST_F(RdmaFaults, ForksInTheMiddleOfEverything) {
  Pair pair = make_pair(Kind::kRdma);
  std::thread echo([&] {
    std::vector<std::byte> buffer(20'000);
    while (receive_exactly(pair.worker->calls(), buffer))
      if (!send_bytes(pair.worker->calls(), buffer).ok()) break;
  });
  for (uint64_t i = 0; i < 10; i++) {
    pid_t child = fork();
    if (child == 0) {
      for (int descriptor : pair.client->descriptors()) close(descriptor);
      _exit(0);
    }
    auto out = random_bytes(20'000, i);
    std::vector<std::byte> in(out.size());
    ASSERT_TRUE(send_bytes(pair.client->calls(), out).ok());
    ASSERT_TRUE(receive_exactly(pair.client->calls(), in));
    EXPECT_TRUE(in == out) << i;
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  pair.client->shut();
  echo.join();
}

// --- Connecting

const std::string kSessionKey(32, 'k');
const char* host() { return getenv("BF_TEST_RDMA"); }

Fd some_control(Sockets& keep) {
  keep = connect_sockets(Kind::kTcp4, 1);
  return std::move(keep.ends[0][0]);
}

TEST_F(RdmaFaults, TheWrongKeyIsRefusedAndTheRightOneStillConnects) {
  auto listener = RdmaListener::open(host(), kSessionKey);
  ASSERT_TRUE(listener.ok()) << listener.status().message();
  Sockets sockets = connect_sockets(Kind::kTcp4, 1);
  std::unique_ptr<Link> worker;
  std::thread accepting([&] {
    auto link = (*listener)->accept(sockets.ends[1][0], -1, 30s);
    if (link.ok()) worker = std::move(*link);
  });
  auto wrong = connect_rdma_link(sockets.ends[0][0], host(), (*listener)->port(), std::string(32, 'w'), 10s);
  EXPECT_EQ(wrong.status().code(), StatusCode::kDenied);
  EXPECT_NE(wrong.status().message().find("key"), std::string::npos) << wrong.status().message();
  auto right = connect_rdma_link(sockets.ends[0][0], host(), (*listener)->port(), kSessionKey, 10s);
  EXPECT_TRUE(right.ok()) << right.status().message();
  accepting.join();
  EXPECT_TRUE(worker);
}

TEST_F(RdmaFaults, NobodyListens) {
  Sockets keep;
  Fd control = some_control(keep);
  auto before = Clock::now();
  auto link = connect_rdma_link(control, host(), 1, kSessionKey, 10s);
  EXPECT_EQ(link.status().code(), StatusCode::kUnavailable) << link.status().message();
  EXPECT_LT(Clock::now() - before, 5s);
  EXPECT_TRUE(control);
}

TEST_F(RdmaFaults, NoWayThere) {
  Sockets keep;
  Fd control = some_control(keep);
  auto before = Clock::now();
  auto link = connect_rdma_link(control, "10.9.9.9", 1, kSessionKey, 3s);
  EXPECT_FALSE(link.ok());
  fprintf(stderr, "%s\n", link.status().message().c_str());
  EXPECT_NE(link.status().message().find("RDMA"), std::string::npos);
  EXPECT_LT(Clock::now() - before, 5s);
}

TEST_F(RdmaFaults, NobodyComes) {
  auto listener = RdmaListener::open(host(), kSessionKey);
  ASSERT_TRUE(listener.ok());
  Sockets keep;
  Fd control = some_control(keep);
  auto before = Clock::now();
  EXPECT_EQ((*listener)->accept(control, -1, 300ms).status().code(), StatusCode::kTimeout);
  EXPECT_LT(Clock::now() - before, 2s);
  keep.ends[1].clear();  // the client leaves
  EXPECT_EQ((*listener)->accept(control, -1, 10s).status().code(), StatusCode::kUnavailable);
}

TEST_F(RdmaFaults, TooLittleLockableMemorySaysWhatToDo) {
  int out[2];
  ASSERT_EQ(pipe(out), 0);
  pid_t child = fork();
  if (child == 0) {
    dup2(out[1], 1);
    execl("/proc/self/exe", "rdma_fault_test", "--limited", nullptr);
    _exit(1);
  }
  close(out[1]);
  std::string text(4096, '\0');
  ssize_t got = read(out[0], text.data(), text.size());
  text.resize(size_t(std::max<ssize_t>(got, 0)));
  close(out[0]);
  waitpid(child, nullptr, 0);
  EXPECT_NE(text.find("ulimit -l"), std::string::npos) << text;
}

// --- The peer lies

class HostileRdma : public RdmaFaults {
 protected:
  void SetUp() override {
    RdmaFaults::SetUp();
    if (IsSkipped()) return;
    pair_ = make_pair(Kind::kRdma);
    pair_.worker->bulk().start(sink_);
  }
  rdma::Connection& connection(size_t channel) { return *rdma::endpoint_of(*pair_.client).connections()[channel]; }
  void post_empty(size_t channel, uint32_t immediate) {
    ibv_send_wr request{};
    request.wr_id = 1;
    request.opcode = IBV_WR_SEND_WITH_IMM;
    request.imm_data = htobe32(immediate);
    request.send_flags = IBV_SEND_SIGNALED;
    EXPECT_TRUE(connection(channel).post(request).ok());
  }
  void expect_shut() {
    std::byte byte;
    auto before = Clock::now();
    auto got = pair_.worker->calls().receive({&byte, 1});
    EXPECT_FALSE(got.ok());
    EXPECT_NE(got.status().message().find("cannot be true"), std::string::npos) << got.status().message();
    EXPECT_FALSE(receive_exactly(pair_.worker->side(), {&byte, 1}));
    EXPECT_LT(Clock::now() - before, 3s);
    EXPECT_TRUE(sink_.wait_lost());
    EXPECT_EQ(sink_.landed_count(), 0u);
  }

  Sink sink_;
  Pair pair_;
};

TEST_F(HostileRdma, CreditForMessagesThatWereNeverSent) {
  post_empty(0, 5);
  expect_shut();
}
TEST_F(HostileRdma, CreditForBlocksThatWereNeverSent) {
  post_empty(2, 1);
  expect_shut();
}
TEST_F(HostileRdma, AHeaderThatNobodyWrote) {
  ibv_send_wr request{};
  request.wr_id = 1;
  request.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
  request.imm_data = htobe32(3);  // slot 3 holds the header of block 0 of no bytes
  request.send_flags = IBV_SEND_SIGNALED;
  request.wr.rdma = {rdma::endpoint_of(*pair_.worker).landing().address, rdma::endpoint_of(*pair_.worker).landing().key};
  EXPECT_TRUE(connection(2).post(request).ok());
  expect_shut();
}
TEST_F(HostileRdma, AnImmediateBeyondTheRing) {
  ibv_send_wr request{};
  request.wr_id = 1;
  request.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
  request.imm_data = htobe32(limits::kBulkBlocks);
  request.send_flags = IBV_SEND_SIGNALED;
  request.wr.rdma = {rdma::endpoint_of(*pair_.worker).landing().address, rdma::endpoint_of(*pair_.worker).landing().key};
  EXPECT_TRUE(connection(3).post(request).ok());
  expect_shut();
}
TEST_F(HostileRdma, AWriteOutsideTheRing) {
  std::byte bytes[8] = {};
  ibv_sge piece{uint64_t(bytes), 8, 0};
  ibv_send_wr request{};
  request.wr_id = 1;
  request.sg_list = &piece;
  request.num_sge = 1;
  request.opcode = IBV_WR_RDMA_WRITE;
  request.send_flags = IBV_SEND_SIGNALED | IBV_SEND_INLINE;
  auto landing = rdma::endpoint_of(*pair_.worker).landing();
  request.wr.rdma = {landing.address + (size_t{1} << 40), landing.key};
  EXPECT_TRUE(connection(2).post(request).ok());
  ibv_wc completion{};
  auto deadline = Clock::now() + 10s;
  while (connection(2).sends().poll({&completion, 1}) == 0 && Clock::now() < deadline) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(completion.status, IBV_WC_REM_ACCESS_ERR);
}

// As a user who may lock almost nothing.
int limited_main() {
  const rlimit little{64 << 10, 64 << 10};
  if (setrlimit(RLIMIT_MEMLOCK, &little) != 0 || setgid(65534) != 0 || setuid(65534) != 0) return 1;
  Sockets sockets = connect_sockets(Kind::kTcp4, 1);
  auto link = connect_rdma_link(sockets.ends[0][0], host(), 1, kSessionKey, 5s);
  puts(link.status().message().c_str());
  return 0;
}

}  // namespace
}  // namespace bf::transport::test

int main(int argc, char** argv) {
  if (argc > 1 && strcmp(argv[1], "--limited") == 0) return bf::transport::test::limited_main();
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
