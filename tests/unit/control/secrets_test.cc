#include "proto/secrets.h"

#include <gtest/gtest.h>

#include <set>
#include <span>

#include "base/hex.h"
#include "base/sha256.h"

namespace bf {
namespace {

std::string hmac(std::string_view key, std::string_view data) {
  auto bytes = [](std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); };
  Sha256 digest = hmac_sha256(bytes(key), bytes(data));
  return to_hex({reinterpret_cast<const char*>(digest.data()), digest.size()});
}

// RFC 4231.
TEST(Hmac, KnowsTheTestVectors) {
  EXPECT_EQ(hmac(std::string(20, '\x0b'), "Hi There"), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
  EXPECT_EQ(hmac("Jefe", "what do ya want for nothing?"), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  EXPECT_EQ(hmac(std::string(131, '\xaa'), "Test Using Larger Than Block-Size Key - Hash Key First"),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

TEST(Hex, GoesThereAndBack) {
  EXPECT_EQ(to_hex(std::string("\0\x7f\xff", 3)), "007fff");
  EXPECT_EQ(from_hex("007fFF"), std::string("\0\x7f\xff", 3));
  EXPECT_EQ(from_hex(""), "");
  for (const char* bad : {"0", "0g", "zz", "0 "}) EXPECT_FALSE(from_hex(bad)) << bad;
}

TEST(Secrets, EveryUseHasItsOwnKey) {
  std::string lease(32, 'l'), nonce(32, 'n'), session = secrets::session_key(lease, "request", nonce);
  std::set<std::string> all = {lease,
                               session,
                               secrets::attach_proof(lease, "request", nonce),
                               secrets::attach_proof(lease, "request", std::string(32, 'm')),
                               secrets::attach_proof(lease, "requesu", nonce),
                               secrets::attach_proof(std::string(32, 'L'), "request", nonce),
                               secrets::session_key(lease, "requesu", nonce),
                               secrets::join_proof(session, 0),
                               secrets::join_proof(session, 1),
                               secrets::tls_key(session, 0),
                               secrets::tls_key(session, 1),
                               secrets::tls_key(session, -1),
                               secrets::rdma_proof(session, "request"),
                               secrets::rdma_proof(session, "requesu")};
  EXPECT_EQ(all.size(), 14u);
  EXPECT_EQ(secrets::attach_proof(lease, "request", nonce), secrets::attach_proof(lease, "request", nonce));
}

}  // namespace
}  // namespace bf
