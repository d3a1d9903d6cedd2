// A server with tokens and TLS, and the tools as people use them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <memory>

#include "tests/unit/daemon/test_server.h"
#include "tests/unit/tools/run_tool.h"

namespace bf::test {

class Pool : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "pool-XXXXXX";
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    start({});
  }
  void TearDown() override {
    server_.reset();
    [[maybe_unused]] int done = system(("rm -r " + folder_).c_str());
  }
  void start(std::vector<std::string> arguments) {
    server_.reset();
    arguments.insert(arguments.end(), {"--state-dir", folder_ + "/state"});
    server_ = std::make_unique<Server>(ServerSettings{.arguments = arguments, .dev = false});
    ASSERT_TRUE(server_->ready()) << server_->log();
  }
  // As root on the server, over the Unix socket.
  Finished admin(std::vector<std::string> words) {
    words.insert(words.begin(), "bf");
    words.insert(words.end(), {"--server", server_->unix_socket().to_string()});
    return run_tool(words, {"BF_TOKEN_FILE="});
  }
  std::string token_file(const std::string& name, std::vector<std::string> options = {}) {
    options.insert(options.begin(), {"token", "create", name});
    auto made = admin(options);
    EXPECT_EQ(made.status, 0) << made.err;
    std::ofstream(folder_ + "/" + name) << made.out;
    return folder_ + "/" + name;
  }
  Finished with(const std::string& token, std::vector<std::string> words) {
    words.insert(words.begin() + 1, {"--server", server_->address()});
    if (words[0] == "bf") std::rotate(words.begin() + 1, words.begin() + 3, words.begin() + 4);  // bf COMMAND --server
    return run_tool(words, {"BF_TOKEN_FILE=" + token});
  }

  std::string folder_;
  std::unique_ptr<Server> server_;
};

}  // namespace bf::test
