#include "server/daemon/options.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

namespace bf::daemon {
namespace {

class File {
 public:
  explicit File(const std::string& text)
      : path_(testing::TempDir() + "bfserver-" + std::to_string(getpid()) + ".toml") {
    std::ofstream(path_) << text;
  }
  ~File() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

Parsed parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "bfserver");
  return parse_options(int(arguments.size()), arguments.data());
}

Parsed parse_file(const std::string& text, std::vector<const char*> arguments = {}) {
  File file(text);
  arguments.insert(arguments.begin(), {"--config", file.path().c_str()});
  return parse(arguments);
}

TEST(Options, Flags) {
  Parsed parsed = parse({"--dev", "--software-gpus", "2", "--software-memory=4096", "--listen", "127.0.0.1:1",
                         "--listen", "[::1]:1", "--foreground"});
  ASSERT_EQ(parsed.print, "");
  EXPECT_TRUE(parsed.options.dev);
  EXPECT_TRUE(parsed.options.foreground);
  EXPECT_EQ(parsed.options.state_dir, "/var/lib/backfield");
  EXPECT_EQ(parsed.options.software_gpus, 2u);
  EXPECT_EQ(parsed.options.software_memory_mib, 4096u);
  EXPECT_EQ(parsed.options.listen, (std::vector<std::string>{"127.0.0.1:1", "[::1]:1"}));
  EXPECT_EQ(parsed.options.warm_workers, 1u);
  EXPECT_EQ(parsed.options.drain_seconds, 30u);
}

TEST(Options, FileAndFlagsThatWin) {
  const char* text =
      "# a comment\n"
      "listen = ['127.0.0.1:1', '127.0.0.1:2']\n"
      "warm-workers = 3\n"
      "drain-seconds = 5\n"
      "dev = true\n"
      "encryption = 'always'\n"
      "server-name = 'gpu7'\n";
  Parsed parsed = parse_file(text);
  ASSERT_EQ(parsed.print, "");
  EXPECT_EQ(parsed.options.listen.size(), 2u);
  EXPECT_EQ(parsed.options.warm_workers, 3u);
  EXPECT_TRUE(parsed.options.dev);
  EXPECT_EQ(parsed.options.encryption, "always");
  EXPECT_EQ(parsed.options.server_name, "gpu7");
  parsed = parse_file(text, {"--warm-workers", "0", "--listen", "127.0.0.1:9"});
  ASSERT_EQ(parsed.print, "");
  EXPECT_EQ(parsed.options.listen, std::vector<std::string>{"127.0.0.1:9"});
  EXPECT_EQ(parsed.options.warm_workers, 0u);
  EXPECT_EQ(parsed.options.drain_seconds, 5u);
}

void expect_error_in_line(int line, const std::string& text) {
  Parsed parsed = parse_file(text);
  EXPECT_EQ(parsed.exit_status, 2) << text;
  EXPECT_NE(parsed.print.find(".toml:" + std::to_string(line) + ":"), std::string::npos) << parsed.print;
}

TEST(Options, ErrorsInTheFileNameTheLine) {
  expect_error_in_line(2, "dev = true\nwarm-worker = 3\n");
  expect_error_in_line(1, "warm-workers = 'many'\n");
  expect_error_in_line(1, "warm-workers = -1\n");
  expect_error_in_line(1, "warm-workers = 3.5\n");
  expect_error_in_line(3, "\n\ndev = [true]\n");
  expect_error_in_line(1, "config = 'another.toml'\n");
  expect_error_in_line(1, "[section]\n");
  expect_error_in_line(2, "dev = true\ndrain-seconds = \n");
}

// The example shows the defaults, commented out; with the comments off it says the same.
TEST(Options, TheExampleFileHoldsTheDefaults) {
  std::ifstream file(BF_SOURCE "/packaging/examples/bfserver.toml");
  ASSERT_TRUE(file);
  std::string text, line;
  int keys = 0;
  while (std::getline(file, line)) {
    bool is_key = line.rfind("# ", 0) == 0 && line.find(" = ") != std::string::npos;
    keys += is_key;
    text += (is_key ? line.substr(2) : line) + "\n";
  }
  EXPECT_GE(keys, 8);
  Parsed parsed = parse_file(text), defaults = parse({});
  ASSERT_EQ(parsed.print, "");
  EXPECT_EQ(parsed.options.warm_workers, defaults.options.warm_workers);
  EXPECT_EQ(parsed.options.drain_seconds, defaults.options.drain_seconds);
  EXPECT_EQ(parsed.options.log_level, defaults.options.log_level);
  EXPECT_EQ(parsed.options.software_gpus, defaults.options.software_gpus);
  EXPECT_EQ(parsed.options.software_memory_mib, defaults.options.software_memory_mib);
  EXPECT_EQ(parsed.options.state_dir, defaults.options.state_dir);
  EXPECT_EQ(parsed.options.encryption, defaults.options.encryption);
  EXPECT_EQ(parsed.options.idle_timeout_s, defaults.options.idle_timeout_s);
  EXPECT_EQ(parsed.options.auto_release_s, defaults.options.auto_release_s);
}

TEST(Options, UsageErrorsSayWhatToType) {
  for (auto wrong : {"--bogus", "--warm-workers=x", "--log-level=loud", "stray", "--software-gpus=99"}) {
    Parsed parsed = parse({wrong});
    EXPECT_EQ(parsed.exit_status, 2) << wrong;
    EXPECT_NE(parsed.print.find("bfserver --dev"), std::string::npos) << parsed.print;
  }
  EXPECT_EQ(parse({"--config", "/nonexistent/file.toml"}).exit_status, 2);
}

TEST(Options, HelpAndVersion) {
  Parsed help = parse({"--help"});
  EXPECT_EQ(help.exit_status, 0);
  for (auto flag : {"--listen", "--dev", "--state-dir", "--warm-workers", "--drain-seconds", "--worker-user"})
    EXPECT_NE(help.print.find(flag), std::string::npos) << flag;
  EXPECT_EQ(parse({"--version"}).print.rfind("bfserver ", 0), 0u);
}

}  // namespace
}  // namespace bf::daemon
