#include "tools/remote.h"
#include "tools/servers.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

namespace bf::tools {
namespace {

std::string names(const Result<std::vector<transport::Address>>& servers) {
  if (!servers.ok()) return "error: " + servers.status().message();
  std::string text;
  for (auto& server : servers.value()) text += (text.empty() ? "" : " ") + server.to_string();
  return text;
}

// A home folder of its own for each test, and no variables.
class Servers : public testing::Test {
 protected:
  void SetUp() override {
    home_ = testing::TempDir() + "home-" + std::to_string(getpid());
    mkdir(home_.c_str(), 0700);
    mkdir((home_ + "/.backfield").c_str(), 0700);
    setenv("HOME", home_.c_str(), 1);
    unsetenv("BF_SERVERS");
  }
  void TearDown() override {
    remove((home_ + "/.backfield/servers.conf").c_str());
    remove((home_ + "/.backfield").c_str());
    remove((home_ + "/other.conf").c_str());
    remove(home_.c_str());
  }
  void write_home(const std::string& text) { std::ofstream(home_ + "/.backfield/servers.conf") << text; }

  std::string home_;
};

TEST_F(Servers, FilesHoldOneAddressPerLine) {
  EXPECT_EQ(names(parse_servers("# pool\n\n  gpu1  \ngpu2:7000 # the new one\n[::1]:7001\ngpu1\n", "f")),
            "gpu1:56001 gpu2:7000 [::1]:7001");
  EXPECT_EQ(names(parse_servers("", "f")), "");
  EXPECT_EQ(names(parse_servers("gpu1\r\ngpu2\r\n", "f")), "gpu1:56001 gpu2:56001");
}

TEST_F(Servers, WrongLinesAreNamed) {
  EXPECT_EQ(names(parse_servers("gpu1\ngpu2 gpu3\n", "the.conf")).find("error: the.conf:2: "), 0u);
  EXPECT_EQ(names(parse_servers("gpu1\n\ngpu2:99999\n", "the.conf")).find("error: the.conf:3: "), 0u);
}

TEST_F(Servers, TheFirstSourceWins) {
  EXPECT_NE(names(find_servers({}, "")).find("--server"), std::string::npos) << "says what to type";
  write_home("home1\n");
  EXPECT_EQ(names(find_servers({}, "")), "home1:56001");
  setenv("BF_SERVERS", "env1, env2:1 env3", 1);
  EXPECT_EQ(names(find_servers({}, "")), "env1:56001 env2:1 env3:56001");
  std::ofstream(home_ + "/other.conf") << "file1\n";
  EXPECT_EQ(names(find_servers({}, home_ + "/other.conf")), "file1:56001");
  EXPECT_EQ(names(find_servers({"flag1", "flag2:2"}, home_ + "/other.conf")), "flag1:56001 flag2:2");
  setenv("BF_SERVERS", " ", 1);
  EXPECT_EQ(names(find_servers({}, "")), "home1:56001");
}

TEST_F(Servers, AFileThatWasNamedMustBeThere) {
  EXPECT_NE(names(find_servers({}, "/nonexistent/servers")).find("/nonexistent/servers"), std::string::npos);
  std::ofstream(home_ + "/other.conf") << "# nothing\n";
  EXPECT_EQ(names(find_servers({}, home_ + "/other.conf")).find("error: "), 0u);
}

TEST_F(Servers, TheYamlFormHoldsTheSame) {
  EXPECT_EQ(names(parse_servers("# pool\nservers:\n- gpu1\n- gpu2:7000\n", "f")), "gpu1:56001 gpu2:7000");
  EXPECT_EQ(names(parse_servers("servers:\n- reachable:\n  - 10.0.0.1:56001\n  - 10.1.0.1:56001\n- addresses: [gpu2]\n- address: gpu3\n", "f")),
            "10.0.0.1:56001 10.1.0.1:56001 gpu2:56001 gpu3:56001");
  EXPECT_EQ(names(parse_servers("servers:\n", "f")), "");
  EXPECT_EQ(names(parse_servers("servers:\n- gpu1\n- host: gpu2\n", "f")).find("error: f:3: "), 0u);
  EXPECT_EQ(names(parse_servers("servers:\n- [gpu1\n", "f")).find("error: f:"), 0u);
  EXPECT_EQ(names(parse_servers("servers:\n- gpu1:99999\n", "f")).find("error: f: "), 0u);
}

TEST_F(Servers, TextForTerminalsIsHarmless) {
  EXPECT_EQ(printable("a\033[31mb\nc\x7f \xc3\xa4"), "a?[31mb?c? \xc3\xa4");
}

}  // namespace
}  // namespace bf::tools
