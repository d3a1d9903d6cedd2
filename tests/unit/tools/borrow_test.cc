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
  for (auto& free : gpus) {
    control::Gpu gpu;
    gpu.memory_bytes = 1000 * kMiB;
    gpu.free_bytes = free.mib * kMiB;
    gpu.leases = free.leases;
    gpu.healthy = true;
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
  EXPECT_EQ(rank(pool, request(1, 250)), (Order{1, 2, 0}));
  EXPECT_EQ(rank(pool, request(1, 400)), (Order{2, 0, 1}));
  EXPECT_EQ(rank(pool, request(1, 0, 0.5)), (Order{2, 0, 1}));
  EXPECT_EQ(rank(pool, request(2, 100)), (Order{2, 0, 1}));
}

TEST(Rank, WholeGpusComeFromTheEmptiestServer) {
  std::vector<Answer> pool = {server({{1000}, {400, 1}}), server({{1000}, {1000}}),
                              server({{900, 1}, {900, 1}, {900, 1}})};
  EXPECT_EQ(rank(pool, request(1, 0)), (Order{1, 0, 2}));
  EXPECT_EQ(rank(pool, request(2, 0)), (Order{1, 0, 2}));
}

TEST(Rank, LeavesOutWhoDidNotAnswerAndPutsBackWhoIsEnding) {
  std::vector<Answer> pool = {server({{300}}), server({{400}}), server({{500}})};
  pool[0].list.draining = true;
  pool[1].status = Status{StatusCode::kUnavailable, "gone"};
  EXPECT_EQ(rank(pool, request(1, 200)), (Order{2, 0}));
  pool[2].list.gpus[0].healthy = false;
  EXPECT_EQ(rank(pool, request(1, 200)), (Order{0, 2})) << "neither can now; asked all the same, for the reason";
}

}  // namespace
}  // namespace bf::tools
