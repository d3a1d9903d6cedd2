// What a transport does when its peer dies or lies, and what it leaves behind.
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <thread>

#include "proto/shared_memory.h"
#include "tests/contract/link_pair.h"
#include "transport/rdma.h"
#include "transport/shm_segment.h"
#include "transport/tcp_wire.h"

namespace bf::transport::test {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

int entries_of(const char* folder) {
  int count = 0;
  DIR* open = opendir(folder);
  while (readdir(open)) count++;
  closedir(open);
  return count;
}

// Pages of this process that devices hold (VmPin), in KiB.
std::string pinned_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmPin:")) return line;
  return {};
}

class LinkLife : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    if (auto why = missing(GetParam()); !why.empty()) GTEST_SKIP() << why;
  }
};
INSTANTIATE_TEST_SUITE_P(All, LinkLife, testing::ValuesIn(all_kinds()),
                         [](const auto& info) { return std::string(name_of(info.param)); });

TEST_P(LinkLife, HundredLinksLeaveNothingBehind) {
  make_pair(GetParam());  // what the first use keeps (none of it ours)
  std::thread([] {}).join();  // and a sanitizer's own thread, which comes with the first of ours
  int fds = entries_of("/proc/self/fd"), threads = entries_of("/proc/self/task");
  const std::string pinned = pinned_memory();
  for (int i = 0; i < 100; i++) {
    Sink sinks[2];
    SentCounter sent;
    std::vector<std::byte> source(3000);
    Pair pair = make_pair(GetParam());
    if (i % 4 != 0) {
      pair.client->bulk().start(sinks[0]);
      pair.worker->bulk().start(sinks[1]);
    }
    if (i % 4 > 1) pair.client->bulk().send(1, source.data(), source.size(), sent.callback());
    if (i % 4 == 3) pair.worker->bulk().send(1, source.data(), source.size(), sent.callback());
    if (i % 3 == 0) pair.worker->shut();
    if (i % 2 == 0) pair.client.reset();
  }
  EXPECT_EQ(entries_of("/proc/self/fd"), fds);
  // A joined thread leaves /proc a moment later.
  for (int i = 0; i < 100 && entries_of("/proc/self/task") > threads; i++) std::this_thread::sleep_for(10ms);
  EXPECT_LE(entries_of("/proc/self/task"), threads);
  EXPECT_EQ(rdma_memory().regions, 0u);
  EXPECT_EQ(pinned_memory(), pinned);
}

// The blocked signals of our threads, by thread id.
std::map<std::string, uint64_t> blocked_signals() {
  std::map<std::string, uint64_t> found;
  DIR* tasks = opendir("/proc/self/task");
  while (dirent* entry = readdir(tasks)) {
    std::string folder = std::string("/proc/self/task/") + entry->d_name, name, line;
    std::getline(std::ifstream(folder + "/comm"), name);
    if (!name.starts_with("bf-")) continue;
    std::ifstream status(folder + "/status");
    while (std::getline(status, line))
      if (line.starts_with("SigBlk:")) found[entry->d_name] = std::stoull(line.substr(7), nullptr, 16);
  }
  closedir(tasks);
  return found;
}

TEST_P(LinkLife, ThreadsTakeNoSignals) {
  Sink sinks[2];
  Pair pair = make_pair(GetParam());
  pair.client->bulk().start(sinks[0]);
  pair.worker->bulk().start(sinks[1]);
  auto is_blocked = [](uint64_t mask, int signal) { return (mask >> (signal - 1) & 1) != 0; };
  // While a thread starts, the C library blocks everything.
  std::map<std::string, uint64_t> blocked;
  for (int i = 0; i < 200; i++) {
    blocked = blocked_signals();
    if (blocked.size() >= 4 &&
        std::none_of(blocked.begin(), blocked.end(), [&](auto& one) { return is_blocked(one.second, SIGSEGV); }))
      break;
    std::this_thread::sleep_for(10ms);
  }
  EXPECT_GE(blocked.size(), 4u);
  for (auto& [thread, mask] : blocked) {
    for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGALRM, SIGCHLD, SIGUSR1, SIGUSR2, SIGPROF, SIGPIPE, SIGWINCH})
      EXPECT_TRUE(is_blocked(mask, signal)) << "a thread of ours takes signal " << signal;
    EXPECT_FALSE(is_blocked(mask, SIGSEGV)) << "a fault in program memory must reach the program's handler";
  }
}

// --- The peer is killed
// ------------------------------------------------------------------------------------------------

class PeerKilled : public LinkLife {};
INSTANTIATE_TEST_SUITE_P(All, PeerKilled, testing::Values(Kind::kTcp4, Kind::kTls, Kind::kShm, Kind::kRdma),
                         [](const auto& info) { return std::string(name_of(info.param)); });

TEST_P(PeerKilled, EverythingFailsWithinASecond) {
  Sockets sockets = connect_sockets(GetParam(), 6);
  PeerProcess peer(GetParam(), std::move(sockets.ends[1]));
  sockets.ends[1].clear();
  Sink sink;
  SentCounter sent;
  std::vector<std::byte> much(size_t{limits::kTcpBulkBlocks + 36} * limits::kBulkBlockBytes);  // more than any ring holds
  auto link = link_over(GetParam(), std::move(sockets.ends[0]), false);
  std::byte ready;
  ASSERT_TRUE(receive_exactly(link->side(), {&ready, 1}));
  link->bulk().start(sink);
  link->bulk().send(1, much.data(), much.size(), sent.callback());  // stalls: the peer releases nothing
  struct Woken {
    bool failed = false;
    Clock::time_point at;
  } woken[3];
  std::thread threads[] = {
      std::thread([&] {
        std::byte byte;
        auto got = link->calls().receive({&byte, 1});
        woken[0] = {!got.ok() || got.value() == 0, Clock::now()};
      }),
      std::thread([&] {
        std::byte byte;
        EXPECT_TRUE(await_ready(link->side(), 10s));
        auto got = link->side().receive({&byte, 1});
        woken[1] = {!got.ok() || got.value() == 0, Clock::now()};
      }),
      std::thread([&] {
        bool failed = send_on(link->calls()).code() == StatusCode::kUnavailable;
        woken[2] = {failed, Clock::now()};
      })};
  std::this_thread::sleep_for(300ms);
  EXPECT_EQ(sent.ok() + sent.failed(), 0);
  auto before = Clock::now();
  peer.kill_now();
  EXPECT_TRUE(sent.wait(1, kPromptly));
  EXPECT_TRUE(sink.wait_lost(kPromptly));
  for (auto& thread : threads) thread.join();
  for (const Woken& one : woken) {
    EXPECT_TRUE(one.failed);
    EXPECT_LT(one.at - before, kPromptly);
  }
  EXPECT_EQ(sent.failed(), 1);
  before = Clock::now();
  link.reset();
  EXPECT_LT(Clock::now() - before, kPromptly);
  EXPECT_EQ(sink.lost_count(), 1);
}

// --- The peer lies: tcp
// ------------------------------------------------------------------------------------------------

// A tcp link whose far ends are bare sockets.
class HostileTcp : public testing::Test {
 protected:
  void SetUp() override {
    sockets_ = connect_sockets(Kind::kTcp4, 6);  // two data connections each way
    link_ = link_over(Kind::kTcp4, std::move(sockets_.ends[1]), true);
    link_->bulk().start(sink_);
  }
  void write_block(const TcpHeader& header, int channel = 0) {
    std::vector<std::byte> bytes(sizeof header + std::min<size_t>(header.bytes, 2 << 20));
    memcpy(bytes.data(), &header, sizeof header);
    send(sockets_.ends[0][2 + size_t(channel)].get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }
  void expect_shut() {
    EXPECT_TRUE(sink_.wait_lost(kPromptly));
    std::byte byte;
    EXPECT_FALSE(receive_exactly(link_->calls(), {&byte, 1}));
    EXPECT_FALSE(receive_exactly(link_->side(), {&byte, 1}));
  }
  static TcpHeader block(uint64_t sequence, uint32_t bytes) { return tcp_block_header({sequence, 1, 0, bytes}); }

  Sockets sockets_;
  Sink sink_;
  std::unique_ptr<Link> link_;
};

TEST_F(HostileTcp, TrueHeadersPass) {
  write_block(block(1, 100), 1);
  write_block(block(0, 100), 0);
  write_block(block(limits::kTcpBulkBlocks - 1, limits::kBulkBlockBytes), 0);
  EXPECT_TRUE(sink_.wait_landed(3, 5s));
  EXPECT_EQ(sink_.lost_count(), 0);
}
TEST_F(HostileTcp, TooManyBytes) {
  write_block(block(0, limits::kBulkBlockBytes + 1));
  expect_shut();
}
TEST_F(HostileTcp, NoBytes) {
  write_block(block(0, 0));
  expect_shut();
}
TEST_F(HostileTcp, BeyondTheWindow) {
  write_block(block(limits::kTcpBulkBlocks, 1));
  expect_shut();
}
TEST_F(HostileTcp, FarBeyondTheWindow) {
  write_block(block(UINT64_MAX, 1));
  expect_shut();
}
TEST_F(HostileTcp, TheSameBlockTwice) {
  write_block(block(0, 10));
  EXPECT_TRUE(sink_.wait_landed(1, 5s));
  write_block(block(0, 10), 1);
  expect_shut();
  EXPECT_EQ(sink_.landed_count(), 1u);
}
TEST_F(HostileTcp, AReleasedBlockAgain) {
  write_block(block(0, 10));
  EXPECT_TRUE(sink_.wait_landed(1, 5s));
  link_->bulk().release(sink_.blocks()[0]);
  write_block(block(0, 10));
  expect_shut();
}
TEST_F(HostileTcp, UnknownKind) {
  TcpHeader header = block(0, 10);
  header.kind = TcpKind(7);
  write_block(header);
  expect_shut();
}
TEST_F(HostileTcp, CreditForWhatWasNeverSent) {
  write_block(tcp_credit_header(1));
  expect_shut();
}
TEST_F(HostileTcp, CreditWithBytes) {
  TcpHeader header = tcp_credit_header(0);
  header.bytes = 5;
  write_block(header);
  expect_shut();
}
TEST_F(HostileTcp, EndInsideABlock) {
  TcpHeader header = block(0, 1000);
  send(sockets_.ends[0][2].get(), &header, sizeof header, MSG_NOSIGNAL);
  shutdown(sockets_.ends[0][2].get(), SHUT_WR);
  shutdown(sockets_.ends[0][3].get(), SHUT_WR);
  EXPECT_TRUE(sink_.wait_lost(kPromptly));
  EXPECT_EQ(sink_.landed_count(), 0u);
}

// --- The peer lies: shm
// ------------------------------------------------------------------------------------------------

// A worker's shm link whose client is this test: it maps the segment and writes what it likes.
class HostileShm : public testing::Test {
 protected:
  void SetUp() override {
    Sockets sockets = connect_sockets(Kind::kShm, 1);
    socket_ = std::move(sockets.ends[0][0]);
    link_ = link_over(Kind::kShm, std::move(sockets.ends[1]), true);
    char offer[64];
    iovec part{offer, sizeof offer};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    ASSERT_GT(recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC), 0);
    int fd;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    memfd_.reset(fd);
    void* memory = mmap(nullptr, sizeof(shm::Segment), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ASSERT_NE(memory, MAP_FAILED);
    segment_ = static_cast<shm::Segment*>(memory);
    link_->bulk().start(sink_);
  }
  void TearDown() override {
    link_.reset();
    munmap(segment_, sizeof(shm::Segment));
  }
  void expect_shut() {
    EXPECT_TRUE(sink_.wait_lost(kPromptly));
    std::byte byte;
    EXPECT_FALSE(receive_exactly(link_->side(), {&byte, 1}));
    char end;
    EXPECT_EQ(recv(socket_.get(), &end, 1, 0), 0) << "the socket must be shut, too";
  }
  void publish(uint64_t sequence, uint32_t bytes) {
    shm::publish_slot(segment_->to_worker.bulk, {sequence, 1, 0, bytes});
  }

  Fd socket_, memfd_;
  shm::Segment* segment_ = nullptr;
  Sink sink_;
  std::unique_ptr<Link> link_;
};

TEST_F(HostileShm, TheSegmentCannotBeResized) {
  EXPECT_NE(ftruncate(memfd_.get(), 4096), 0);
  EXPECT_NE(ftruncate(memfd_.get(), 2 * sizeof(shm::Segment)), 0);
}
TEST_F(HostileShm, HeadBeyondTheRing) {
  segment_->to_worker.calls.head = shm::kCallsBytes + 1;
  std::byte byte;
  EXPECT_EQ(link_->calls().receive({&byte, 1}).status().code(), StatusCode::kInvalid);
  expect_shut();
}
TEST_F(HostileShm, HeadRunsBackwards) {
  std::byte byte;
  segment_->to_worker.calls.head = 10;
  EXPECT_TRUE(receive_exactly(link_->calls(), {&byte, 1}));
  segment_->to_worker.calls.head = 0;
  EXPECT_EQ(link_->calls().receive({&byte, 1}).status().code(), StatusCode::kInvalid);
  expect_shut();
}
TEST_F(HostileShm, TailBeyondTheHead) {
  segment_->to_client.calls.tail = 4 * shm::kCallsBytes;
  std::vector<std::byte> much(shm::kCallsBytes + 1);
  iovec part{much.data(), much.size()};
  EXPECT_EQ(link_->calls().send(std::span(&part, 1)).code(), StatusCode::kInvalid);
  expect_shut();
}
TEST_F(HostileShm, TrueSlotsPass) {
  publish(1, 5);
  publish(0, uint32_t(limits::kBulkBlockBytes));
  EXPECT_TRUE(sink_.wait_landed(2, 5s));
}
TEST_F(HostileShm, SlotOfTooManyBytes) {
  publish(0, uint32_t(limits::kBulkBlockBytes) + 1);
  expect_shut();
}
TEST_F(HostileShm, SlotOfNoBytes) {
  publish(0, 0);
  expect_shut();
}
TEST_F(HostileShm, SlotOfAnotherSequence) {
  publish(limits::kBulkBlocks, 5);
  expect_shut();
}
TEST_F(HostileShm, SlotReusedBeforeItsRelease) {
  for (uint32_t i = 0; i < limits::kBulkBlocks; i++) publish(i, 5);
  EXPECT_TRUE(sink_.wait_landed(limits::kBulkBlocks, 5s));
  publish(limits::kBulkBlocks, 5);
  expect_shut();
  EXPECT_EQ(sink_.landed_count(), limits::kBulkBlocks);
}
TEST_F(HostileShm, ReleasedBeyondWhatWasSent) {
  segment_->to_client.bulk.released = 5;
  SentCounter sent;
  std::byte byte{};
  link_->bulk().send(1, &byte, 1, sent.callback());
  EXPECT_TRUE(sent.wait(1, kPromptly));
  expect_shut();
}
TEST_F(HostileShm, BytesOnTheSocket) {
  EXPECT_EQ(send(socket_.get(), "x", 1, MSG_NOSIGNAL), 1);
  EXPECT_TRUE(sink_.wait_lost(kPromptly));
  std::byte byte;
  EXPECT_FALSE(receive_exactly(link_->calls(), {&byte, 1}));
}

// --- A worker that offers something wrong
// ------------------------------------------------------------------------------

void send_offer(int socket, const std::vector<int>& files, const void* bytes, size_t count) {
  iovec part{const_cast<void*>(bytes), count};
  const size_t file_bytes = files.size() * sizeof(int);
  alignas(cmsghdr) char control[CMSG_SPACE(3 * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!files.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(file_bytes);
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(file_bytes);
    memcpy(CMSG_DATA(rights), files.data(), file_bytes);
  }
  ASSERT_EQ(sendmsg(socket, &message, MSG_NOSIGNAL), ssize_t(count));
}

struct Offer {
  char magic[8] = {'b', 'f', '-', 's', 'h', 'm', '\n', '\0'};
  uint32_t version = shm::kVersion;
  uint32_t reserved = 0;
  uint64_t bytes = sizeof(shm::Segment);
  uint64_t shared_bytes = kSharedBytes;
};

Fd make_memfd(size_t bytes, int seals) {
  Fd fd(memfd_create("offer", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(ftruncate(fd.get(), off_t(bytes)), 0);
  if (seals != 0) {
    EXPECT_EQ(fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  }
  return fd;
}

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW;

// Offers the segment and, if `shared` is one, the memory to share.
StatusCode accept_code(const Offer& offer, const Fd& segment, const Fd& shared = make_memfd(kSharedBytes, kSeals)) {
  Sockets sockets = connect_sockets(Kind::kShm, 1);
  std::vector<int> files;
  for (const Fd* file : {&segment, &shared})
    if (*file) files.push_back(file->get());
  send_offer(sockets.ends[1][0].get(), files, &offer, sizeof offer);
  return accept_shm_link(std::move(sockets.ends[0][0]), 2s).status().code();
}

TEST(ShmOffer, IsCheckedBeforeUse) {
  int fds = entries_of("/proc/self/fd");
  EXPECT_EQ(accept_code({}, make_memfd(sizeof(shm::Segment), kSeals)), StatusCode::kOk);
  EXPECT_EQ(accept_code({}, make_memfd(sizeof(shm::Segment), 0)), StatusCode::kInvalid);
  EXPECT_EQ(accept_code({}, make_memfd(sizeof(shm::Segment), F_SEAL_GROW)), StatusCode::kInvalid);
  EXPECT_EQ(accept_code({}, make_memfd(sizeof(shm::Segment) - 4096, kSeals)), StatusCode::kInvalid);
  EXPECT_EQ(accept_code({}, Fd()), StatusCode::kInvalid);
  const Fd good = make_memfd(sizeof(shm::Segment), kSeals);
  EXPECT_EQ(accept_code({}, good, Fd()), StatusCode::kInvalid);
  EXPECT_EQ(accept_code({}, good, make_memfd(kSharedBytes, 0)), StatusCode::kInvalid);
  EXPECT_EQ(accept_code({}, good, make_memfd(kSharedBytes - 4096, kSeals)), StatusCode::kInvalid);
  EXPECT_EQ(accept_code({}, Fd(open("/dev/null", O_RDWR | O_CLOEXEC))), StatusCode::kInvalid);
  Offer other;
  other.version++;
  EXPECT_EQ(accept_code(other, make_memfd(sizeof(shm::Segment), kSeals)), StatusCode::kInvalid);
  EXPECT_EQ(entries_of("/proc/self/fd"), fds + 1);  // `good`
}

TEST(ShmOffer, SilenceAndHangUp) {
  Sockets sockets = connect_sockets(Kind::kShm, 1);
  auto before = Clock::now();
  EXPECT_EQ(accept_shm_link(std::move(sockets.ends[0][0]), 100ms).status().code(), StatusCode::kTimeout);
  EXPECT_LT(Clock::now() - before, kPromptly);
  sockets = connect_sockets(Kind::kShm, 1);
  sockets.ends[1].clear();
  EXPECT_EQ(accept_shm_link(std::move(sockets.ends[0][0]), 5s).status().code(), StatusCode::kUnavailable);
  sockets = connect_sockets(Kind::kShm, 1);
  sockets.ends[0].clear();
  EXPECT_FALSE(offer_shm_link(std::move(sockets.ends[1][0])).ok());
}

}  // namespace
}  // namespace bf::transport::test
