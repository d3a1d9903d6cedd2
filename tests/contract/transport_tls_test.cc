// What TLS adds to tcp: without the session's key nothing happens, nobody on the way reads or changes anything.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <thread>

#include "tests/contract/link_pair.h"
#include "transport/tcp_connection.h"
#include "transport/tls.h"

namespace bf::transport::test {
namespace {

using namespace std::chrono_literals;

const std::string kKey(32, 'k');

// Two engines, with the bytes between them in our hands.
struct Engines {
  std::unique_ptr<Tls> client, server;
  std::string to_client, to_server;  // kept: feed() does not copy
  std::string seen;

  // The client's failure, or else the server's.
  Status shake() {
    for (int i = 0; i < 6; i++) {
      auto one = client->handshake();
      to_the_server();
      auto other = server->handshake();
      to_the_client();
      if (!one.ok() || !other.ok()) return one.ok() ? other.status() : one.status();
      if (*one && *other) return {};
    }
    return {StatusCode::kTimeout, "they do not finish"};
  }
  void to_the_server() {
    to_server = std::exchange(client->out(), {});
    seen += to_server;
    if (!to_server.empty()) server->feed(std::as_bytes(std::span(to_server)));
  }
  void to_the_client() {
    to_client = std::exchange(server->out(), {});
    seen += to_client;
    if (!to_client.empty()) client->feed(std::as_bytes(std::span(to_client)));
  }
};

Engines engines(const std::string& client_key, const std::string& server_key) {
  Engines pair;
  pair.client = Tls::with_key(client_key, false).value();
  pair.server = Tls::with_key(server_key, true).value();
  return pair;
}

Status write(Tls& tls, const std::string& text) {
  iovec part{const_cast<char*>(text.data()), text.size()};
  return tls.write(std::span(&part, 1));
}

// Passes on what the client sends whenever it has been silent for a while, in one piece.
void gather(int client, int server) {
  std::string held;
  std::array<char, 4096> buffer;
  for (;;) {
    pollfd both[] = {{client, POLLIN, 0}, {server, POLLIN, 0}};
    if (poll(both, 2, 30) == 0 && !held.empty()) {
      (void)!::write(server, held.data(), held.size());
      held.clear();
    }
    if (both[1].revents != 0) {
      const ssize_t got = ::read(server, buffer.data(), buffer.size());
      if (got <= 0) return;
      (void)!::write(client, buffer.data(), size_t(got));
    }
    if (both[0].revents != 0) {
      const ssize_t got = ::read(client, buffer.data(), buffer.size());
      if (got <= 0) return;
      held.append(buffer.data(), size_t(got));
    }
  }
}

TEST(Tls, WhatComesWithTheEndOfTheHandshakeIsSeen) {
  int client_side[2], server_side[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, client_side), 0);
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, server_side), 0);
  std::thread between([&] { gather(client_side[1], server_side[1]); });
  TcpConnection client{Fd(client_side[0])}, server{Fd(server_side[0])};
  const auto deadline = std::chrono::steady_clock::now() + 10s;
  std::thread sender([&] {
    EXPECT_TRUE(client.secure(kKey, false, deadline).ok());
    iovec part{const_cast<char*>("news"), 4};
    EXPECT_TRUE(client.send(std::span(&part, 1)).ok());
  });
  EXPECT_TRUE(server.secure(kKey, true, deadline).ok());
  sender.join();
  std::this_thread::sleep_for(100ms);
  EXPECT_TRUE(server.ready());
  server.wait_until_ready();
  std::array<std::byte, 4> news;
  EXPECT_TRUE(server.receive_all(news).ok());
  EXPECT_EQ(std::memcmp(news.data(), "news", 4), 0);
  client.hang_up();
  server.hang_up();
  between.join();
  close(client_side[1]);
  close(server_side[1]);
}

TEST(Tls, CarriesBytesThatNobodyElseCanRead) {
  Engines pair = engines(kKey, kKey);
  ASSERT_TRUE(pair.shake().ok());
  ASSERT_TRUE(write(*pair.client, "the weights of a model").ok());
  pair.to_the_server();
  std::array<std::byte, 64> buffer;
  auto got = pair.server->read(buffer);
  ASSERT_TRUE(got.ok()) << got.status().message();
  EXPECT_EQ(std::string(reinterpret_cast<char*>(buffer.data()), *got), "the weights of a model");
  EXPECT_EQ(pair.seen.find("weights"), std::string::npos);
  EXPECT_EQ(pair.server->read(buffer).value(), 0u) << "no more for now";
}

TEST(Tls, TheWrongKeyIsRefusedByBothSides) {
  EXPECT_EQ(engines(kKey, std::string(32, 'x')).shake().code(), StatusCode::kDenied);
  EXPECT_EQ(engines(std::string(32, 'x'), kKey).shake().code(), StatusCode::kDenied);
}

TEST(Tls, ChangedBytesEndIt) {
  Engines pair = engines(kKey, kKey);
  ASSERT_TRUE(pair.shake().ok());
  ASSERT_TRUE(write(*pair.client, "all is well").ok());
  pair.client->out().back() ^= 1;
  pair.to_the_server();
  std::array<std::byte, 64> buffer;
  EXPECT_EQ(pair.server->read(buffer).status().code(), StatusCode::kInvalid);
}

TEST(Tls, ReplayedBytesEndIt) {
  Engines pair = engines(kKey, kKey);
  ASSERT_TRUE(pair.shake().ok());
  ASSERT_TRUE(write(*pair.client, "pay one coin").ok());
  std::string record = pair.client->out();
  pair.to_the_server();
  std::array<std::byte, 64> buffer;
  ASSERT_TRUE(pair.server->read(buffer).ok());
  pair.server->feed(std::as_bytes(std::span(record)));
  EXPECT_EQ(pair.server->read(buffer).status().code(), StatusCode::kInvalid);
}

TEST(Tls, OldVersionsAndOtherProtocolsAreRefused) {
  for (std::string bytes : {std::string("GET / HTTP/1.1\r\nHost: gpu\r\n\r\n"),
                            std::string("\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x03", 11) + std::string(32, 'r') +
                                std::string("\x00\x00\x02\xc0\x2f\x01\x00", 7)}) {
    auto server = Tls::with_key(kKey, true).value();
    server->feed(std::as_bytes(std::span(bytes)));
    EXPECT_FALSE(server->handshake().ok()) << "TLS 1.2 at best";
  }
}

TEST(Tls, KeysChangeInTime) {
  Engines pair = engines(kKey, kKey);
  ASSERT_TRUE(pair.shake().ok());
  pair.client->set_rekey_bytes(1000);
  std::array<std::byte, 1000> buffer;
  for (int i = 0; i < 10; i++) {
    ASSERT_TRUE(write(*pair.client, std::string(600, char('a' + i))).ok());
    pair.to_the_server();
    auto got = pair.server->read(buffer);
    ASSERT_TRUE(got.ok()) << i << got.status().message();
    ASSERT_EQ(*got, 600u);
    EXPECT_EQ(char(buffer[0]), char('a' + i));
    EXPECT_EQ(pair.server->read(buffer).value(), 0u);
  }
}

TEST(Tls, AnAttackerWithoutTheKeyGetsNoLink) {
  for (bool attacker_is_server : {false, true}) {
    Sockets sockets = connect_sockets(Kind::kTls, 3);
    Status one, other;
    auto open = [&](int end, const std::string& key, bool server, Status& status) {
      std::vector<Fd> bulk;
      bulk.push_back(std::move(sockets.ends[end][2]));
      status = make_tls_link(std::move(sockets.ends[end][0]), std::move(sockets.ends[end][1]), std::move(bulk), key,
                             server ? End::kWorker : End::kClient, 5s).status();
    };
    std::thread server([&] { open(1, attacker_is_server ? std::string(32, 'x') : kKey, true, other); });
    open(0, attacker_is_server ? kKey : std::string(32, 'x'), false, one);
    server.join();
    EXPECT_FALSE(one.ok());
    EXPECT_FALSE(other.ok());
  }
}

TEST(Tls, ASlowHandshakeIsBounded) {
  Sockets sockets = connect_sockets(Kind::kTls, 1);
  TcpConnection server(std::move(sockets.ends[1][0]));
  std::atomic<bool> stop{false};
  std::thread drip([&] {  // a record that never ends
    const char header[] = "\x16\x03\x01\x40\x00";
    for (size_t i = 0; !stop; i++) {
      (void)!send(sockets.ends[0][0].get(), i < 5 ? header + i : "x", 1, MSG_NOSIGNAL);
      std::this_thread::sleep_for(20ms);
    }
  });
  auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(server.secure(kKey, true, start + 500ms).code(), StatusCode::kTimeout);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 2s);
  stop = true;
  drip.join();
}

}  // namespace
}  // namespace bf::transport::test
