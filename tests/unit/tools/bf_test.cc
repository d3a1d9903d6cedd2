// bf as people and programs use it.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <regex>

#include "tests/unit/daemon/test_server.h"
#include "tests/unit/tools/run_tool.h"

namespace bf::test {
namespace {

using nlohmann::json;

class Bf : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(server_.ready()) << server_.log(); }
  Server server_{{.arguments = {"--server-name", "gpu7"}}};
};

TEST_F(Bf, SmiShowsThePool) {
  Lease held = lease(server_, 1, 1000);
  auto done = run_tool({"bf", "smi", "--json", "--server", server_.address()});
  EXPECT_EQ(done.status, 0) << done.err;
  json gpus = json::parse(done.out)["servers"][0]["gpus"];
  ASSERT_EQ(gpus.size(), 2u);
  EXPECT_EQ(gpus[0]["memory_mib"], 1024);
  EXPECT_EQ(gpus[0]["used_mib"], 0) << "leased, but nothing is allocated";
  EXPECT_EQ(gpus[0]["leases"], 1);
  done = run_tool({"bf", "smi", "--server", server_.address()});
  EXPECT_EQ(done.status, 0);
  EXPECT_NE(done.out.find("0 / 1024"), std::string::npos) << done.out;
  EXPECT_EQ(run_tool({"bf", "smi", "--server", "127.0.0.1:1"}).status, 1);
}

TEST_F(Bf, ListShowsWhatIsFree) {
  Lease held = lease(server_, 1, 1000);
  auto done = run_tool({"bf", "list", "--server", server_.address()});
  EXPECT_EQ(done.status, 0) << done.err;
  EXPECT_NE(done.out.find("Fake GPU"), std::string::npos) << done.out;
  EXPECT_NE(done.out.find("in use"), std::string::npos) << done.out;
  EXPECT_EQ(done.out.find('\033'), std::string::npos) << "no colours where no terminal is";
  done = run_tool({"bf", "list", "--json", "--server", server_.address(), "--server", "127.0.0.1:1"});
  EXPECT_EQ(done.status, 0) << "one of them answered";
  json answer = json::parse(done.out);
  json& first = answer["servers"][0];
  EXPECT_EQ(first["name"], "gpu7");
  EXPECT_EQ(first["software"], true);
  EXPECT_EQ(first["gpus"][0]["free_mib"], 24);
  EXPECT_EQ(first["gpus"][0]["leases"], 1);
  EXPECT_EQ(first["gpus"][1]["memory_mib"], 1024);
  EXPECT_NE(answer["servers"][1]["error"], "");
  EXPECT_EQ(run_tool({"bf", "list", "--server", "127.0.0.1:1"}).status, 1);
}

TEST_F(Bf, HealthGradesAndAdvises) {
  auto done = run_tool({"bf", "health", "--server", server_.address()});
  EXPECT_EQ(done.status, 0) << done.err;
  for (auto word : {"driver", "worker", "clock", "pass"}) EXPECT_NE(done.out.find(word), std::string::npos) << done.out;
  json answer = json::parse(run_tool({"bf", "health", "--json", "--server", server_.address()}).out);
  EXPECT_GE(answer["servers"][0]["checks"].size(), 6u);
  EXPECT_EQ(run_tool({"bf", "health", "--server", "127.0.0.1:1"}).status, 1);
}

TEST_F(Bf, NetperfMeasuresBothPaths) {
  auto done = run_tool({"bf", "netperf", server_.address(), "--json"});
  ASSERT_EQ(done.status, 0) << done.err;
  json answer = json::parse(done.out);
  ASSERT_EQ(answer["paths"].size(), 2u);
  EXPECT_EQ(answer["paths"][0]["path"], "tcp");
  EXPECT_EQ(answer["paths"][1]["path"], "unix");
  for (auto& path : answer["paths"]) {
    EXPECT_GT(path["min_us"], 0.0);
    EXPECT_GE(path["median_us"], path["min_us"]);
    EXPECT_GE(path["p99_us"], path["median_us"]);
    EXPECT_GT(path["to_server_mib_s"], 0.0);
    EXPECT_GT(path["from_server_mib_s"], 0.0);
  }
  EXPECT_NE(run_tool({"bf", "netperf", server_.address()}).out.find("50 us target"), std::string::npos);
  EXPECT_EQ(run_tool({"bf", "netperf", "127.0.0.1:1"}).status, 1);
}

TEST_F(Bf, HelpsAndComplains) {
  EXPECT_EQ(run_tool({"bf", "version"}).out.rfind("bf ", 0), 0u);
  EXPECT_TRUE(json::parse(run_tool({"bf", "version", "--json"}).out).contains("version"));
  EXPECT_NE(run_tool({"bf", "--help"}).out.find("netperf"), std::string::npos);
  for (auto words : {std::vector<std::string>{"bf"}, {"bf", "lst"}, {"bf", "list", "--bogus"}, {"bf", "netperf"}}) {
    auto done = run_tool(words);
    EXPECT_EQ(done.status, 2) << testing::PrintToString(words);
    EXPECT_NE(done.err.find("bf --help"), std::string::npos) << done.err;
  }
}

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

// The manual pages and the shell completion know every flag that --help knows.
TEST(Packaging, NamesEveryFlag) {
  std::string completion = read_file(BF_SOURCE "/packaging/bash-completion/backfield");
  const std::vector<std::pair<std::string, std::vector<std::string>>> tools = {
      {"bfrun.1", {"bfrun", "--help"}},
      {"bf.1", {"bf", "list", "--help"}},
      {"bf.1", {"bf", "netperf", "--help"}},
      {"bfserver.8", {"bfserver", "--help"}},
  };
  for (auto& [page, words] : tools) {
    std::string manual = std::regex_replace(read_file(BF_SOURCE "/packaging/man/" + page), std::regex("\\\\-"), "-");
    std::string help = run_tool(words).out;
    std::regex flag("(^|[ ,])(--[a-z-]+)");
    int flags = 0;
    for (std::sregex_iterator match(help.begin(), help.end(), flag), end; match != end; ++match, flags++) {
      std::string name = (*match)[2];
      EXPECT_NE(completion.find(name), std::string::npos) << name << " of " << words[0];
      if (name != "--help" && name != "--version") {
        EXPECT_NE(manual.find(name), std::string::npos) << name << " of " << page;
      }
    }
    EXPECT_GE(flags, 2) << help;
  }
}

}  // namespace
}  // namespace bf::test
