#include <gtest/gtest.h>

#include <random>

#include "proto/session.h"

namespace bf {
namespace {

SessionSnapshot sample() {
  SessionSnapshot snapshot;
  snapshot.driver_version = 13000;
  snapshot.software = true;
  snapshot.spin_us = 50;
  DeviceSnapshot device;
  device.name = "A GPU";
  device.uuid[3] = 7;
  device.total_bytes = uint64_t{3} << 40;
  device.attributes = {{1, 1024}, {75, 9}, {76, -1}};
  device.limits = {{0, 1024}};
  device.greatest_priority = -5;
  snapshot.devices = {device, device};
  snapshot.peers = {{0, 1, true, {{1, 0}}}};
  return snapshot;
}

TEST(SessionCodec, SnapshotTravelsWhole) {
  const auto decoded = decode_session_snapshot(encode(sample()));
  ASSERT_TRUE(decoded.ok());
  const SessionSnapshot& s = decoded.value();
  EXPECT_EQ(s.driver_version, 13000u);
  EXPECT_TRUE(s.software);
  ASSERT_EQ(s.devices.size(), 2u);
  EXPECT_EQ(s.devices[1].name, "A GPU");
  EXPECT_EQ(s.devices[1].uuid[3], 7);
  EXPECT_EQ(s.devices[1].total_bytes, uint64_t{3} << 40);
  ASSERT_NE(find_attribute(s.devices[0].attributes, 76), nullptr);
  EXPECT_EQ(*find_attribute(s.devices[0].attributes, 76), -1);
  EXPECT_EQ(find_attribute(s.devices[0].attributes, 77), nullptr);
  EXPECT_EQ(s.devices[0].greatest_priority, -5);
  ASSERT_EQ(s.peers.size(), 1u);
  EXPECT_TRUE(s.peers[0].access);
}

TEST(SessionCodec, FactsAndOptionsTravelWhole) {
  FunctionFacts facts;
  facts.name = "_Z3addPfS_";
  facts.kernel = true;
  facts.parameters = {{0, 8}, {8, 4}};
  facts.attributes = {{0, 1024}};
  facts.owner = 99;
  const auto back = decode_function_facts_list(encode(std::vector<FunctionFacts>{facts, facts}));
  ASSERT_TRUE(back.ok());
  ASSERT_EQ(back.value().size(), 2u);
  EXPECT_EQ(back.value()[1].name, facts.name);
  EXPECT_EQ(back.value()[1].parameters[1].offset, 8u);
  EXPECT_EQ(back.value()[1].owner, 99u);
  JitOptions options;
  options.options = {{0, 32}};
  options.has_error_log = true;
  options.error_log_bytes = 4096;
  options.global_names = {"g"};
  options.global_addresses = {0x7000};
  const auto jit = decode_jit_options(encode(options));
  ASSERT_TRUE(jit.ok());
  EXPECT_EQ(jit.value().error_log_bytes, 4096u);
  EXPECT_EQ(jit.value().global_addresses[0], 0x7000u);
  JitResult result;
  result.error_log = "no";
  EXPECT_EQ(decode_jit_result(encode(result)).value().error_log, "no");
}

TEST(SessionCodec, BoundsAreKept) {
  SessionSnapshot snapshot = sample();
  snapshot.devices.resize(limits::kDevices + 1);
  EXPECT_FALSE(decode_session_snapshot(encode(snapshot)).ok());
  JitOptions options;
  options.info_log_bytes = limits::kStringBytes + 1;
  EXPECT_FALSE(decode_jit_options(encode(options)).ok());
  options.info_log_bytes = 0;
  options.global_names = {"without an address"};
  EXPECT_FALSE(decode_jit_options(encode(options)).ok());
}

TEST(SessionCodec, TruncatedAndRandomBytesNeverCrash) {
  const std::string whole = encode(sample());
  for (size_t length = 0; length < whole.size(); ++length) (void)decode_session_snapshot(whole.substr(0, length));
  std::mt19937 random(1);
  for (int i = 0; i < 20'000; ++i) {
    std::string bytes = whole;
    for (int j = 0; j < 4; ++j) bytes[random() % bytes.size()] = char(random());
    (void)decode_session_snapshot(bytes);
    (void)decode_function_facts(bytes);
    (void)decode_jit_options(bytes);
    (void)decode_jit_result(bytes);
  }
}

TEST(SessionCodec, ATicketsTransferNamesTicketAndOffset) {
  const uint64_t transfer = ticket_transfer(12345, 7 * limits::kBulkBlockBytes);
  EXPECT_EQ(ticket_of_transfer(transfer), 12345u);
  EXPECT_EQ(offset_of_transfer(transfer), 7 * limits::kBulkBlockBytes);
}

}  // namespace
}  // namespace bf
