// The codec against libprotobuf, message by message, through reflection: a field that the codec forgets, mistypes or
// misnumbers makes the round trip differ.
#include "proto/control.h"

#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include "base/limits.h"
#include "control.pb.h"

namespace bf::control {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// Every field gets a value that no other field has; repeated ones get three.
void fill(Message& message, uint64_t& next) {
  auto* type = message.GetDescriptor();
  auto* reflection = message.GetReflection();
  for (int i = 0; i < type->field_count(); i++) {
    const FieldDescriptor* field = type->field(i);
    for (int n = 0; n < (field->is_repeated() ? 3 : 1); n++) {
      next++;
      switch (field->cpp_type()) {
        case FieldDescriptor::CPPTYPE_UINT32:
          reflection->SetUInt32(&message, field, uint32_t(0xf0000000u + next));
          break;
        case FieldDescriptor::CPPTYPE_UINT64:
          reflection->SetUInt64(&message, field, 0xf000000000000000u + next);
          break;
        case FieldDescriptor::CPPTYPE_DOUBLE:
          reflection->SetDouble(&message, field, 0.25 + double(next));
          break;
        case FieldDescriptor::CPPTYPE_BOOL:
          reflection->SetBool(&message, field, true);
          break;
        case FieldDescriptor::CPPTYPE_STRING: {
          std::string text = field->type() == FieldDescriptor::TYPE_BYTES ? "\xff\x00\xfe" + std::to_string(next)
                                                                          : "v\xc3\xa4lue " + std::to_string(next);
          field->is_repeated() ? reflection->AddString(&message, field, text)
                               : reflection->SetString(&message, field, text);
          break;
        }
        case FieldDescriptor::CPPTYPE_MESSAGE:
          fill(*reflection->AddMessage(&message, field), next);
          break;
        default:
          FAIL() << "control.proto uses a type that this test does not know: " << field->full_name();
      }
    }
  }
}

template <typename Oracle, typename Decode, typename Encode>
void compare(Decode decode, Encode encode) {
  SCOPED_TRACE(Oracle::descriptor()->name());
  Oracle original;
  uint64_t next = 0;
  fill(original, next);
  std::string bytes = original.SerializeAsString();
  auto decoded = decode(as_bytes(bytes));
  ASSERT_TRUE(decoded.ok()) << decoded.status().message();
  Oracle again;
  ASSERT_TRUE(again.ParseFromString(encode(*decoded)));
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(original, again))
      << original.DebugString() << "became\n"
      << again.DebugString();
  EXPECT_EQ(encode({}), Oracle().SerializeAsString()) << "defaults do not travel";
  // Any cut of it is refused or decoded, never more.
  for (size_t cut = 0; cut < bytes.size(); cut++) {
    std::vector<char> exact(bytes.begin(), bytes.begin() + long(cut));
    Oracle oracle;
    bool parses = oracle.ParseFromArray(exact.data(), int(cut));
    EXPECT_EQ(decode(std::as_bytes(std::span(exact))).ok(), parses) << "cut at " << cut;
  }
}

#define COMPARE(X) compare<backfield::X>(decode_##X, encode_##X)

TEST(Control, AgreesWithLibprotobufOnEveryMessage) {
  google::protobuf::SetLogHandler(nullptr);  // it reports what we cut off
  COMPARE(ListRequest);
  COMPARE(ListReply);
  COMPARE(LeaseRequest);
  COMPARE(LeaseReply);
  COMPARE(SessionLost);
  COMPARE(AttachRequest);
  COMPARE(AttachReply);
  COMPARE(JoinRequest);
  COMPARE(JoinReply);
  COMPARE(HealthRequest);
  COMPARE(HealthReply);
  COMPARE(BandwidthRequest);
  COMPARE(ErrorReply);
  COMPARE(DataNotice);
  COMPARE(AsyncErrorNotice);
  COMPARE(PrintNotice);
  COMPARE(CallbackNotice);
  COMPARE(HostData);
  COMPARE(Assign);
  COMPARE(Channel);
  COMPARE(Ready);
  COMPARE(WorkerReport);
  COMPARE(ProbeReply);
  COMPARE(ReadingRequest);
  COMPARE(ReadingReply);
  COMPARE(NvmlAnswers);
  COMPARE(MonitorRequest);
  COMPARE(MonitorReport);
  COMPARE(ReserveReply);
  COMPARE(CommitRequest);
  COMPARE(HoldRequest);
  COMPARE(Challenge);
  COMPARE(Proof);
  COMPARE(AuthRequest);
  COMPARE(AuthReply);
  COMPARE(ManageRequest);
  COMPARE(ManageReply);
}

// If control.proto gains a message, the list above must too. Gpu, Partition, HealthCheck, WorkerDevice, LeaseProcess and
// NvmlAnswer are parts.
TEST(Control, KnowsEveryMessageOfTheSpecification) {
  EXPECT_EQ(backfield::ListReply::descriptor()->file()->message_type_count(), 37 + 6);
}

// Its parts are bounded so that the longest one is a control frame.
TEST(Control, AWholeReadingFitsIntoAFrame) {
  ReadingReply reply;
  reply.uuid = reply.pci_bus_id = std::string(kIdBytes, 'u');
  reply.name = std::string(kNameBytes, 'n');
  reply.facts = std::string(kFactsBytes, 'f');
  reply.sample = std::string(kSampleBytes, 's');
  reply.system = std::string(kSystemBytes, 'y');
  for (uint64_t* number : {&reply.memory_bytes, &reply.used_bytes, &reply.facts_version, &reply.sample_version, &reply.sample_unix_us})
    *number = ~uint64_t{0};
  for (size_t i = 0; i < kProcessesPerReading; i++)
    reply.processes.push_back({~0u, std::string(kProcessNameBytes, 'p'), ~uint64_t{0}});
  EXPECT_LE(encode_ReadingReply(reply).size(), limits::kControlBodyBytes);
  EXPECT_TRUE(decode_ReadingReply(as_bytes(encode_ReadingReply(reply))).ok());
}

TEST(Control, SkipsUnknownFields) {
  backfield::ListReply newer;
  newer.set_sessions(7);
  auto* unknown = newer.GetReflection()->MutableUnknownFields(&newer);
  unknown->AddVarint(1000, 1);
  unknown->AddLengthDelimited(1001, "from the future");
  unknown->AddFixed32(1002, 5);
  unknown->AddFixed64(1003, 5);
  unknown->AddVarint(1, 5);  // a known number with another wire type
  auto decoded = decode_ListReply(as_bytes(newer.SerializeAsString()));
  ASSERT_TRUE(decoded.ok()) << decoded.status().message();
  EXPECT_EQ(decoded->sessions, 7u);
  EXPECT_EQ(decoded->server_name, "");
}

TEST(Control, RefusesFieldsOutOfBounds) {
  backfield::LeaseRequest long_name;
  long_name.set_program(std::string(kNameBytes, 'x'));
  EXPECT_TRUE(decode_LeaseRequest(as_bytes(long_name.SerializeAsString())).ok());
  long_name.set_program(std::string(kNameBytes + 1, 'x'));
  EXPECT_EQ(decode_LeaseRequest(as_bytes(long_name.SerializeAsString())).status().code(), StatusCode::kInvalid);

  backfield::AttachRequest long_nonce;
  long_nonce.set_nonce(std::string(kSecretBytes + 1, 'x'));
  EXPECT_FALSE(decode_AttachRequest(as_bytes(long_nonce.SerializeAsString())).ok());

  backfield::ListReply many;
  for (size_t i = 0; i < kGpusPerServer; i++) many.add_gpus();
  EXPECT_TRUE(decode_ListReply(as_bytes(many.SerializeAsString())).ok());
  many.add_gpus();
  EXPECT_FALSE(decode_ListReply(as_bytes(many.SerializeAsString())).ok());

  std::string padding(limits::kControlBodyBytes + 1, '\0');
  EXPECT_FALSE(decode_ListRequest(as_bytes(padding)).ok());
}

TEST(Control, RefusesTextThatIsNotUtf8) {
  for (const char* bad : {"\x80", "\xc0\xaf", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5", "a\xc3"}) {
    backfield::AttachRequest request;  // lite checks nothing when writing through the bytes field
    request.set_nonce(bad);
    std::string bytes = request.SerializeAsString();
    bytes[0] = (5 << 3) | 2;  // nonce (8) becomes program (5)
    EXPECT_FALSE(decode_AttachRequest(as_bytes(bytes)).ok()) << bad;
  }
}

TEST(Control, EncoderMakesTextFit) {
  LeaseRequest request;
  request.program = std::string(kNameBytes - 1, 'x') + "\xc3\xa4";  // the last character would be cut in half
  auto fitted = decode_LeaseRequest(as_bytes(encode_LeaseRequest(request)));
  ASSERT_TRUE(fitted.ok());
  EXPECT_EQ(fitted->program, std::string(kNameBytes - 1, 'x'));
  request.program =
      "a\xff"
      "b";
  auto repaired = decode_LeaseRequest(as_bytes(encode_LeaseRequest(request)));
  ASSERT_TRUE(repaired.ok());
  EXPECT_EQ(repaired->program, "a?b");
}

TEST(Control, StatusFromTheWire) {
  EXPECT_TRUE(to_status(0, "").ok());
  EXPECT_EQ(to_status(uint32_t(StatusCode::kImpossible), "no").code(), StatusCode::kImpossible);
  EXPECT_EQ(to_status(4711, "odd").code(), StatusCode::kInternal);
  EXPECT_NE(to_status(4711, "").message(), "");
}

}  // namespace
}  // namespace bf::control
