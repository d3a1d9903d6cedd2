#include "tools/borrow.h"

#include <gtest/gtest.h>

namespace bf::tools {
namespace {

constexpr uint64_t kMiB = 1 << 20;

struct Free {
  uint64_t mib;
  uint32_t leases = 0;
};

Answer server(std::vector<Free> gpus) {
  Answer answer;
  answer.status = {};
  for (auto& free : gpus) {
    control::Gpu gpu;
    gpu.memory_bytes = 1000 * kMiB;
    gpu.free_bytes = free.mib * kMiB;
    gpu.leases = free.leases;
    gpu.healthy = true;
    gpu.name = "NVIDIA H200";
    gpu.index = uint32_t(answer.list.gpus.size());
    gpu.uuid = "GPU-" + std::to_string(answer.list.gpus.size());
    answer.list.gpus.push_back(gpu);
  }
  return answer;
}

control::LeaseRequest request(uint32_t gpus, uint64_t mib, double fraction = 0) {
  control::LeaseRequest request;
  request.gpus = gpus;
  request.memory_bytes = mib * kMiB;
  request.fraction = fraction;
  return request;
}

using Order = std::vector<size_t>;

TEST(Rank, SharesGoWhereTheyFitTightest) {
  std::vector<Answer> pool = {server({{1000}}), server({{300, 1}}), server({{500, 1}, {100, 1}})};
  EXPECT_EQ(rank(pool, Wish{request(1, 250)}), (Order{1, 2, 0}));
  EXPECT_EQ(rank(pool, Wish{request(1, 400)}), (Order{2, 0, 1}));
  EXPECT_EQ(rank(pool, Wish{request(1, 0, 0.5)}), (Order{2, 0, 1}));
  EXPECT_EQ(rank(pool, Wish{request(2, 100)}), (Order{2, 0, 1}));
}

TEST(Rank, WholeGpusComeFromTheEmptiestServer) {
  std::vector<Answer> pool = {server({{1000}, {400, 1}}), server({{1000}, {1000}}),
                              server({{900, 1}, {900, 1}, {900, 1}})};
  EXPECT_EQ(rank(pool, Wish{request(1, 0)}), (Order{1, 0, 2}));
  EXPECT_EQ(rank(pool, Wish{request(2, 0)}), (Order{1, 0, 2}));
}

TEST(Rank, FollowsThePolicy) {
  std::vector<Answer> pool = {server({{1000}, {400, 1}}), server({{1000}, {1000}}), server({{300, 1}})};
  EXPECT_EQ(rank(pool, {request(1, 0), {}, Policy::kPack}), (Order{0, 1, 2}));
  EXPECT_EQ(rank(pool, {request(1, 250), {}, Policy::kSpread}), (Order{1, 0, 2}));
}

TEST(Rank, KeepsToTheFilters) {
  std::vector<Answer> pool = {server({{1000}, {900}}), server({{500}})};
  pool[1].list.gpus[0].name = "NVIDIA A100-SXM4-80GB";
  Wish wish{request(1, 200)};
  wish.filters = {Filter::parse("device.name=H200").value(), Filter::parse("device.id=1").value()};
  EXPECT_EQ(rank(pool, wish), (Order{0}));
  EXPECT_EQ(matching_gpus(wish.filters, pool[0]), (std::vector<std::string>{"GPU-1"}));
  wish.filters.push_back(Filter::parse("device.memory>5000").value());
  EXPECT_EQ(rank(pool, wish), Order{});
  EXPECT_NE(no_match(wish.filters, pool).find("device.memory>5000; there are: NVIDIA A100"), std::string::npos)
      << no_match(wish.filters, pool);
}

TEST(Rank, LeavesOutWhoDidNotAnswerAndPutsBackWhoIsEnding) {
  std::vector<Answer> pool = {server({{300}}), server({{400}}), server({{500}})};
  pool[0].list.draining = true;
  pool[1].status = Status{StatusCode::kUnavailable, "gone"};
  EXPECT_EQ(rank(pool, Wish{request(1, 200)}), (Order{2, 0}));
  pool[2].list.gpus[0].healthy = false;
  EXPECT_EQ(rank(pool, Wish{request(1, 200)}), (Order{0, 2})) << "neither can now; asked all the same, for the reason";
}

}  // namespace
}  // namespace bf::tools
