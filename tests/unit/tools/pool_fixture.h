// A server with tokens and TLS, and the tools as people use them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <memory>

#include "tests/unit/daemon/test_server.h"
#include "tests/unit/tools/run_tool.h"
#include "tools/remote.h"

namespace bf::test {

class Pool : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "pool-XXXXXX";
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    start({});
  }
  void TearDown() override {
    unsetenv("BF_TOKEN_FILE");
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

  // --- the same without the tools
  // A connection with this token.
  std::unique_ptr<tools::Remote> connect(const std::string& token) {
    setenv("BF_TOKEN_FILE", token.c_str(), 1);
    auto remote = tools::Remote::open(server_->tcp(), control::deadline_in(kPatience));
    EXPECT_TRUE(remote.ok()) << remote.status().message();
    return remote.ok() ? std::move(*remote) : nullptr;
  }
  // `memory_mib` on each; 0: whole GPUs.
  static control::ReserveReply reserve(tools::Remote& remote, uint32_t gpus = 1, uint64_t memory_mib = 100) {
    control::LeaseRequest wish;
    wish.gpus = gpus;
    wish.memory_bytes = memory_mib * kMiB;
    auto body = remote.ask(Opcode::kReserve, control::encode_LeaseRequest(wish), control::deadline_in(kPatience));
    EXPECT_TRUE(body.ok()) << body.status().message();
    return body.ok() ? control::decode_ReserveReply(control::as_bytes(*body)).value() : control::ReserveReply();
  }
  static control::LeaseReply commit(tools::Remote& remote, const std::string& reservation) {
    return control::decode_LeaseReply(control::as_bytes(remote.ask(Opcode::kLease, control::encode_CommitRequest({reservation}), control::deadline_in(kPatience)).value())).value();
  }
  static control::AttachRequest wish_for(const control::LeaseReply& lease) {
    control::AttachRequest request;
    request.protocol = control::kProtocolVersion;
    request.lease_id = lease.lease_id;
    request.program = "echo";
    request.transport = "tcp";
    return request;
  }

  static constexpr auto kPatience = std::chrono::seconds(10);
  std::string folder_;
  std::unique_ptr<Server> server_;
};

}  // namespace bf::test
