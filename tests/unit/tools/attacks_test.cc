// Attacks on a server with tokens and TLS, each of which must fail. Guessed and missing tokens,
// foreign leases, slow and oversized handshakes: pool_test.cc. Floods and nonsense: hostile_test.cc.
#include <openssl/ssl.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <thread>

#include "base/random.h"
#include "proto/secrets.h"
#include "tests/unit/tools/pool_fixture.h"

namespace bf::test {
namespace {

using namespace std::chrono_literals;
using control::deadline_in;
using Clock = std::chrono::steady_clock;

class Attacks : public Pool {};

TEST_F(Attacks, AnOverheardProofOpensNothing) {
  auto holder = connect(token_file("alice"));
  control::LeaseReply lease = commit(*holder, reserve(*holder).reservation_id);
  control::AttachRequest wish = wish_for(lease);
  wish.nonce = random_bytes(32);
  const std::string body = control::encode_AttachRequest(wish);
  auto challenge = [&](Fd& socket) {
    auto frame = control::exchange(socket.get(), Opcode::kAttach, body, deadline_in(5s));
    EXPECT_TRUE(frame.ok()) << frame.status().message();
    return control::decode_Challenge(control::as_bytes(frame->body)).value().nonce;
  };
  auto prove = [&](Fd& socket, const std::string& proof) {
    auto frame = control::exchange(socket.get(), Opcode::kProof, control::encode_Proof({proof}), deadline_in(5s));
    return frame.ok() ? control::decode_AttachReply(control::as_bytes(frame->body)).value().status : uint32_t(frame.status().code());
  };
  Fd first = dial(server_->tcp()), second = dial(server_->tcp()), third = dial(server_->tcp());
  const std::string proof = secrets::attach_proof(lease.secret, body, challenge(first));
  EXPECT_EQ(prove(first, proof), 0u);
  challenge(second);
  EXPECT_EQ(prove(second, proof), uint32_t(StatusCode::kDenied)) << "the same request and proof, replayed";
  challenge(third);
  EXPECT_NE(prove(third, secrets::attach_proof(random_bytes(32), body, "")), 0u);
  EXPECT_NE(prove(third, proof), 0u) << "one guess for each challenge";
}

TEST_F(Attacks, AnOverheardJoinOpensNothing) {
  auto holder = connect(token_file("alice"));
  control::LeaseReply lease = commit(*holder, reserve(*holder).reservation_id);
  Fd calls = dial(server_->tcp()), side = dial(server_->tcp()), again = dial(server_->tcp()), other = dial(server_->tcp());
  auto session = control::attach(calls.get(), wish_for(lease), lease.secret, deadline_in(5s));
  ASSERT_TRUE(session.ok()) << session.status().message();
  ASSERT_TRUE(control::join(side.get(), *session, 0, deadline_in(5s)).ok());
  EXPECT_FALSE(control::join(again.get(), *session, 0, deadline_in(5s)).ok()) << "a channel joins once";
  control::Admission guessed = *session;
  guessed.session_key = random_bytes(32);
  EXPECT_FALSE(control::join(other.get(), guessed, 1, deadline_in(5s)).ok());
}

TEST_F(Attacks, ALeaseOrAProcessThatIsNotOnesOwnGivesNothing) {
  auto alice = connect(token_file("alice")), bob = connect(token_file("bob"));
  const std::string reservation = reserve(*alice).reservation_id;
  EXPECT_EQ(commit(*bob, reservation).status, uint32_t(StatusCode::kDenied)) << "somebody else's reservation";
  control::LeaseReply lease = commit(*alice, reservation);
  ASSERT_EQ(lease.status, 0u) << lease.message;
  control::LeaseReply own = commit(*bob, reserve(*bob).reservation_id);
  // Bob's secret, alice's lease: for a session, and for readings.
  Fd socket = dial(server_->tcp()), readings = dial(server_->tcp());
  EXPECT_EQ(control::attach(socket.get(), wish_for(lease), own.secret, deadline_in(5s)).status().code(), StatusCode::kDenied);
  control::ReadingRequest look{.lease_id = lease.lease_id, .proof = secrets::reading_proof(own.secret)};
  auto answer = control::exchange(readings.get(), Opcode::kReading, control::encode_ReadingRequest(look), deadline_in(5s));
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(control::decode_ReadingReply(control::as_bytes(answer->body)).value().status, uint32_t(StatusCode::kDenied));
  // A process id is a name for people, and moves nobody: whoever it is outlives the session that claimed it.
  pid_t bystander = fork();
  if (bystander == 0) {
    pause();
    _exit(0);
  }
  Fd claims = dial(server_->tcp());
  control::AttachRequest wish = wish_for(own);
  wish.pid = uint32_t(bystander);
  ASSERT_TRUE(control::attach(claims.get(), wish, own.secret, deadline_in(5s)).ok());
  claims.reset();
  bob.reset();
  std::this_thread::sleep_for(2s);  // longer than the server's patience with workers whose client is gone
  EXPECT_EQ(waitpid(bystander, nullptr, WNOHANG), 0);
  kill(bystander, SIGKILL);
  waitpid(bystander, nullptr, 0);
}

TEST_F(Attacks, OlderTlsAndPlainAreNotSpoken) {
  for (auto [version, good] : {std::pair{TLS1_2_VERSION, false}, std::pair{TLS1_1_VERSION, false}, std::pair{TLS1_3_VERSION, true}}) {
    Fd socket = dial(server_->tcp());
    SSL_CTX* context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_security_level(context, 0);
    SSL_CTX_set_min_proto_version(context, 0);
    SSL_CTX_set_max_proto_version(context, version);
    SSL* ssl = SSL_new(context);
    SSL_set_fd(ssl, socket.get());
    EXPECT_EQ(SSL_connect(ssl) == 1, good) << version;
    SSL_free(ssl);
    SSL_CTX_free(context);
  }
}

// Somebody who sits in the server's place and speaks no TLS, to have the token shown in clear.
TEST_F(Attacks, ATokenIsShownToNobodyWithoutTls) {
  const std::string token = token_file("alice");
  transport::Address any{"127.0.0.1", 0, {}};
  Fd listener = std::move(transport::listen(any, 8)).value();
  sockaddr_in name{};
  socklen_t bytes = sizeof name;
  getsockname(listener.get(), reinterpret_cast<sockaddr*>(&name), &bytes);
  std::string seen;
  std::thread eavesdropper([&] {
    for (auto end = Clock::now() + 10s; Clock::now() < end && seen.empty(); std::this_thread::sleep_for(5ms)) {
      Fd socket(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!socket) continue;
      char buffer[65536];
      ssize_t got = recv(socket.get(), buffer, sizeof buffer, 0);
      seen.assign(buffer, size_t(std::max<ssize_t>(got, 0)));
      (void)control::send_frame(socket.get(), Opcode::kError, kReply, control::encode_ErrorReply({uint32_t(StatusCode::kDenied), "speak plainly"}), {}, deadline_in(5s));
    }
  });
  auto done = run_tool({"bf", "list", "--server", "127.0.0.1:" + std::to_string(ntohs(name.sin_port))}, {"BF_TOKEN_FILE=" + token});
  eavesdropper.join();
  EXPECT_EQ(done.status, 1);
  std::string text((std::istreambuf_iterator<char>(std::ifstream(token).rdbuf())), {});
  const std::string secret = tools::parse_token(text, token).value().secret;
  ASSERT_FALSE(seen.empty());
  EXPECT_EQ(seen.find(secret), std::string::npos);
  EXPECT_EQ(uint8_t(seen[0]), 0x16) << "a TLS handshake, and nothing else";
}

TEST_F(Attacks, PathsInNamesLeadNowhere) {
  const std::string out = folder_ + "/outside";
  for (const std::string& name : std::vector<std::string>{"../../outside", "/etc/passwd", "a\nb", "..", std::string(65, 'x')}) {
    auto made = admin({"token", "create", name});
    EXPECT_EQ(made.status == 0, name.size() <= 64) << name;
    admin({"limit", "set", "client:" + name, "--gpus", "1"});
  }
  EXPECT_NE(access(out.c_str(), F_OK), 0);
  // What the server writes, it writes to no place that somebody else points to.
  server_.reset();
  const std::string link = folder_ + "/linked.log";
  ASSERT_EQ(symlink(out.c_str(), link.c_str()), 0);
  Server audit({.arguments = {"--state-dir", folder_ + "/state", "--audit-log", link}, .dev = false});
  EXPECT_FALSE(audit.ready());
  EXPECT_NE(access(out.c_str(), F_OK), 0);
  ASSERT_EQ(rename((folder_ + "/state/backfield.db").c_str(), (folder_ + "/db").c_str()), 0);
  ASSERT_EQ(symlink(out.c_str(), (folder_ + "/state/backfield.db").c_str()), 0);
  Server state({.arguments = {"--state-dir", folder_ + "/state"}, .dev = false});
  EXPECT_FALSE(state.ready());
  EXPECT_NE(access(out.c_str(), F_OK), 0);
  // A client's list of servers names hosts, never files or commands.
  const std::string list = folder_ + "/servers.conf";
  for (const std::string& line : std::vector<std::string>{"../../etc/passwd", "/etc/passwd", "$(touch " + out + ")", "host:0", "host:99999", "a b"}) {
    std::ofstream(list) << line << "\n";
    auto done = run_tool({"bf", "list", "--servers", list}, {});
    EXPECT_NE(done.status, 0) << line;
    EXPECT_EQ(done.out.find("root:"), std::string::npos) << line;
  }
  EXPECT_NE(access(out.c_str(), F_OK), 0);
}

}  // namespace
}  // namespace bf::test
