// GPUDirect against a fake: a device whose memory can be shared, and a link that reads it. No hardware has run it.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <random>

#include "server/worker/session.h"
#include "tests/unit/worker/fake_driver.h"
#include "tests/unit/worker/test_client.h"

namespace bf {
namespace {

using namespace bf::client;

using test::kMiB;
constexpr size_t kMoreThanAllSlots = 40 * kMiB + 12345;  // of those in the GPU's memory

// The worker's end of a loopback link, as a transport that may read a GPU's memory: the fake's is the host's.
class ReadingBulk : public transport::Bulk {
 public:
  ReadingBulk(transport::Bulk& inner, bool agrees) : inner_(inner), agrees_(agrees) {}
  void start(transport::BulkSink& sink) override { inner_.start(sink); }
  uint64_t send(uint64_t transfer, const void* data, size_t bytes, std::function<void(const Status&)> sent) override {
    uintptr_t at = uintptr_t(data);
    if (at >= base && at + bytes <= base + size) from_device++;
    return inner_.send(transfer, data, bytes, std::move(sent));
  }
  void release(const transport::Block& block) override { inner_.release(block); }
  bool remember_device(const void* data, size_t bytes, int dmabuf) override {
    EXPECT_GE(dmabuf, 0);
    base = uintptr_t(data);
    size = bytes;
    return agrees_;
  }
  void forget(const void* data) override { forgotten += uintptr_t(data) == base; }
  std::span<std::byte> ring() override { return inner_.ring(); }
  void stop() noexcept override { inner_.stop(); }

  std::atomic<uintptr_t> base{0}, size{0};
  std::atomic<int> from_device{0}, forgotten{0};

 private:
  transport::Bulk& inner_;
  const bool agrees_;
};

class ReadingLink : public transport::Link {
 public:
  ReadingLink(std::unique_ptr<transport::Link> inner, bool agrees)
      : inner_(std::move(inner)), bulk_(inner_->bulk(), agrees) {}
  transport::Stream& calls() override { return inner_->calls(); }
  transport::Stream& side() override { return inner_->side(); }
  ReadingBulk& bulk() override { return bulk_; }
  const transport::Limits& limits() const override { return inner_->limits(); }
  void shut() noexcept override { inner_->shut(); }

 private:
  std::unique_ptr<transport::Link> inner_;
  ReadingBulk bulk_;
};

std::atomic<int> g_to_host{0}, g_exported{0};

class GpuDirect : public testing::Test {
 protected:
  void start(bool wanted, bool agrees, size_t bytes = 8 * kMiB) {
    g_to_host = g_exported = 0;
    static decltype(driver_.api.cuMemcpyDtoHAsync_v2) plain;
    plain = driver_.api.cuMemcpyDtoHAsync_v2;
    driver_.api.cuMemcpyDtoHAsync_v2 = [](void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
      return ++g_to_host, plain(to, from, bytes, stream);
    };
    driver_.api.cuMemcpyDtoDAsync_v2 = [](CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
      return plain(reinterpret_cast<void*>(to), from, bytes, stream);
    };
    driver_.api.cuMemGetHandleForAddressRange = [](void* handle, CUdeviceptr address, size_t bytes, CUmemRangeHandleType type,
                                                   unsigned long long) {
      if (type != CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD || address % 4096 != 0 || bytes % 4096 != 0) return CUDA_ERROR_INVALID_VALUE;
      ++g_exported;
      *static_cast<int*>(handle) = memfd_create("dmabuf", MFD_CLOEXEC);
      return CUDA_SUCCESS;
    };
    auto pair = transport::make_loopback({}, {});
    client_link_ = std::move(pair.client);
    link_ = std::make_unique<ReadingLink>(std::move(pair.worker), agrees);
    prepared_.emplace(driver_.api, wanted);
    ASSERT_EQ(prepared_->start(), CUDA_SUCCESS);
    ASSERT_EQ(prepared_->warm(), CUDA_SUCCESS);
    config_.devices = {{256 * kMiB, 8 * kMiB}};
    worker_ = std::thread([this] { (void)server::serve_session(*link_, *prepared_, config_); });
    client_.emplace(*client_link_);
    client_->use();
    CUcontext context = nullptr;
    ASSERT_EQ(remote_cuDevicePrimaryCtxRetain(&context, 0), CUDA_SUCCESS);
    ASSERT_EQ(post_bfContextUse(uint64_t(context)), CUDA_SUCCESS);
    data_.resize(bytes);
    std::mt19937_64 random(1);
    for (size_t i = 0; i + 8 <= data_.size(); i += 8) {
      uint64_t value = random();
      std::memcpy(data_.data() + i, &value, 8);
    }
    ASSERT_EQ(remote_cuMemAlloc_v2(&address_, data_.size()), CUDA_SUCCESS);
    ASSERT_EQ(post_cuMemcpyHtoDAsync_v2(address_, nullptr, data_.size(), nullptr, client_->transfer(data_.data(), data_.size()), {}),
              CUDA_SUCCESS);
  }
  void TearDown() override {
    client_.reset();
    if (worker_.joinable()) worker_.join();
  }
  void expect_copy(size_t bytes) {
    std::vector<uint8_t> back(bytes);
    ASSERT_EQ(remote_cuMemcpyDtoH_v2(nullptr, address_, bytes, client_->ticket(back.data(), bytes)), CUDA_SUCCESS);
    EXPECT_EQ(std::memcmp(back.data(), data_.data(), bytes), 0);
  }

  test::FakeDriver driver_;
  std::unique_ptr<transport::Link> client_link_;
  std::unique_ptr<ReadingLink> link_;
  std::optional<server::Prepared> prepared_;
  server::SessionConfig config_;
  std::optional<test::TestClient> client_;
  std::thread worker_;
  std::vector<uint8_t> data_;
  CUdeviceptr address_ = 0;
};

TEST_F(GpuDirect, LargeCopiesAreReadInTheGpu) {
  start(true, true, kMoreThanAllSlots);
  expect_copy(8 * kMiB);
  EXPECT_EQ(g_to_host, 0);
  EXPECT_EQ(link_->bulk().from_device, 5);  // pieces of 2 MiB, the first of 1
  EXPECT_EQ(g_exported, 1);
  for (int i = 0; i < 3; i++) expect_copy(data_.size());
}

TEST_F(GpuDirect, SmallCopiesTravelWithTheCalls) {
  start(true, true);
  expect_copy(1000);
  EXPECT_EQ(g_to_host, 1);
  EXPECT_EQ(link_->bulk().from_device, 0);
}

TEST_F(GpuDirect, WhereTheLinkCannotReadItNothingIsDifferent) {
  start(true, false, kMoreThanAllSlots);
  expect_copy(data_.size());
  EXPECT_GT(g_to_host, 0);
  EXPECT_EQ(link_->bulk().from_device, 0);
}

TEST_F(GpuDirect, SwitchedOffItTakesNoMemory) {
  const int before = driver_.allocations;
  start(false, true);
  expect_copy(8 * kMiB);
  EXPECT_GT(g_to_host, 0);
  EXPECT_EQ(g_exported, 0);
  EXPECT_EQ(driver_.allocations, before + 1) << "the program's own";
}

TEST_F(GpuDirect, AContextThatEndsTakesTheMemoryBack) {
  start(true, true);
  const int with = driver_.allocations;
  expect_copy(8 * kMiB);
  prepared_->staging.unpin();
  EXPECT_EQ(driver_.allocations, with - 1);
  EXPECT_EQ(link_->bulk().forgotten, 1);
  expect_copy(8 * kMiB);
  EXPECT_GT(g_to_host, 0);
}

}  // namespace
}  // namespace bf
