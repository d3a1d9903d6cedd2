#include "tools/filter.h"

#include <gtest/gtest.h>

namespace bf::tools {
namespace {

Answer gpu7() {
  Answer answer;
  answer.server.host = "10.0.3.7";
  answer.list.server_name = "gpu7.example.org";
  answer.list.driver_version = 12040;
  answer.list.driver = "580.65.06";
  answer.list.transports = {"tcp"};
  control::Gpu gpu;
  gpu.index = 3;
  gpu.name = "NVIDIA H200 NVL";
  gpu.uuid = "GPU-12ab34cd-0000-0000-0000-000000000000";
  gpu.memory_bytes = uint64_t{40000} << 20;
  answer.list.gpus = {gpu};
  return answer;
}

bool matches(const std::string& text) {
  auto filter = Filter::parse(text);
  EXPECT_TRUE(filter.ok()) << filter.status().message();
  Answer server = gpu7();
  return filter.ok() && filter->matches(server, server.list.gpus[0]);
}

std::string complaint(const std::string& text) {
  auto filter = Filter::parse(text);
  return filter.ok() ? "" : filter.status().message();
}

TEST(Filter, ComparesNumbersAndVersions) {
  for (auto text : {"device.memory=40000", "device.memory>=40000", "device.memory<=40000", "device.memory>39999",
                    "device.memory<40001", "device.memory!=1", "server.cuda-version=12.4", "server.cuda-version>=12",
                    "server.cuda-version<13", "server.cuda-version<12.10", "server.driver-version>=580.65",
                    "server.driver-version>570.99.99", "server.driver-version<580.65.7"})
    EXPECT_TRUE(matches(text)) << text;
  for (auto text : {"device.memory>40000", "device.memory<40000", "device.memory!=40000", "server.cuda-version>12.4",
                    "server.cuda-version=12", "server.driver-version=580.65", "server.driver-version>=580.100"})
    EXPECT_FALSE(matches(text)) << text;
}

TEST(Filter, KnowsNamesByWordAndPrefix) {
  for (auto text : {"device.name=H200", "device.name=h200 nvl", "device.name=NVIDIA", "device.name=H2*",
                    "device.name!=H100", "server.hostname=gpu7", "server.hostname=GPU7.example.org",
                    "server.hostname=gpu*", "server.hostname!=gpu70"})
    EXPECT_TRUE(matches(text)) << text;
  for (auto text : {"device.name=H2", "device.name=H20", "device.name=200", "server.hostname=gpu", "server.hostname=example",
                    "server.hostname=gpu7.example.or", "server.hostname=pu7*"})
    EXPECT_FALSE(matches(text)) << text;
}

TEST(Filter, KnowsAddressesAndRanges) {
  for (auto text : {"server.addr=10.0.3.7", "server.addr=10.0.0.0/16", "server.addr=10.0.3.4/30", "server.addr=0.0.0.0/0",
                    "server.addr!=10.0.3.8", "server.addr!=::1", "server.addr!=10.1.0.0/16"})
    EXPECT_TRUE(matches(text)) << text;
  for (auto text : {"server.addr=10.0.3.8", "server.addr=10.0.3.0/30", "server.addr=::/0", "server.addr!=10.0.3.7/32"})
    EXPECT_FALSE(matches(text)) << text;
}

TEST(Filter, KnowsGpusAndRdma) {
  for (auto text : {"device.id=3", "device.id=GPU-12AB", "device.id=GPU-12ab34cd-0000-0000-0000-000000000000",
                    "device.id!=2", "server.has-rdma=false", "server.has-rdma!=true"})
    EXPECT_TRUE(matches(text)) << text;
  for (auto text : {"device.id=33", "device.id=GPU-", "device.id=GPU-13", "server.has-rdma=true"})
    EXPECT_FALSE(matches(text)) << text;
}

TEST(Filter, SaysWhatIsWrong) {
  EXPECT_NE(complaint("device.memory").find("operator"), std::string::npos);
  EXPECT_NE(complaint("device.colour=red").find("device.id, device.memory, device.name"), std::string::npos);
  EXPECT_NE(complaint("device.memory=").find("no value"), std::string::npos);
  EXPECT_NE(complaint("device.memory!40").find("there are = !="), std::string::npos);
  for (auto text : {"device.name>H200", "server.addr=gpu7", "server.addr=10.0.0.0/33", "server.addr=10.0.0.0/", "server.has-rdma=yes",
                    "server.cuda-version=new", "server.cuda-version=12.", "device.memory>=40GB", "device.memory>=1.5",
                    "server.addr<10.0.0.0"})
    EXPECT_NE(complaint(text).find("can never match"), std::string::npos) << text << ": " << complaint(text);
}

}  // namespace
}  // namespace bf::tools
