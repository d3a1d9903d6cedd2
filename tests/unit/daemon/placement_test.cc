#include "server/daemon/placement.h"

#include <gtest/gtest.h>

#include <cmath>

#include "proto/secrets.h"
#include "server/daemon/lease_table.h"
#include "server/daemon/waiting.h"

namespace bf::daemon {
namespace {

constexpr uint64_t kMiB = 1 << 20;

std::vector<GpuState> gpus_of(std::vector<uint64_t> capacity_mib) {
  std::vector<GpuState> gpus;
  for (uint64_t mib : capacity_mib) {
    GpuState gpu;
    gpu.facts.index = uint32_t(gpus.size());
    gpu.facts.name = "GPU of " + std::to_string(mib);
    gpu.facts.healthy = true;
    gpu.facts.context_bytes = 100 * kMiB;
    gpu.capacity_bytes = mib * kMiB;
    gpus.push_back(gpu);
  }
  return gpus;
}

control::LeaseRequest request(uint32_t gpus, uint64_t mib, double fraction = 0) {
  control::LeaseRequest request;
  request.gpus = gpus;
  request.memory_bytes = mib * kMiB;
  request.fraction = fraction;
  return request;
}

StatusCode refusal(const std::vector<GpuState>& gpus, const control::LeaseRequest& request) {
  auto placed = place(gpus, request);
  EXPECT_FALSE(placed.ok());
  EXPECT_NE(placed.status().message(), "");
  return placed.status().code();
}

TEST(Placement, TakesTheTightestFit) {
  auto gpus = gpus_of({8000, 4000, 6000});
  gpus[2].promised_bytes = 3000 * kMiB;  // 3000 left
  auto placed = place(gpus, request(1, 2500));
  ASSERT_TRUE(placed.ok());
  EXPECT_EQ((*placed)[0].gpu, 2u);
  EXPECT_EQ((*placed)[0].bytes, 2500 * kMiB);
  placed = place(gpus, request(2, 2500));
  ASSERT_TRUE(placed.ok());
  EXPECT_EQ((*placed)[0].gpu, 1u);  // distinct GPUs, in the server's order
  EXPECT_EQ((*placed)[1].gpu, 2u);
}

TEST(Placement, WholeGpusAreSharedWithNobody) {
  auto gpus = gpus_of({4000, 4000});
  gpus[0].promised_bytes = 100 * kMiB;
  gpus[0].leases = 1;
  auto placed = place(gpus, request(1, 0));
  ASSERT_TRUE(placed.ok());
  EXPECT_EQ((*placed)[0].gpu, 1u);
  EXPECT_EQ((*placed)[0].bytes, 4000 * kMiB);
  EXPECT_EQ(refusal(gpus, request(2, 0)), StatusCode::kExhausted);
  EXPECT_EQ(refusal(gpus, request(2, 0, 1.0)), StatusCode::kExhausted);
}

TEST(Placement, NowOrNever) {
  auto gpus = gpus_of({4000, 8000});
  gpus[1].promised_bytes = 5000 * kMiB;
  gpus[1].leases = 1;
  EXPECT_EQ(refusal(gpus, request(1, 6000)), StatusCode::kExhausted);
  EXPECT_EQ(refusal(gpus, request(2, 4000)), StatusCode::kExhausted);
  EXPECT_EQ(refusal(gpus, request(1, 8001)), StatusCode::kImpossible);
  EXPECT_EQ(refusal(gpus, request(2, 5000)), StatusCode::kImpossible);
  EXPECT_EQ(refusal(gpus, request(3, 200)), StatusCode::kImpossible);
  EXPECT_EQ(refusal(gpus, request(1, 100)), StatusCode::kImpossible) << "not even a context fits";
  EXPECT_NE(place(gpus, request(1, 9000)).status().message().find("GPU of 8000 with 8000 MiB"), std::string::npos);
}

TEST(Placement, LeavesIllGpusAlone) {
  auto gpus = gpus_of({4000, 4000});
  gpus[0].facts.healthy = false;
  auto placed = place(gpus, request(1, 1000));
  ASSERT_TRUE(placed.ok());
  EXPECT_EQ((*placed)[0].gpu, 1u);
  EXPECT_EQ(refusal(gpus, request(2, 1000)), StatusCode::kImpossible);
  EXPECT_EQ(refusal({}, request(1, 1000)), StatusCode::kImpossible);
}

TEST(Placement, RefusesContradictions) {
  auto gpus = gpus_of({4000});
  EXPECT_EQ(refusal(gpus, request(0, 100)), StatusCode::kInvalid);
  EXPECT_EQ(refusal(gpus, request(17, 100)), StatusCode::kInvalid);
  EXPECT_EQ(refusal(gpus, request(1, 1000, 0.5)), StatusCode::kInvalid);
  EXPECT_EQ(refusal(gpus, request(1, 0, -0.5)), StatusCode::kInvalid);
  EXPECT_EQ(refusal(gpus, request(1, 0, 1.5)), StatusCode::kInvalid);
  EXPECT_EQ(refusal(gpus, request(1, 0, NAN)), StatusCode::kInvalid);
}

TEST(LeaseTable, FractionsThatAddUpToTheWholeCardAllFit) {
  auto gpus = gpus_of({4321});
  LeaseTable leases(gpus);
  for (uint64_t i = 0; i < 3; i++) ASSERT_TRUE(leases.reserve(request(1, 0, 1.0 / 3), {}, i, gpus).ok()) << i;
  EXPECT_LT(gpus[0].free_bytes(), 6 * kMiB + kMiB);
}

TEST(LeaseTable, KeepsTheBooks) {
  auto gpus = gpus_of({4000, 4000});
  LeaseTable leases(gpus);
  auto first = leases.reserve(request(2, 3000), {}, 1, gpus);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(gpus[0].free_bytes(), 1000 * kMiB);
  EXPECT_EQ(gpus[1].leases, 1u);
  EXPECT_EQ(leases.reserve(request(1, 2000), {}, 2, gpus).status().code(), StatusCode::kExhausted);
  auto second = leases.reserve(request(1, 1000), {}, 2, gpus);
  ASSERT_TRUE(second.ok());
  EXPECT_NE((*first)->id, (*second)->id);
  EXPECT_NE((*first)->secret, (*second)->secret);
  EXPECT_EQ(leases.find_by_connection(2), *second);
  ASSERT_TRUE(leases.commit((*first)->id, 1).ok());
  EXPECT_EQ(leases.commit((*first)->id, 1).status().code(), StatusCode::kDenied) << "once";
  EXPECT_EQ(leases.commit((*second)->id, 1).status().code(), StatusCode::kDenied) << "another connection's";
  leases.release(**first);
  EXPECT_EQ(gpus[0].free_bytes() + gpus[1].free_bytes(), 7000 * kMiB);
  EXPECT_TRUE(leases.reserve(request(1, 4000), {}, 3, gpus).ok());
}

TEST(LeaseTable, OnlyTheRightProofAttaches) {
  auto gpus = gpus_of({4000});
  LeaseTable leases(gpus);
  auto lease = leases.reserve(request(1, 1000), {}, 1, gpus);
  ASSERT_TRUE(lease.ok());
  Lease& held = **lease;
  std::string proof = secrets::attach_proof(held.secret, "body", "nonce");
  auto code = [&](const std::string& id, const char* body, const char* nonce, const std::string& with) {
    return leases.check(id, body, nonce, with).status().code();
  };
  EXPECT_EQ(code(held.id, "body", "nonce", proof), StatusCode::kDenied) << "not before it is committed";
  ASSERT_TRUE(leases.commit(held.id, 1).ok());
  EXPECT_EQ(code(held.id, "body", "nonce", proof), StatusCode::kOk);
  EXPECT_EQ(code(held.id, "body", "other", proof), StatusCode::kDenied) << "replayed against another challenge";
  EXPECT_EQ(code(held.id, "bodY", "nonce", proof), StatusCode::kDenied) << "for another request";
  EXPECT_EQ(code(held.id, "body", "nonce", ""), StatusCode::kDenied);
  EXPECT_EQ(code("", "body", "nonce", proof), StatusCode::kDenied);
  held.state = Lease::State::kEnding;
  EXPECT_EQ(code(held.id, "body", "nonce", proof), StatusCode::kUnavailable);
}

// A whole GPU is wanted; small requests keep coming, and each of the small leases ends after a while.
TEST(Waiting, SmallRequestsDoNotStarveALargeOne) {
  auto gpus = gpus_of({4000, 4000});
  for (auto& gpu : gpus) gpu.promised_bytes = 1000 * kMiB, gpu.leases = 1;
  WaitingList waiting;
  auto now = WaitingList::Clock::now();
  ASSERT_FALSE(place(gpus, request(1, 0)).ok());
  waiting.refused(1, request(1, 0), now);
  auto visible = waiting.visible(gpus, 2, now);
  auto small = place(visible, request(1, 500));
  ASSERT_TRUE(small.ok()) << "one GPU is enough for the large one; the other goes on";
  size_t open = (*small)[0].gpu;
  EXPECT_EQ(visible[1 - open].free_bytes(), 0u);
  EXPECT_TRUE(place(waiting.visible(gpus, 1, now), request(1, 500)).ok()) << "the first is held up by nobody";
  waiting.refused(3, request(1, 0), now);
  EXPECT_FALSE(place(waiting.visible(gpus, 2, now), request(1, 500)).ok()) << "two large ones want both";
  gpus[0].promised_bytes = 0, gpus[0].leases = 0;
  EXPECT_FALSE(place(waiting.visible(gpus, 3, now), request(1, 0)).ok()) << "it is the first one's";
  EXPECT_TRUE(place(waiting.visible(gpus, 1, now), request(1, 0)).ok());
  auto later = now + WaitingList::kPatience + std::chrono::seconds(1);
  EXPECT_TRUE(place(waiting.visible(gpus, 2, later), request(1, 0)).ok()) << "who asks no more has lost its place";
  waiting.forget(1);
  EXPECT_TRUE(place(waiting.visible(gpus, 3, now), request(1, 0)).ok());
}

TEST(Placement, KeepsToTheGpusThatAreNamed) {
  auto gpus = gpus_of({4000, 8000});
  gpus[0].facts.uuid = "GPU-a";
  gpus[1].facts.uuid = "GPU-b";
  auto wanted = request(1, 1000);
  wanted.gpu_uuids = {"GPU-b"};
  auto placed = place(gpus, wanted);
  ASSERT_TRUE(placed.ok());
  EXPECT_EQ((*placed)[0].gpu, 1u);
  wanted.gpus = 2;
  EXPECT_EQ(refusal(gpus, wanted), StatusCode::kImpossible);
  wanted.gpu_uuids = {"GPU-c"};
  EXPECT_EQ(refusal(gpus, wanted), StatusCode::kImpossible);
  auto apart = request(1, 1000);
  apart.spread = true;
  EXPECT_EQ(place(gpus, apart).value()[0].gpu, 1u) << "the emptiest";
  apart.spread = false;
  EXPECT_EQ(place(gpus, apart).value()[0].gpu, 0u) << "the tightest";
}

TEST(LeaseTable, SlotsAreBoundedAndReused) {
  auto gpus = gpus_of({4000});
  LeaseTable leases(gpus);
  auto lease = leases.reserve(request(1, 3000), {}, 1, gpus);
  ASSERT_TRUE(lease.ok());
  for (uint32_t i = 0; i < limits::kSessionsPerLease; i++) {
    auto slot = leases.take_slot(**lease);
    ASSERT_TRUE(slot.ok());
    EXPECT_EQ(*slot, i);
  }
  EXPECT_EQ(leases.take_slot(**lease).status().code(), StatusCode::kExhausted);
  ASSERT_TRUE((*lease)->ledger.charge(7, 0, 5));
  leases.free_slot(**lease, 7);
  EXPECT_EQ((*lease)->ledger.used(0), 0u);
  auto slot = leases.take_slot(**lease);
  ASSERT_TRUE(slot.ok());
  EXPECT_EQ(*slot, 7u);
}

}  // namespace
}  // namespace bf::daemon
