// Whole sessions over loopback: the worker in this process, a fake driver below it and a small client before it.
#include "server/worker/session.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <future>
#include <numeric>
#include <random>

#include "base/sha256.h"
#include "proto/mirror.h"
#include "proto/session.h"
#include "proto/shared_memory.h"
#include "tests/unit/worker/fake_driver.h"
#include "tests/unit/worker/test_client.h"

namespace bf {
namespace {

using namespace bf::client;

using test::kMiB;

class SessionTest : public testing::Test {
 protected:
  void start(const transport::Faults& to_worker = {}, const transport::Faults& to_client = {}) {
    pair_ = transport::make_loopback(to_worker, to_client);
    serve();
  }
  // The same over shared memory.
  void start_shm() {
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    auto worker = transport::offer_shm_link(Fd(ends[1]));
    ASSERT_TRUE(worker.ok()) << worker.status().message();
    auto client = transport::accept_shm_link(Fd(ends[0]), std::chrono::seconds(5));
    ASSERT_TRUE(client.ok()) << client.status().message();
    pair_ = {std::move(*client), std::move(*worker)};
    serve();
    use_context();
  }
  void serve() {
    const uint64_t limits[] = {limit_bytes_};
    auto ledger = server::Ledger::create(limits);
    ledger_.emplace(std::move(*ledger));
    config_.devices = {{limit_bytes_, 8 * kMiB}};
    config_.ledger = &*ledger_;
    config_.report = [this](const control::WorkerReport& report) {
      report_ = report;
      ++reports_;
      reported_calls_ = report.calls;  // last: who has seen it counts the reports
    };
    worker_ = std::thread([this] { why_ = server::serve_session(*pair_.worker, driver_.api, config_); });
    client_.emplace(*pair_.client);
    client_->use();
  }
  // With a current context on this thread's lane.
  void start_with_context() {
    start();
    use_context();
  }
  void use_context() {
    ASSERT_EQ(remote_cuDevicePrimaryCtxRetain(&context_, 0), CUDA_SUCCESS);
    ASSERT_EQ(post_bfContextUse(uint64_t(context_)), CUDA_SUCCESS);
  }
  CUdeviceptr allocate(size_t bytes) {
    CUdeviceptr address = 0;
    EXPECT_EQ(remote_cuMemAlloc_v2(&address, bytes), CUDA_SUCCESS);
    return address;
  }
  // Memory that holds `data`.
  CUdeviceptr allocate(const std::vector<uint8_t>& data) {
    const CUdeviceptr address = allocate(data.size());
    EXPECT_EQ(remote_cuMemcpyHtoD_v2(address, nullptr, data.size(), client_->transfer(data.data(), data.size()), {}), CUDA_SUCCESS);
    return address;
  }
  // On a thread of its own, in the same context.
  template <typename Body>
  auto elsewhere(Body body) {
    return std::async(std::launch::async, [this, body] {
      post_bfContextUse(uint64_t(context_));
      return body();
    });
  }
  // The worker saw the end by itself.
  Status join() {
    if (worker_.joinable()) worker_.join();
    return why_;
  }
  void TearDown() override {
    client_.reset();
    if (worker_.joinable()) worker_.join();
  }

  uint64_t limit_bytes_ = 64 * kMiB;
  test::FakeDriver driver_;
  transport::LoopbackPair pair_;
  std::optional<server::Ledger> ledger_;
  server::SessionConfig config_;
  std::optional<test::TestClient> client_;
  std::thread worker_;
  Status why_;
  control::WorkerReport report_;  // the last one; to be read after join()
  std::atomic<uint64_t> reported_calls_{0};
  std::atomic<int> reports_{0};
  CUcontext context_ = nullptr;
};

std::vector<uint8_t> pattern(size_t bytes, uint32_t seed) {
  std::vector<uint8_t> data(bytes);
  std::mt19937_64 random(seed);
  for (size_t at = 0; at < bytes; at += sizeof(uint64_t)) {
    const uint64_t word = random();
    std::memcpy(data.data() + at, &word, std::min(sizeof word, bytes - at));
  }
  return data;
}

TEST_F(SessionTest, StartsWithTheSnapshot) {
  start();
  std::span<const std::byte> bytes;
  ASSERT_EQ(remote_bfSessionStart("test", bytes), CUDA_SUCCESS);
  auto snapshot = decode_session_snapshot({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  ASSERT_TRUE(snapshot.ok());
  ASSERT_EQ(snapshot->devices.size(), 1u);
  EXPECT_EQ(snapshot->devices[0].name, "Fake");
  EXPECT_EQ(snapshot->devices[0].total_bytes, 64 * kMiB);
  EXPECT_EQ(*find_attribute(snapshot->devices[0].attributes, 77), 77);
}

TEST_F(SessionTest, ChargesAndRefundsThePartition) {
  start_with_context();
  EXPECT_EQ(ledger_->used(0), 8 * kMiB);
  size_t free = 0, total = 0;
  ASSERT_EQ(remote_cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
  EXPECT_EQ(total, 64 * kMiB);
  EXPECT_EQ(free, 56 * kMiB);
  CUdeviceptr address = 0;
  EXPECT_EQ(remote_cuMemAlloc_v2(&address, 100 * kMiB), CUDA_ERROR_OUT_OF_MEMORY);
  const CUdeviceptr big = allocate(40 * kMiB);
  EXPECT_GE(ledger_->used(0), 48 * kMiB);
  EXPECT_EQ(remote_cuMemAlloc_v2(&address, 20 * kMiB), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(driver_.allocations.load(), 1);
  ASSERT_EQ(post_cuMemFree_v2(big), CUDA_SUCCESS);
  ASSERT_EQ(remote_cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
  EXPECT_EQ(free, 56 * kMiB);
  (void)allocate(4 * kMiB);
  client_.reset();
  EXPECT_EQ(join().code(), StatusCode::kUnavailable);
  EXPECT_EQ(ledger_->used(0), 0u);
}

TEST_F(SessionTest, SharedPinnedMemoryIsTheClientsOwn) {
#ifdef BF_THREAD_SANITIZER
  GTEST_SKIP() << "ThreadSanitizer lets nobody map these addresses";
#endif
  start_shm();
  const int file = pair_.client->shared_memory();
  constexpr uint64_t kAddress = kSharedBegin + (uint64_t{3} << 30);
  uint32_t shared = 0;
  ASSERT_EQ(remote_bfMirrorMap(kAddress, 8192, kMirrorPinned, shared), CUDA_SUCCESS);
  EXPECT_EQ(shared, 1u);
  // The worker is in this process: what it mapped is there, and is what the client maps elsewhere.
  void* view = mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, off_t(kAddress - kSharedBegin));
  ASSERT_NE(view, MAP_FAILED);
  static_cast<char*>(view)[8191] = 42;
  EXPECT_EQ(reinterpret_cast<const char*>(kAddress)[8191], 42);
  EXPECT_EQ(remote_bfMirrorMap(kAddress + 4096, 4096, kMirrorPinned, shared), CUDA_ERROR_ALREADY_MAPPED);
  ASSERT_EQ(remote_bfMirrorUnmap(kAddress), CUDA_SUCCESS);
  EXPECT_EQ(msync(reinterpret_cast<void*>(kAddress), 4096, MS_ASYNC), -1) << "still mapped";
  munmap(view, 8192);
}

TEST_F(SessionTest, SharedPinnedMemoryHasBounds) {
#ifdef BF_THREAD_SANITIZER
  GTEST_SKIP() << "ThreadSanitizer lets nobody map these addresses";
#endif
  start_shm();
  uint32_t shared = 0;
  const auto map = [&](uint64_t address, uint64_t bytes) { return remote_bfMirrorMap(address, bytes, kMirrorPinned, shared); };
  EXPECT_EQ(map(kSharedBegin - 4096, 4096), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(map(kSharedBegin + kSharedBytes, 4096), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(map(kSharedBegin + kSharedBytes - 4096, 8192), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(map(kSharedBegin, ~uint64_t{0} - 4095), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(map(kSharedBegin, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(map(kSharedBegin + 1, 4096), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(map(kSharedBegin, 100), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(map(kSharedBegin, 65 * kMiB), CUDA_ERROR_OUT_OF_MEMORY) << "more than the session's share";
  ASSERT_EQ(map(kSharedBegin, 40 * kMiB), CUDA_SUCCESS);
  EXPECT_EQ(map(kSharedBegin + 64 * kMiB, 40 * kMiB), CUDA_ERROR_OUT_OF_MEMORY) << "all together";
  ASSERT_EQ(remote_bfMirrorUnmap(kSharedBegin), CUDA_SUCCESS);
  EXPECT_EQ(map(kSharedBegin + 64 * kMiB, 40 * kMiB), CUDA_SUCCESS);
}

TEST_F(SessionTest, NothingIsSharedOverOtherTransports) {
  start_with_context();
  uint32_t shared = 0;
  EXPECT_EQ(remote_bfMirrorMap(kSharedBegin, 4096, kMirrorPinned, shared), CUDA_ERROR_INVALID_VALUE);
}

struct CopyShape {
  size_t bytes;
  bool asynchronous;
  bool stream_memory;
};

class SessionCopies : public SessionTest, public testing::WithParamInterface<CopyShape> {};

TEST_P(SessionCopies, ThereAndBack) {
  const CopyShape shape = GetParam();
  driver_.stream_memory = shape.stream_memory;
  driver_.queue_delay_us = 200;
  start_with_context();
  const CUdeviceptr address = allocate(shape.bytes);
  for (uint32_t round = 0; round < 4; ++round) {
    const auto data = pattern(shape.bytes, round);
    std::vector<uint8_t> back(shape.bytes);
    const uint64_t transfer = shape.bytes > limits::kInlineBytes ? client_->transfer(data.data(), data.size()) : 0;
    const iovec part{const_cast<uint8_t*>(data.data()), data.size()};
    const Payload payload = transfer ? Payload() : Payload(&part, 1);
    const uint64_t ticket = client_->ticket(back.data(), back.size());
    if (shape.asynchronous) {
      ASSERT_EQ(post_cuMemcpyHtoDAsync_v2(address, nullptr, data.size(), nullptr, transfer, payload), CUDA_SUCCESS);
      ASSERT_EQ(post_cuMemcpyDtoHAsync_v2(nullptr, address, data.size(), nullptr, ticket), CUDA_SUCCESS);
      ASSERT_EQ(remote_cuStreamSynchronize(nullptr), CUDA_SUCCESS);
    } else {
      ASSERT_EQ(remote_cuMemcpyHtoD_v2(address, nullptr, data.size(), transfer, payload), CUDA_SUCCESS);
      ASSERT_EQ(remote_cuMemcpyDtoH_v2(nullptr, address, data.size(), ticket), CUDA_SUCCESS);
    }
    EXPECT_EQ(back, data);  // all of it, the moment the call returned
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, SessionCopies,
                         testing::Values(CopyShape{1, true, true}, CopyShape{limits::kInlineBytes, true, true},
                                         CopyShape{limits::kInlineBytes + 1, true, true},
                                         CopyShape{9'000'001, true, true}, CopyShape{9'000'001, false, true},
                                         CopyShape{1, false, true}, CopyShape{3'000'000, true, false}));

// Rows that are no multiple of anything, larger than the staging slots, as blocks that know nothing of rows.
TEST_F(SessionTest, BoxesTravelDense) {
  start_with_context();
  const size_t width = 10'007, height = 321, depth = 2, pitch = 10'240;
  const CUdeviceptr address = allocate(pitch * height * depth);
  const auto data = pattern(width * height * depth, 7);
  std::vector<uint8_t> back(data.size());
  CUDA_MEMCPY3D copy{};
  copy.srcMemoryType = CU_MEMORYTYPE_HOST;
  copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.dstDevice = address;
  copy.dstPitch = pitch;
  copy.dstHeight = height;
  copy.WidthInBytes = width;
  copy.Height = height;
  copy.Depth = depth;
  const uint64_t transfer = client_->transfer(data.data(), data.size());
  ASSERT_EQ(post_cuMemcpy3DAsync_v2(&copy, nullptr, transfer, 0, {}), CUDA_SUCCESS);
  std::swap(copy.srcMemoryType, copy.dstMemoryType);
  copy.srcDevice = address;
  copy.srcPitch = pitch;
  copy.srcHeight = height;
  const uint64_t ticket = client_->ticket(back.data(), back.size());
  ASSERT_EQ(remote_cuMemcpy3D_v2(&copy, 0, ticket, {}), CUDA_SUCCESS);
  EXPECT_EQ(back, data);
}

TEST_F(SessionTest, LargeCopiesInBothDirectionsAtOnceFinish) {
  start_with_context();
  const size_t bytes = 20 * kMiB;  // a ring and a half
  const CUdeviceptr in = allocate(bytes), out = allocate(bytes);
  const auto data = pattern(bytes, 1);
  std::vector<uint8_t> back(bytes);
  const auto worker = [&](bool up) {
    ASSERT_EQ(post_bfContextUse(uint64_t(context_)), CUDA_SUCCESS);
    for (int i = 0; i < 5; ++i) {
      if (up) {
        const uint64_t transfer = client_->transfer(data.data(), bytes);
        ASSERT_EQ(remote_cuMemcpyHtoD_v2(in, nullptr, bytes, transfer, {}), CUDA_SUCCESS);
      } else {
        const uint64_t ticket = client_->ticket(back.data(), bytes);
        ASSERT_EQ(remote_cuMemcpyDtoH_v2(nullptr, out, bytes, ticket), CUDA_SUCCESS);
      }
    }
  };
  std::thread up([&] { worker(true); });
  worker(false);
  up.join();
}

// Bytes that are long in coming: the stream waits for them, and no call does but those that wait for the stream.
TEST_F(SessionTest, LateBytesHoldUpTheStreamOnly) {
  start_with_context();
  for (const size_t bytes : {size_t{100'000}, kMiB + 1, 3 * kMiB - 5, 21 * kMiB}) {  // cut finer, and of several parts
    const CUdeviceptr address = allocate(bytes);
    const auto data = pattern(bytes, unsigned(bytes));
    std::vector<uint8_t> back(bytes);
    const uint64_t transfer = client_->name_transfer();
    ASSERT_EQ(post_cuMemcpyHtoDAsync_v2(address, nullptr, bytes, nullptr, transfer, {}), CUDA_SUCCESS);
    allocate(100);  // answered
    ASSERT_EQ(remote_cuStreamQuery(nullptr), CUDA_ERROR_NOT_READY);
    client_->send_transfer(transfer, data.data(), bytes);
    ASSERT_EQ(remote_cuMemcpyDtoH_v2(nullptr, address, bytes, client_->ticket(back.data(), bytes)), CUDA_SUCCESS);
    EXPECT_EQ(back, data) << bytes;
  }
}

TEST_F(SessionTest, OnlyWhoMayTakeACopyForDoneWaitsForItsBytes) {
  start_with_context();
  constexpr size_t bytes = 4 * kMiB;
  const auto data = pattern(bytes, 7);
  const CUdeviceptr address = allocate(data);
  std::vector<uint8_t> back(bytes);
  client_->hold_blocks();
  ASSERT_EQ(post_cuMemcpyDtoHAsync_v2(nullptr, address, bytes, nullptr, client_->ticket(back.data(), bytes)), CUDA_SUCCESS);
  client_->await_held();
  const uint64_t late = client_->name_transfer();
  ASSERT_EQ(post_cuMemcpyHtoDAsync_v2(address, nullptr, bytes, nullptr, late, {}), CUDA_SUCCESS);
  auto others = elsewhere([&] {
    size_t free, total;
    EXPECT_EQ(remote_cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
    allocate(100);
    EXPECT_EQ(remote_cuStreamQuery(nullptr), CUDA_ERROR_NOT_READY);
  });
  EXPECT_EQ(others.wait_for(std::chrono::seconds(5)), std::future_status::ready);
  client_->send_transfer(late, data.data(), bytes);
  auto done = elsewhere([] { return remote_cuStreamSynchronize(nullptr); });
  EXPECT_EQ(done.wait_for(std::chrono::milliseconds(100)), std::future_status::timeout);
  client_->let_land();
  EXPECT_EQ(done.get(), CUDA_SUCCESS);
  EXPECT_EQ(back, data);
}

// More than staging holds, and a box in it whose rows are no multiple of anything.
constexpr size_t kLargeWidth = 10'007, kLargePitch = 10'240, kLargeRows = 300 * kMiB / kLargePitch, kLargeBytes = kLargePitch * kLargeRows;

CUDA_MEMCPY3D large_box_back(CUdeviceptr from) {
  CUDA_MEMCPY3D copy{};
  copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.dstMemoryType = CU_MEMORYTYPE_HOST;
  copy.srcDevice = from;
  copy.srcPitch = kLargePitch;
  copy.srcHeight = copy.Height = kLargeRows;
  copy.WidthInBytes = kLargeWidth;
  copy.Depth = 1;
  return copy;
}

// Nothing of it leaves staging: the copy's stream waits for that, and nobody else.
TEST_F(SessionTest, LargeCopiesBackHoldUpTheirStreamOnly) {
  limit_bytes_ = 400 * kMiB;
  start_with_context();
  const auto data = pattern(kLargeBytes, 9);
  const CUdeviceptr address = allocate(data);
  for (const bool rows : {false, true}) {
    SCOPED_TRACE(rows);
    std::vector<uint8_t> back(rows ? kLargeWidth * kLargeRows : kLargeBytes);
    const uint64_t ticket = client_->ticket(back.data(), back.size());
    client_->hold_blocks();
    if (rows) {
      const CUDA_MEMCPY3D copy = large_box_back(address);
      ASSERT_EQ(post_cuMemcpy3DAsync_v2(&copy, nullptr, 0, ticket, {}), CUDA_SUCCESS);
    } else {
      ASSERT_EQ(post_cuMemcpyDtoHAsync_v2(nullptr, address, kLargeBytes, nullptr, ticket), CUDA_SUCCESS);
    }
    auto others = elsewhere([&] {
      allocate(100);
      EXPECT_EQ(remote_cuStreamQuery(nullptr), CUDA_ERROR_NOT_READY);
    });
    EXPECT_EQ(others.wait_for(std::chrono::seconds(60)), std::future_status::ready);
    client_->let_land();
    EXPECT_EQ(remote_cuStreamSynchronize(nullptr), CUDA_SUCCESS);
    if (!rows) {
      EXPECT_TRUE(back == data);
    }
    for (size_t row = 0; rows && row < kLargeRows; ++row)
      ASSERT_EQ(std::memcmp(back.data() + row * kLargeWidth, data.data() + row * kLargePitch, kLargeWidth), 0) << row;
  }
}

// In the middle of a piece that waits in its stream; the slots are there for the next copy.
TEST_F(SessionTest, ACopyBackThatFailsWhileItWaitsForRoomLosesNothing) {
  limit_bytes_ = 400 * kMiB;
  start_with_context();
  const auto data = pattern(kLargeBytes, 9);
  const CUdeviceptr address = allocate(data);
  const CUDA_MEMCPY3D copy = large_box_back(address);
  for (size_t i = 1; i <= 2; ++i) {
    std::vector<uint8_t> lost(kLargeWidth * kLargeRows), back(kLargeBytes);
    driver_.boxes = 404;  // a piece is two or three of them, and staging has 128 slots
    client_->hold_blocks();
    ASSERT_EQ(post_cuMemcpy3DAsync_v2(&copy, nullptr, 0, client_->ticket(lost.data(), lost.size()), {}), CUDA_SUCCESS);
    auto others = elsewhere([&] { allocate(100); });
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    client_->let_land();
    others.wait();
    EXPECT_EQ(remote_cuStreamSynchronize(nullptr), CUDA_SUCCESS);
    EXPECT_EQ(driver_.boxes, 0);
    EXPECT_EQ(client_->async_errors().size(), i);
    EXPECT_EQ(remote_cuMemcpyDtoH_v2(nullptr, address, kLargeBytes, client_->ticket(back.data(), kLargeBytes)), CUDA_SUCCESS);
    EXPECT_TRUE(back == data);
  }
}

TEST_F(SessionTest, ASessionEndsWhileACopyBackWaitsForRoom) {
  limit_bytes_ = 400 * kMiB;
  start_with_context();
  const CUdeviceptr address = allocate(kLargeBytes);
  std::vector<uint8_t> back(kLargeBytes);
  client_->hold_blocks();
  ASSERT_EQ(post_cuMemcpyDtoHAsync_v2(nullptr, address, kLargeBytes, nullptr, client_->ticket(back.data(), kLargeBytes)), CUDA_SUCCESS);
  auto waits = elsewhere([] { return remote_cuStreamSynchronize(nullptr); });
  while (driver_.waiting == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  pair_.client->shut();
  waits.wait();
  EXPECT_EQ(join().code(), StatusCode::kUnavailable);
}

TEST_F(SessionTest, ASessionEndsWhileAStreamWaitsForItsBytes) {
  start_with_context();
  const CUdeviceptr address = allocate(8 * kMiB);
  ASSERT_EQ(post_cuMemcpyHtoDAsync_v2(address, nullptr, 8 * kMiB, nullptr, client_->name_transfer(), {}), CUDA_SUCCESS);
  allocate(100);
  std::thread waits([] { remote_cuStreamSynchronize(nullptr); });
  while (driver_.waiting == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  pair_.client->shut();
  waits.join();
  EXPECT_EQ(join().code(), StatusCode::kUnavailable);
}

// What the GPU was to copy is never copied, but its bytes are still coming, and later ones find room.
TEST_F(SessionTest, LateBytesOfABrokenContextAreTaken) {
  start_with_context();
  const size_t bytes = 40 * kMiB;  // the ring holds one of these, and not two
  const CUdeviceptr address = allocate(bytes);
  const auto data = pattern(bytes, 3);
  const uint64_t transfer = client_->name_transfer();
  ASSERT_EQ(post_cuMemcpyHtoDAsync_v2(address, nullptr, bytes, nullptr, transfer, {}), CUDA_SUCCESS);
  allocate(100);
  driver_.fault = true;
  ASSERT_EQ(remote_cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
  client_->send_transfer(transfer, data.data(), bytes);
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(remote_cuMemcpyHtoD_v2(address, nullptr, bytes, client_->transfer(data.data(), bytes), {}), CUDA_ERROR_ILLEGAL_ADDRESS);
  }
}

TEST_F(SessionTest, HostFunctionsSeeTheDataBeforeThem) {
  driver_.queue_delay_us = 500;
  start_with_context();
  for (const size_t bytes : {size_t{100}, size_t{3} << 20}) {
    const CUdeviceptr address = allocate(bytes);
    std::vector<uint8_t> back(bytes);
    std::atomic<bool> right{false}, ran{false};
    client_->on_host_function([&](uint64_t id) {
      right = id == 77 && back == std::vector<uint8_t>(bytes, 9);
      ran = true;
    });
    ASSERT_EQ(post_cuMemsetD8Async(address, 9, bytes, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(post_cuMemcpyDtoHAsync_v2(nullptr, address, bytes, nullptr, client_->ticket(back.data(), bytes)),
              CUDA_SUCCESS);
    ASSERT_EQ(post_cuLaunchHostFunc(nullptr, nullptr, nullptr, 77), CUDA_SUCCESS);
    ASSERT_EQ(remote_cuStreamSynchronize(nullptr), CUDA_SUCCESS);
    EXPECT_TRUE(ran);  // the stream waited for it
    EXPECT_TRUE(right);
  }
}

// A kernel fault: open copies never finish, later ones must not wait for them, and the session goes on answering.
TEST_F(SessionTest, ABrokenContextBlocksNobody) {
  start_with_context();
  const size_t bytes = 40 * kMiB;
  const CUdeviceptr address = allocate(bytes);
  const auto data = pattern(bytes, 3);
  driver_.queue_delay_us = 20'000;
  for (int i = 0; i < 3; ++i) {
    const uint64_t transfer = client_->transfer(data.data(), bytes);
    ASSERT_EQ(post_cuMemcpyHtoDAsync_v2(address, nullptr, bytes, nullptr, transfer, {}), CUDA_SUCCESS);
    if (i == 0) driver_.fault = true;
  }
  EXPECT_EQ(remote_cuStreamSynchronize(nullptr), CUDA_ERROR_ILLEGAL_ADDRESS);
  ASSERT_EQ(client_->async_errors().size(), 1u);  // once, however many posts fail
  EXPECT_EQ(client_->async_errors()[0].result, uint32_t(CUDA_ERROR_ILLEGAL_ADDRESS));
}

TEST_F(SessionTest, AFailedPostComesBackAsAnError) {
  start_with_context();
  ASSERT_EQ(post_bfContextUse(Handle{HandleKind::kContext, HandleMaker::kClient, 9, 999}.pack()), CUDA_SUCCESS);
  ASSERT_EQ(remote_cuStreamSynchronize(nullptr), CUDA_SUCCESS);
  ASSERT_EQ(client_->async_errors().size(), 1u);
  EXPECT_EQ(client_->async_errors()[0].result, uint32_t(CUDA_ERROR_INVALID_CONTEXT));
}

TEST_F(SessionTest, UnknownHandlesNeverReachTheDriver) {
  start_with_context();
  const auto forged = reinterpret_cast<CUstream>(Handle{HandleKind::kStream, HandleMaker::kClient, 1, 5}.pack());
  EXPECT_EQ(remote_cuStreamSynchronize(forged), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(remote_cuStreamSynchronize(reinterpret_cast<CUstream>(0x7f0000001000)), CUDA_ERROR_INVALID_HANDLE);
}

// The bytes of a refused copy leave the ring, or the copies after it would wait for ever.
TEST_F(SessionTest, RefusedTransfersLeaveTheRing) {
  start_with_context();
  const size_t bytes = limits::kBulkBlockBytes * limits::kBulkBlocks * 3 / 5;
  const auto forged = reinterpret_cast<CUstream>(Handle{HandleKind::kStream, HandleMaker::kClient, 1, 5}.pack());
  const CUdeviceptr address = allocate(bytes);
  const auto data = pattern(bytes, 4);
  for (int i = 0; i < 3; ++i) {
    const uint64_t transfer = client_->transfer(data.data(), bytes);
    ASSERT_EQ(post_cuMemcpyHtoDAsync_v2(address, nullptr, bytes, forged, transfer, {}), CUDA_SUCCESS);
  }
  const uint64_t transfer = client_->transfer(data.data(), bytes);
  ASSERT_EQ(remote_cuMemcpyHtoD_v2(address, nullptr, bytes, transfer, {}), CUDA_SUCCESS);
  std::vector<uint8_t> back(bytes);
  ASSERT_EQ(remote_cuMemcpyDtoH_v2(nullptr, address, bytes, client_->ticket(back.data(), bytes)), CUDA_SUCCESS);
  EXPECT_EQ(back, data);
}

// Where the copies of HtoD begin, in order.
std::vector<CUdeviceptr> g_begun;

// A transfer's blocks come over several connections, some slower than others.
TEST_F(SessionTest, BlocksAreCopiedInTheOrderInWhichTheyLand) {
  static decltype(driver_.api.cuMemcpyHtoDAsync_v2) plain;
  plain = driver_.api.cuMemcpyHtoDAsync_v2;
  driver_.api.cuMemcpyHtoDAsync_v2 = [](CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
    g_begun.push_back(to);
    return plain(to, from, bytes, stream);
  };
  transport::Faults late;
  late.delay = std::chrono::milliseconds(20);
  late.bulk_backwards = true;
  start(late);
  use_context();
  const size_t bytes = 8 * kMiB + 12345;
  const CUdeviceptr address = allocate(2 * bytes);
  const auto data = pattern(bytes, 7), more = pattern(bytes, 8);
  const auto back = [&](CUdeviceptr from) {
    std::vector<uint8_t> bytes_there(bytes);
    EXPECT_EQ(remote_cuMemcpyDtoH_v2(nullptr, from, bytes, client_->ticket(bytes_there.data(), bytes)), CUDA_SUCCESS);
    return bytes_there;
  };
  for (int tries = 0; tries < 10; ++tries) {  // until the call is there before its bytes
    g_begun.clear();
    const uint64_t transfer = client_->name_transfer();
    std::thread sends([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      client_->send_transfer(transfer, data.data(), bytes);
    });
    EXPECT_EQ(remote_cuMemcpyHtoD_v2(address, nullptr, bytes, transfer, {}), CUDA_SUCCESS);
    sends.join();
    EXPECT_EQ(g_begun.size(), 9u);
    EXPECT_EQ(back(address), data);
    if (!std::is_sorted(g_begun.begin(), g_begun.end())) break;
  }
  EXPECT_FALSE(std::is_sorted(g_begun.begin(), g_begun.end()));
  // With a call behind them that is not to wait: what is missing waits at gates.
  ASSERT_EQ(post_cuMemcpyHtoDAsync_v2(address, nullptr, bytes, nullptr, client_->transfer(more.data(), bytes), {}), CUDA_SUCCESS);
  ASSERT_EQ(post_cuMemcpyHtoDAsync_v2(address + bytes, nullptr, bytes, nullptr, client_->transfer(data.data(), bytes), {}), CUDA_SUCCESS);
  EXPECT_EQ(back(address), more);
  EXPECT_EQ(back(address + bytes), data);
}

std::vector<CUgraphNode> nodes_of(CUgraph graph) {
  CUgraphNode nodes[2];
  size_t count = 2;
  EXPECT_EQ(remote_cuGraphGetNodes(graph, nodes, &count), CUDA_SUCCESS);
  return {nodes, nodes + std::min<size_t>(count, 2)};
}

TEST_F(SessionTest, NodesDieWithTheirGraphAndItsChildren) {
  start_with_context();
  CUgraph graph = nullptr, child = nullptr;
  ASSERT_EQ(remote_cuGraphCreate(&graph, 0), CUDA_SUCCESS);
  const auto nodes = nodes_of(graph);
  ASSERT_EQ(nodes.size(), 2u);
  ASSERT_EQ(remote_cuGraphChildGraphNodeGetGraph(nodes[1], &child), CUDA_SUCCESS);
  const auto inner = nodes_of(child);
  ASSERT_EQ(inner.size(), 1u);
  CUgraphNodeType type{};
  EXPECT_EQ(remote_cuGraphNodeGetType(inner[0], &type), CUDA_SUCCESS);
  ASSERT_EQ(post_cuGraphDestroy(graph), CUDA_SUCCESS);
  CUgraph next = nullptr;  // the driver uses every address again
  ASSERT_EQ(remote_cuGraphCreate(&next, 0), CUDA_SUCCESS);
  const auto fresh = nodes_of(next);
  EXPECT_EQ(remote_cuGraphNodeGetType(nodes[0], &type), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(remote_cuGraphNodeGetType(nodes[1], &type), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(remote_cuGraphNodeGetType(inner[0], &type), CUDA_ERROR_INVALID_HANDLE);
  size_t count = 0;
  EXPECT_EQ(remote_cuGraphGetNodes(child, nullptr, &count), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(remote_cuGraphNodeGetType(fresh[0], &type), CUDA_SUCCESS);
  ASSERT_EQ(remote_cuGraphChildGraphNodeGetGraph(fresh[1], &child), CUDA_SUCCESS);
  ASSERT_EQ(remote_cuGraphDestroyNode(fresh[1]), CUDA_SUCCESS);
  EXPECT_EQ(remote_cuGraphNodeGetType(fresh[1], &type), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(remote_cuGraphGetNodes(child, nullptr, &count), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(remote_cuGraphNodeGetType(fresh[0], &type), CUDA_SUCCESS);
}

TEST_F(SessionTest, ParametersOfKernelNodesComePacked) {
  start_with_context();
  CUgraph graph = nullptr;
  ASSERT_EQ(remote_cuGraphCreate(&graph, 0), CUDA_SUCCESS);
  const CUgraphNode node = nodes_of(graph)[0];
  CUDA_KERNEL_NODE_PARAMS params{};
  std::span<const std::byte> bytes;
  EXPECT_EQ(remote_cuGraphKernelNodeGetParams_v2(node, &params, bytes), CUDA_ERROR_NOT_SUPPORTED);  // of what function?
  CUfunction function = nullptr;
  std::span<const std::byte> facts;
  ASSERT_EQ(remote_cuModuleGetFunction(&function, nullptr, "add", facts), CUDA_SUCCESS);
  ASSERT_EQ(remote_cuGraphKernelNodeGetParams_v2(node, &params, bytes), CUDA_SUCCESS);
  EXPECT_EQ(params.func, function);
  EXPECT_EQ(params.gridDimX, 7u);
  EXPECT_EQ(params.kernelParams, nullptr);  // no address of the worker's travels
  uint64_t pointer = 0;
  int number = 0;
  ASSERT_EQ(bytes.size(), 12u);
  std::memcpy(&pointer, bytes.data(), 8);
  std::memcpy(&number, bytes.data() + 8, 4);
  EXPECT_EQ(pointer, 0x1122334455667788u);
  EXPECT_EQ(number, 42);
}

// The driver gives out the addresses of functions again whose module was unloaded (cuFFT's plans, 580.159.04).
TEST_F(SessionTest, AFunctionEndsWithItsModule) {
  start_with_context();
  std::span<const std::byte> handles, facts;
  const auto enumerated = [&] {
    uint64_t value = 0;
    EXPECT_EQ(remote_cuModuleEnumerateFunctions(nullptr, 8, nullptr, handles, facts), CUDA_SUCCESS);
    EXPECT_EQ(handles.size(), sizeof value);
    std::memcpy(&value, handles.data(), std::min(handles.size(), sizeof value));
    return value;
  };
  const uint64_t first = enumerated();
  EXPECT_EQ(enumerated(), first);
  ASSERT_EQ(remote_cuModuleUnload(nullptr), CUDA_SUCCESS);
  EXPECT_NE(enumerated(), first);
}

// --- What breaks the protocol ends the session
// ---------------------------------------------------------------------------

class SessionViolations : public SessionTest, public testing::WithParamInterface<int> {};

TEST_P(SessionViolations, EndTheSession) {
  start_with_context();
  const uint16_t query = server::opcode::cuStreamQuery, post = server::opcode::cuMemsetD8Async;
  switch (GetParam()) {
    case 0: client_->send_raw({0, 0, 60'000, 0, 0}, {}); break;                      // no such opcode
    case 1: client_->send_raw({4, 0, query, 0, 0}, "\xff\xff\xff\xff"); break;       // malformed body
    case 2: client_->send_raw({limits::kBodyBytes + 1, 0, query, 0, 0}, {}); break;  // too large
    case 3: client_->send_raw({0, 0, query, 0, limits::kLanes}, {}); break;          // lane out of range
    case 4: client_->send_raw({0, 0, query, kPost, 0}, {}); break;                   // a call as a post
    case 5: client_->send_raw({0, 0, post, 0, 0}, {}); break;                        // a post as a call
    case 6: {                                                                        // an image under a wrong name
      const Sha256 hash{};
      const iovec part{const_cast<char*>("code"), 4};
      post_bfImagePut(hash, 4, 0, Payload(&part, 1));
      break;
    }
  }
  EXPECT_TRUE(client_->wait_lost());
  EXPECT_EQ(join().code(), StatusCode::kInvalid) << why_.message();
  EXPECT_EQ(report_.reason, why_.message());
  EXPECT_TRUE(report_.lost) << "its client is still there";
}

INSTANTIATE_TEST_SUITE_P(All, SessionViolations, testing::Range(0, 7));

TEST_F(SessionTest, ACutLinkEndsTheSession) {
  transport::Faults cut;
  cut.cut_after_bytes = 2000;
  start(cut);
  CUcontext context = nullptr;
  ASSERT_EQ(remote_cuDevicePrimaryCtxRetain(&context, 0), CUDA_SUCCESS);
  post_bfContextUse(uint64_t(context));
  for (int i = 0; i < 1000; ++i)
    if (remote_cuStreamQuery(nullptr) != CUDA_SUCCESS) break;
  EXPECT_TRUE(client_->wait_lost());
  EXPECT_FALSE(join().ok());
  EXPECT_FALSE(report_.reason.empty());
  EXPECT_FALSE(report_.lost) << "the client has left, as far as the worker can tell";
}

TEST_F(SessionTest, ReportsWhileThereAreCallsAndNotBetweenThem) {
  start_with_context();
  for (uint64_t calls = 2; calls < 4; ++calls) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (reported_calls_ < calls && std::chrono::steady_clock::now() < until) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    EXPECT_EQ(reported_calls_, calls);
    const int reports = reports_;
    std::this_thread::sleep_for(std::chrono::milliseconds(1500));  // it has gone to sleep
    EXPECT_EQ(reports_, reports);
    ASSERT_EQ(remote_cuStreamQuery(nullptr), CUDA_SUCCESS);
  }
}

// --- Order
// -----------------------------------------------------------------------------------------------------------------

// Threads hand a value on by device memory: each sets bytes and lets the next thread, on another lane, read them.
TEST_F(SessionTest, LanesSeeEachOthersWorkInOrder) {
  start_with_context();
  const CUdeviceptr address = allocate(64);
  constexpr int kThreads = 4, kRounds = 300;
  std::atomic<int> turn{0};
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      post_bfContextUse(uint64_t(context_));
      for (int round = 0; round < kRounds; ++round) {
        while (turn.load() % kThreads != t) std::this_thread::yield();
        const int now = turn.load();
        uint8_t before = 0;
        post_cuMemcpyDtoHAsync_v2(nullptr, address, 1, nullptr, client_->ticket(&before, 1));
        post_cuMemsetD8Async(address, uint8_t(now + 1), 64, nullptr);
        if (now % 3 == 0) {
          remote_cuStreamSynchronize(nullptr);
          if (before != uint8_t(now) && now > 0) ++wrong;
          turn = now + 1;
        } else {
          turn = now + 1;  // posted, not done: the next thread's calls come after it all the same
          remote_cuStreamSynchronize(nullptr);
          if (before != uint8_t(now)) ++wrong;
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
}

}  // namespace
}  // namespace bf
