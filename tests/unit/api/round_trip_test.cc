// Every call of the table, both directions, against libprotobuf. See exercise.h.
#include <google/protobuf/descriptor.pb.h>
#include <google/protobuf/dynamic_message.h>

#include <fstream>

#include "api/exercise_list.h"
#include "tests/unit/api/exercise.h"

namespace bf::apitest {
namespace {

// Parses bodies with the generated backfield_calls.proto and writes them again.
class Oracle {
 public:
  Oracle() {
    std::ifstream in(BF_CALLS_DESCRIPTORS, std::ios::binary);
    google::protobuf::FileDescriptorSet set;
    if (set.ParseFromIstream(&in) && set.file_size() == 1) file_ = pool_.BuildFile(set.file(0));
  }
  bool ok() const { return file_ != nullptr; }

  std::string rewrite(const char* name, bool reply, std::string_view body) {
    const auto* type = file_->FindMessageTypeByName(std::string(name) + (reply ? "_Reply" : "_Request"));
    if (!type) {
      ADD_FAILURE() << name << " has no message";
      return std::string(body);
    }
    std::unique_ptr<google::protobuf::Message> message(factory_.GetPrototype(type)->New());
    EXPECT_TRUE(message->ParseFromArray(body.data(), int(body.size()))) << name;
    EXPECT_TRUE(message->GetReflection()->GetUnknownFields(*message).empty())
        << name << ": bytes that the .proto does not describe";
    std::string again = message->SerializeAsString();
    EXPECT_EQ(again.size(), body.size()) << name << ": libprotobuf encodes it differently";
    return again;
  }

 private:
  google::protobuf::DescriptorPool pool_;
  google::protobuf::DynamicMessageFactory factory_;
  const google::protobuf::FileDescriptor* file_ = nullptr;
};

class RoundTrip : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    api = new DriverApi;
    install_fakes(*api);
    oracle = new Oracle;
  }
  static void TearDownTestSuite() {
    delete oracle;
    delete api;
  }

  template <typename Prepare>
  void each(int rounds, bool with_oracle, Prepare prepare) {
    ASSERT_TRUE(oracle->ok());
    for (int i = 0; i < kListedCount; i++) {
      for (int round = 0; round < rounds; round++) {
        Exercise::Oracle rewrite;
        if (with_oracle)
          rewrite = [&](uint16_t, bool reply, std::string_view body) {
            return oracle->rewrite(kListed[i].name, reply, body);
          };
        Exercise x(*api, uint64_t(i) * 1000 + round, rewrite);
        x.name = kListed[i].name;
        x.expect_twin = kListed[i].twin;
        prepare(x);
        kListed[i].run(x);
        if (HasFailure()) FAIL() << kListed[i].name << ", round " << round;
      }
    }
  }

  static DriverApi* api;
  static Oracle* oracle;
};
DriverApi* RoundTrip::api = nullptr;
Oracle* RoundTrip::oracle = nullptr;

TEST_F(RoundTrip, EveryCall) {
  each(6, false, [](Exercise&) {});
}
TEST_F(RoundTrip, EveryCallThroughLibprotobuf) {
  each(6, true, [](Exercise&) {});
}
TEST_F(RoundTrip, DriverErrorsComeBack) {
  each(2, true, [](Exercise& x) { x.driver_result = CUDA_ERROR_ILLEGAL_ADDRESS; });
}
TEST_F(RoundTrip, CutRepliesDoNotCrashTheClient) {
  each(12, false, [](Exercise& x) { x.cut_reply = true; });
}
TEST_F(RoundTrip, PerThreadTwinsReachTheTwin) {
  client::PerThreadScope scope;
  each(1, false, [](Exercise&) {});
}

TEST(Dispatch, KnowsOnlyItsOpcodes) {
  EXPECT_EQ(server::lookup(0), nullptr);
  EXPECT_EQ(server::lookup(255), nullptr);
  EXPECT_EQ(server::lookup(0xffff), nullptr);
  for (int i = 0; i < kListedCount; i++) EXPECT_STREQ(server::lookup(kListed[i].opcode)->name, kListed[i].name);
}

}  // namespace
}  // namespace bf::apitest
