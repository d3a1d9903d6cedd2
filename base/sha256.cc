#include "base/sha256.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <memory>

#include "base/openssl.h"
#include "base/status.h"

namespace bf {
namespace {

const EVP_MD* algorithm() {
  prepare_openssl();
  return EVP_sha256();
}

unsigned char* raw(Sha256& digest) { return reinterpret_cast<unsigned char*>(digest.data()); }

}  // namespace

Sha256 sha256(std::span<const std::span<const std::byte>> parts) {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  BF_CHECK(context != nullptr && EVP_DigestInit_ex(context.get(), algorithm(), nullptr) == 1);
  for (auto part : parts) BF_CHECK(EVP_DigestUpdate(context.get(), part.data(), part.size()) == 1);
  Sha256 digest;
  BF_CHECK(EVP_DigestFinal_ex(context.get(), raw(digest), nullptr) == 1);
  return digest;
}

Sha256 sha256(std::span<const std::byte> data) { return sha256(std::span(&data, 1)); }

Sha256 hmac_sha256(std::span<const std::byte> key, std::span<const std::byte> data) {
  const void* secret = key.empty() ? static_cast<const void*>("") : key.data();  // none at all would be an error
  Sha256 digest;
  BF_CHECK(HMAC(algorithm(), secret, int(key.size()), reinterpret_cast<const unsigned char*>(data.data()), data.size(), raw(digest), nullptr) != nullptr);
  return digest;
}

}  // namespace bf
