#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/transport.h"

namespace bf::transport {
namespace {

using namespace std::chrono_literals;

struct Case {
  const char* text;
  const char* host;
  uint16_t port;
  const char* unix_name;
  const char* shown;
};

TEST(ParseAddress, WhatPeopleWrite) {
  for (const Case& c : std::vector<Case>{
           {"gpu1:56001", "gpu1", 56001, "", "gpu1:56001"},
           {"gpu1", "gpu1", 77, "", "gpu1:77"},
           {"tcp://gpu1:1", "gpu1", 1, "", "gpu1:1"},
           {"tcp://10.0.0.1", "10.0.0.1", 77, "", "10.0.0.1:77"},
           {"[::1]:65535", "::1", 65535, "", "[::1]:65535"},
           {"[fe80::1%eth0]", "fe80::1%eth0", 77, "", "[fe80::1%eth0]:77"},
           {"::1", "::1", 77, "", "[::1]:77"},
           {"2001:db8::5", "2001:db8::5", 77, "", "[2001:db8::5]:77"},
           {":0", "", 0, "", ":0"},
           {"unix:backfield.56001", "", 77, "backfield.56001", "unix:backfield.56001"},
       }) {
    auto address = parse_address(c.text, 77);
    ASSERT_TRUE(address.ok()) << c.text << ": " << address.status().message();
    EXPECT_EQ(address->host, c.host) << c.text;
    EXPECT_EQ(address->port, c.port) << c.text;
    EXPECT_EQ(address->unix_name, c.unix_name) << c.text;
    EXPECT_EQ(address->to_string(), c.shown);
    if (address->unix_name.empty()) {
      auto again = parse_address(address->to_string(), 1);
      ASSERT_TRUE(again.ok());
      EXPECT_EQ(again->to_string(), c.shown);
    }
  }
}

TEST(ParseAddress, WhatIsRefused) {
  for (std::string text :
       {std::string(""), std::string("tcp://"), std::string("host:"), std::string("host:x"), std::string("host:65536"),
        std::string("host:-1"), std::string("host:1x"), std::string("[::1"), std::string("[::1]1"), std::string("[]:1"),
        std::string("[::1]:"), std::string("a b:1"), std::string("http://host:1"), std::string("unix:"),
        "unix:" + std::string(108, 'x'), std::string("a\0b:1", 5)}) {
    auto address = parse_address(text, 77);
    EXPECT_EQ(address.status().code(), StatusCode::kInvalid) << text;
  }
  EXPECT_TRUE(parse_address("unix:" + std::string(107, 'x'), 1).ok());
}

uint16_t port_of(int fd) {
  sockaddr_in6 name{};
  socklen_t bytes = sizeof name;
  getsockname(fd, reinterpret_cast<sockaddr*>(&name), &bytes);
  return ntohs(name.sin6_port);  // lies at the same place for IPv4
}

Address at(const std::string& host, uint16_t port) {
  Address address;
  address.host = host;
  address.port = port;
  return address;
}

TEST(Sockets, AreWhatTheHeaderSays) {
  auto listener = listen(at("127.0.0.1", 0), 4);
  ASSERT_TRUE(listener.ok()) << listener.status().message();
  EXPECT_TRUE(fcntl(listener->get(), F_GETFD) & FD_CLOEXEC);
  EXPECT_TRUE(fcntl(listener->get(), F_GETFL) & O_NONBLOCK);
  auto fd = dial(at("127.0.0.1", port_of(listener->get())), 5s);
  ASSERT_TRUE(fd.ok()) << fd.status().message();
  EXPECT_TRUE(fcntl(fd->get(), F_GETFD) & FD_CLOEXEC);
  EXPECT_FALSE(fcntl(fd->get(), F_GETFL) & O_NONBLOCK);
  int no_delay = 0;
  socklen_t bytes = sizeof no_delay;
  getsockopt(fd->get(), IPPROTO_TCP, TCP_NODELAY, &no_delay, &bytes);
  EXPECT_NE(no_delay, 0);
}

TEST(Sockets, AnEmptyHostListensOnEverything) {
  auto listener = listen(at("", 0), 4);
  ASSERT_TRUE(listener.ok()) << listener.status().message();
  uint16_t port = port_of(listener->get());
  EXPECT_TRUE(dial(at("127.0.0.1", port), 5s).ok());
  EXPECT_TRUE(dial(at("localhost", port), 5s).ok());
  if (listen(at("::1", 0), 1).ok()) {
    EXPECT_TRUE(dial(at("::1", port), 5s).ok());
  }
}

TEST(Sockets, EveryAddressOfANameIsTried) {
  // "localhost" is ::1 first on most machines; only the IPv4 one listens.
  auto listener = listen(at("127.0.0.1", 0), 4);
  ASSERT_TRUE(listener.ok());
  EXPECT_TRUE(dial(at("localhost", port_of(listener->get())), 5s).ok());
}

TEST(Sockets, AbstractUnixNames) {
  Address address;
  address.unix_name = "backfield-test-" + std::to_string(getpid());
  EXPECT_EQ(dial(address, 1s).status().code(), StatusCode::kUnavailable);
  auto listener = listen(address, 4);
  ASSERT_TRUE(listener.ok()) << listener.status().message();
  EXPECT_TRUE(dial(address, 1s).ok());
  EXPECT_EQ(listen(address, 4).status().code(), StatusCode::kInvalid);
}

TEST(Sockets, FailuresSayWhatToDo) {
  auto listener = listen(at("127.0.0.1", 0), 4);
  ASSERT_TRUE(listener.ok());
  uint16_t port = port_of(listener->get());
  auto second = listen(at("127.0.0.1", port), 4);
  EXPECT_EQ(second.status().code(), StatusCode::kInvalid);
  EXPECT_NE(second.status().message().find("in use"), std::string::npos) << second.status().message();
  EXPECT_EQ(listen(at("192.0.2.1", 0), 4).status().code(), StatusCode::kInvalid);
  EXPECT_EQ(listen(at("no-such-host.invalid", 0), 4).status().code(), StatusCode::kInvalid);
  listener->reset();
  auto refused = dial(at("127.0.0.1", port), 5s);
  EXPECT_EQ(refused.status().code(), StatusCode::kUnavailable);
  EXPECT_NE(refused.status().message().find("127.0.0.1:" + std::to_string(port)), std::string::npos);
  EXPECT_EQ(dial(at("no-such-host.invalid", 1), 5s).status().code(), StatusCode::kUnavailable);
}

TEST(Sockets, DialGivesUpInTime) {
  // A backlog that is full answers nobody.
  auto listener = listen(at("127.0.0.1", 0), 0);
  ASSERT_TRUE(listener.ok());
  Address address = at("127.0.0.1", port_of(listener->get()));
  std::vector<Fd> filling;
  auto before = std::chrono::steady_clock::now();
  Status status;
  for (int i = 0; i < 8 && status.ok(); i++) {
    auto fd = dial(address, 200ms);
    status = fd.status();
    if (fd.ok()) filling.push_back(std::move(fd).value());
  }
  EXPECT_EQ(status.code(), StatusCode::kTimeout) << status.message();
  EXPECT_LT(std::chrono::steady_clock::now() - before, 2s);
}

}  // namespace
}  // namespace bf::transport
