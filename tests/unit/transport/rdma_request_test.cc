// Who may connect a queue pair to a session.
#include <gtest/gtest.h>

#include "transport/rdma_connect.h"

namespace bf::transport::rdma {
namespace {

constexpr uint32_t kChannels = 4;
const std::string kKey(32, 'k');

Request proven(uint16_t channel) {
  Request request;
  request.channel = channel;
  request.channels = kChannels;
  request.landing = 0x7000'0000'0000;
  request.landing_key = 77;
  request.proof = proof_of(request, kKey);
  return request;
}

TEST(RdmaRequest, IsTakenOnceForEachChannel) {
  for (uint16_t channel = 0; channel < kChannels; channel++) {
    EXPECT_TRUE(judge(proven(channel), kKey, kChannels, 0).ok());
    EXPECT_EQ(judge(proven(channel), kKey, kChannels, 1u << channel).code(), StatusCode::kInvalid);
  }
  EXPECT_EQ(judge(proven(kChannels), kKey, kChannels, 0).code(), StatusCode::kInvalid);
  EXPECT_EQ(judge(proven(UINT16_MAX), kKey, kChannels, 0).code(), StatusCode::kInvalid);
}

TEST(RdmaRequest, HoldsNoSecret) {
  Request request = proven(0);
  std::string bytes(reinterpret_cast<const char*>(&request), sizeof request);
  EXPECT_EQ(bytes.find(kKey.substr(0, 4)), std::string::npos);
}

TEST(RdmaRequest, OfAnotherSessionIsDenied) {
  EXPECT_EQ(judge(proven(0), std::string(32, 'x'), kChannels, 0).code(), StatusCode::kDenied);
  EXPECT_EQ(judge(Request{}, kKey, kChannels, 0).code(), StatusCode::kDenied);
}

// Whoever saw a proof cannot use it for anything else.
TEST(RdmaRequest, ThatWasChangedIsDenied) {
  const Request original = proven(1);
  for (size_t i = 0; i < sizeof(Request); i++) {
    Request changed = original;
    reinterpret_cast<unsigned char*>(&changed)[i] ^= 1;
    EXPECT_EQ(judge(changed, kKey, kChannels, 0).code(), StatusCode::kDenied) << "byte " << i;
  }
}

TEST(RdmaRequest, OfAnotherVersionIsToldWhich) {
  Request request = proven(0);
  request.version = kVersion + 1;
  request.proof = proof_of(request, kKey);
  Status refused = judge(request, kKey, kChannels, 0);
  EXPECT_EQ(refused.code(), StatusCode::kInvalid);
  EXPECT_NE(refused.message().find(std::to_string(kVersion)), std::string::npos);
}

TEST(RdmaRequest, PrivateDataIsReadOnlyIfItIsWhole) {
  Request request = proven(2);
  EXPECT_FALSE(read_message<Request>(&request, sizeof request - 1));
  EXPECT_FALSE(read_message<Request>(nullptr, 0));
  EXPECT_FALSE(read_message<Acceptance>(&request, sizeof request));
  char padded[92] = {};
  memcpy(padded, &request, sizeof request);
  auto read = read_message<Request>(padded, sizeof padded);
  ASSERT_TRUE(read);
  EXPECT_TRUE(judge(*read, kKey, kChannels, 0).ok());
}

}  // namespace
}  // namespace bf::transport::rdma
