// The image cache by its protocol: what is stored is found, the bound holds, and a worker that lies is dropped.
#include "server/daemon/image_cache.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <thread>

namespace bf::daemon {
namespace {

using server::ImageCacheMessage;
using server::kChunkBytes;

Sha256 name_of(int number) {
  Sha256 name{};
  name[0] = std::byte(number);
  return name;
}

void store(int socket, int number, size_t bytes) {
  const ImageCacheMessage message{ImageCacheMessage::kStore, 0, bytes, name_of(number)};
  ASSERT_EQ(::send(socket, &message, sizeof message, MSG_NOSIGNAL), ssize_t(sizeof message));
  const std::vector<std::byte> chunk(kChunkBytes, std::byte(number));
  for (size_t at = 0; at < bytes; at += kChunkBytes) {
    const size_t count = std::min(kChunkBytes, bytes - at);
    ASSERT_EQ(::send(socket, chunk.data(), count, MSG_NOSIGNAL), ssize_t(count));
  }
}

// Bytes of the image; 0: absent; nothing: the cache hung up.
std::optional<uint64_t> open_image(int socket, int number) {
  const ImageCacheMessage question{ImageCacheMessage::kOpen, 0, 0, name_of(number)};
  if (::send(socket, &question, sizeof question, MSG_NOSIGNAL) < 0) return std::nullopt;
  ImageCacheMessage answer;
  iovec part{&answer, sizeof answer};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  if (::recvmsg(socket, &header, MSG_CMSG_CLOEXEC) != ssize_t(sizeof answer)) return std::nullopt;
  if (answer.kind == ImageCacheMessage::kAbsent) return 0;
  const cmsghdr* rights = CMSG_FIRSTHDR(&header);
  if (!rights) return std::nullopt;
  int fd;
  std::memcpy(&fd, CMSG_DATA(rights), sizeof fd);
  Fd file(fd);
  struct stat facts{};
  ::fstat(file.get(), &facts);
  EXPECT_EQ(uint64_t(facts.st_size), answer.bytes);
  EXPECT_EQ(facts.st_mode & 0777, 0600u);
  std::byte first{};
  EXPECT_EQ(::pread(file.get(), &first, 1, 0), 1);
  EXPECT_EQ(first, std::byte(number));
  EXPECT_LT(::write(file.get(), "x", 1), 0) << "a worker may not write";
  return answer.bytes;
}

class ImageCacheTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) / ("image_cache_" + std::to_string(::getpid()) + "_" +
                                                           testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::unique_ptr<ImageCache> open(uint64_t most) {
    auto cache = ImageCache::open(folder_.string(), most);
    EXPECT_TRUE(cache.ok()) << cache.status().message();
    return std::move(*cache);
  }
  std::filesystem::path folder_;
};

TEST_F(ImageCacheTest, KeepsWhatIsStored) {
  auto cache = open(1 << 20);
  Fd worker = cache->connect().value(), other = cache->connect().value();
  EXPECT_EQ(open_image(worker.get(), 1), 0u);
  store(worker.get(), 1, 200000);
  EXPECT_EQ(open_image(worker.get(), 1), 200000u);
  EXPECT_EQ(open_image(other.get(), 1), 200000u);
  EXPECT_EQ(cache->bytes(), 200000u);
  const std::string salt = cache->salt();
  EXPECT_EQ(salt.size(), server::kSaltBytes);
  cache.reset();
  auto again = open(1 << 20);
  Fd third = again->connect().value();
  EXPECT_EQ(again->salt(), salt);
  EXPECT_EQ(open_image(third.get(), 1), 200000u);
}

TEST_F(ImageCacheTest, TheLeastRecentlyUsedGo) {
  auto cache = open(300000);
  Fd worker = cache->connect().value();
  store(worker.get(), 1, 100000);
  store(worker.get(), 2, 100000);
  store(worker.get(), 3, 100000);
  EXPECT_EQ(open_image(worker.get(), 1), 100000u);
  store(worker.get(), 4, 100000);
  EXPECT_EQ(open_image(worker.get(), 2), 0u);
  EXPECT_EQ(open_image(worker.get(), 1), 100000u);
  EXPECT_EQ(open_image(worker.get(), 4), 100000u);
  store(worker.get(), 5, 400000);  // more than all: not kept, and nothing else lost
  EXPECT_EQ(open_image(worker.get(), 5), 0u);
  EXPECT_EQ(cache->bytes(), 300000u);
  EXPECT_EQ(cache->size(), 3u);
}

TEST_F(ImageCacheTest, ReplacesAndForgetsWhatWasNotFinished) {
  auto cache = open(1 << 20);
  Fd worker = cache->connect().value();
  store(worker.get(), 1, 1000);
  store(worker.get(), 1, 2000);
  EXPECT_EQ(open_image(worker.get(), 1), 2000u);
  EXPECT_EQ(cache->bytes(), 2000u);
  const ImageCacheMessage message{ImageCacheMessage::kStore, 0, 5000, name_of(9)};
  ASSERT_EQ(::send(worker.get(), &message, sizeof message, MSG_NOSIGNAL), ssize_t(sizeof message));
  worker.reset();
  Fd other = cache->connect().value();
  EXPECT_EQ(open_image(other.get(), 9), 0u);
  cache.reset();
  size_t files = 0;
  for ([[maybe_unused]] auto& file : std::filesystem::directory_iterator(folder_)) ++files;
  EXPECT_LE(files, 3u);  // the image, the salt, and at most what the end cut off
  auto again = open(1 << 20);
  EXPECT_EQ(again->size(), 1u);
}

TEST_F(ImageCacheTest, HangsUpOnNonsense) {
  auto cache = open(1 << 20);
  Fd worker = cache->connect().value();
  ASSERT_EQ(::send(worker.get(), "nonsense", 8, MSG_NOSIGNAL), 8);
  EXPECT_EQ(open_image(worker.get(), 1), std::nullopt);
  Fd liar = cache->connect().value();
  const ImageCacheMessage message{ImageCacheMessage::kStore, 0, ~uint64_t{0}, name_of(1)};
  ASSERT_EQ(::send(liar.get(), &message, sizeof message, MSG_NOSIGNAL), ssize_t(sizeof message));
  EXPECT_EQ(open_image(liar.get(), 1), std::nullopt);
}

TEST_F(ImageCacheTest, RefusesAFolderThatOthersMayRead) {
  std::filesystem::create_directory(folder_);
  std::filesystem::permissions(folder_, std::filesystem::perms(0755));
  EXPECT_EQ(ImageCache::open(folder_.string(), 1 << 20).status().code(), StatusCode::kInvalid);
}

}  // namespace
}  // namespace bf::daemon
