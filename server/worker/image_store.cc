#include "server/worker/image_store.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/limits.h"
#include "server/image_cache.h"

namespace bf::server {
namespace {

// The answer, with its descriptor. False: none came.
bool receive(int socket, ImageCacheMessage& message, Fd& file) {
  iovec part{&message, sizeof(message)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  ssize_t count;
  while ((count = recvmsg(socket, &header, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR) {
  }
  if (count != ssize_t(sizeof(message))) return false;
  for (cmsghdr* rights = CMSG_FIRSTHDR(&header); rights; rights = CMSG_NXTHDR(&header, rights)) {
    if (rights->cmsg_level != SOL_SOCKET || rights->cmsg_type != SCM_RIGHTS) continue;
    int fd;
    std::memcpy(&fd, CMSG_DATA(rights), sizeof(fd));
    file.reset(fd);
  }
  return true;
}

}  // namespace

ImageStore::ImageStore(Fd socket) : socket_(std::move(socket)) {
  // bfserver answers at once; a disk that hangs must not hang the session.
  const timeval patience{5, 0};
  if (socket_) {
    setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(socket_.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
  }
}

std::optional<std::vector<std::byte>> ImageStore::find(const Sha256& name) {
  std::lock_guard guard(mutex_);
  if (!socket_) return std::nullopt;
  const ImageCacheMessage question{ImageCacheMessage::kOpen, 0, 0, name};
  ImageCacheMessage answer;
  Fd file;
  if (send(socket_.get(), &question, sizeof(question), MSG_NOSIGNAL) != ssize_t(sizeof(question)) ||
      !receive(socket_.get(), answer, file)) {
    socket_.reset();
    return std::nullopt;
  }
  struct stat facts{};
  if (answer.kind != ImageCacheMessage::kFound || !file || fstat(file.get(), &facts) < 0 || facts.st_size <= 0 ||
      uint64_t(facts.st_size) > limits::kImageBytes)
    return std::nullopt;
  std::vector<std::byte> image;
  image.reserve(size_t(facts.st_size) + 1);
  image.resize(size_t(facts.st_size));
  for (size_t at = 0; at < image.size();) {
    const ssize_t count = pread(file.get(), image.data() + at, image.size() - at, off_t(at));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return std::nullopt;
    at += size_t(count);
  }
  return image;
}

void ImageStore::store(const Sha256& name, std::span<const std::byte> image) {
  std::lock_guard guard(mutex_);
  if (!socket_) return;
  const ImageCacheMessage message{ImageCacheMessage::kStore, 0, image.size(), name};
  bool sent = send(socket_.get(), &message, sizeof(message), MSG_NOSIGNAL) == ssize_t(sizeof(message));
  while (sent && !image.empty()) {
    const auto chunk = image.first(std::min(image.size(), kChunkBytes));
    sent = send(socket_.get(), chunk.data(), chunk.size(), MSG_NOSIGNAL) == ssize_t(chunk.size());
    image = image.subspan(chunk.size());
  }
  if (!sent) socket_.reset();  // in the middle of an image: nothing more can be said
}

}  // namespace bf::server
