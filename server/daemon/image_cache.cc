#include "server/daemon/image_cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/limits.h"
#include "server/daemon/log.h"
#include "base/random.h"

namespace bf::daemon {
namespace {

using server::ImageCacheMessage;

constexpr const char* kSaltFile = "salt";

std::string file_name(const Sha256& name) {
  std::string text;
  for (std::byte byte : name) text += fmt::format("{:02x}", unsigned(byte));
  return text;
}

bool is_image_name(const std::string& name) {
  return name.size() == 64 && name.find_first_not_of("0123456789abcdef") == std::string::npos;
}

void send_message(int socket, const ImageCacheMessage& message, int file) {
  iovec part{const_cast<ImageCacheMessage*>(&message), sizeof(message)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (file >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(rights), &file, sizeof(int));
  }
  // A worker that does not read gets no answer, and goes without.
  (void)sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
}

bool write_all(int file, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(file, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    bytes = bytes.subspan(size_t(count));
  }
  return true;
}

}  // namespace

ImageCache::ImageCache(std::string folder, Fd directory, uint64_t most_bytes)
    : folder_(std::move(folder)), directory_(std::move(directory)), most_bytes_(most_bytes) {}

Result<std::unique_ptr<ImageCache>> ImageCache::open(const std::string& folder, uint64_t most_bytes) {
  if (::mkdir(folder.c_str(), 0700) < 0 && errno != EEXIST) return errno_status("making the image cache " + folder, errno);
  Fd directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory) return errno_status("opening the image cache " + folder, errno);
  struct stat facts{};
  if (::fstat(directory.get(), &facts) < 0) return errno_status("looking at the image cache " + folder, errno);
  if (facts.st_uid != ::geteuid() || (facts.st_mode & 077) != 0)
    return Status(StatusCode::kInvalid, fmt::format("the image cache {} is open to others: it must belong to the user that bfserver "
                                                    "runs as, with mode 0700", folder));
  std::unique_ptr<ImageCache> cache(new ImageCache(folder, std::move(directory), most_bytes));
  BF_RETURN_IF_ERROR(cache->load_salt());
  BF_RETURN_IF_ERROR(cache->load());
  cache->wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!cache->wake_) return errno_status("making an event", errno);
  cache->thread_ = std::thread([raw = cache.get()] { raw->serve(); });
  return cache;
}

ImageCache::~ImageCache() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard guard(mutex_);
    stop_ = true;
  }
  const uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof(one));
  thread_.join();
}

Status ImageCache::load_salt() {
  Fd file(::openat(directory_.get(), kSaltFile, O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (file) {
    char bytes[server::kSaltBytes];
    if (::read(file.get(), bytes, sizeof(bytes)) == ssize_t(sizeof(bytes))) {
      salt_.assign(bytes, sizeof(bytes));
      return {};
    }
  }
  salt_ = random_bytes(server::kSaltBytes);
  Fd made(::openat(directory_.get(), kSaltFile, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!made || !write_all(made.get(), std::as_bytes(std::span(salt_)))) return errno_status("writing the salt of the image cache", errno);
  return {};
}

// What an earlier bfserver left, oldest use first.
Status ImageCache::load() {
  DIR* listing = ::fdopendir(::fcntl(directory_.get(), F_DUPFD_CLOEXEC, 0));
  if (!listing) return errno_status("reading the image cache " + folder_, errno);
  std::vector<std::pair<timespec, std::string>> found;
  while (dirent* item = ::readdir(listing)) {
    const std::string name = item->d_name;
    struct stat facts{};
    if (::fstatat(directory_.get(), item->d_name, &facts, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(facts.st_mode)) continue;
    if (!is_image_name(name)) {
      if (name != kSaltFile) ::unlinkat(directory_.get(), item->d_name, 0);  // half written
      continue;
    }
    entries_[name].bytes = uint64_t(facts.st_size);
    bytes_ += uint64_t(facts.st_size);
    found.emplace_back(facts.st_mtim, name);
  }
  ::closedir(listing);
  std::ranges::sort(found, [](const auto& a, const auto& b) {
    return std::pair(a.first.tv_sec, a.first.tv_nsec) < std::pair(b.first.tv_sec, b.first.tv_nsec);
  });
  for (const auto& [time, name] : found) entries_[name].used = ++clock_;
  make_room(0);
  return {};
}

// With mutex_ held, or before the thread runs.
void ImageCache::make_room(uint64_t bytes) {
  while (!entries_.empty() && bytes_ + bytes > most_bytes_) {
    const auto oldest = std::ranges::min_element(entries_, {}, [](const auto& entry) { return entry.second.used; });
    ::unlinkat(directory_.get(), oldest->first.c_str(), 0);
    bytes_ -= oldest->second.bytes;
    entries_.erase(oldest);
  }
}

uint64_t ImageCache::bytes() const {
  std::lock_guard guard(mutex_);
  return bytes_;
}

size_t ImageCache::size() const {
  std::lock_guard guard(mutex_);
  return entries_.size();
}

Result<Fd> ImageCache::connect() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) return errno_status("making a socket pair", errno);
  Fd ours(ends[0]), theirs(ends[1]);
  {
    std::lock_guard guard(mutex_);
    arriving_.push_back(std::move(ours));
  }
  const uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof(one));
  return theirs;
}

void ImageCache::serve() {
  pthread_setname_np(pthread_self(), "bf-images");
  for (;;) {
    {
      std::lock_guard guard(mutex_);
      if (stop_) return;
      for (Fd& socket : arriving_) connections_.emplace_back().socket = std::move(socket);
      arriving_.clear();
    }
    std::vector<pollfd> waiting{{wake_.get(), POLLIN, 0}};
    for (const Connection& connection : connections_) waiting.push_back({connection.socket.get(), POLLIN, 0});
    if (::poll(waiting.data(), waiting.size(), -1) < 0 && errno != EINTR) return;
    if (waiting[0].revents) {
      uint64_t count;
      (void)!::read(wake_.get(), &count, sizeof(count));
    }
    size_t at = 1;
    for (auto connection = connections_.begin(); connection != connections_.end(); ++at) {
      if (waiting[at].revents && !receive(*connection)) {
        drop_store(*connection);
        connection = connections_.erase(connection);
      } else {
        ++connection;
      }
    }
  }
}

bool ImageCache::receive(Connection& connection) {
  std::byte buffer[server::kChunkBytes];
  const ssize_t count = ::recv(connection.socket.get(), buffer, sizeof(buffer), MSG_DONTWAIT | MSG_TRUNC);
  if (count < 0) return errno == EAGAIN || errno == EINTR;
  if (count == 0 || size_t(count) > sizeof(buffer)) return false;
  if (connection.missing > 0) return append(connection, {buffer, size_t(count)});
  ImageCacheMessage message;
  if (size_t(count) != sizeof(message)) return false;
  std::memcpy(&message, buffer, sizeof(message));
  if (message.kind == ImageCacheMessage::kOpen) {
    answer_open(connection, message.name);
    return true;
  }
  if (message.kind != ImageCacheMessage::kStore || message.bytes == 0 || message.bytes > limits::kImageBytes) return false;
  begin_store(connection, message);
  return true;
}

void ImageCache::answer_open(Connection& connection, const Sha256& name) {
  const std::string file = file_name(name);
  ImageCacheMessage answer{ImageCacheMessage::kAbsent, 0, 0, name};
  std::lock_guard guard(mutex_);
  const auto entry = entries_.find(file);
  if (entry == entries_.end()) return send_message(connection.socket.get(), answer, -1);
  Fd image(::openat(directory_.get(), file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!image) {
    bytes_ -= entry->second.bytes;
    entries_.erase(entry);
    return send_message(connection.socket.get(), answer, -1);
  }
  entry->second.used = ++clock_;
  ::futimens(image.get(), nullptr);  // for the bfserver after this one
  answer.kind = ImageCacheMessage::kFound;
  answer.bytes = entry->second.bytes;
  send_message(connection.socket.get(), answer, image.get());
}

void ImageCache::begin_store(Connection& connection, const ImageCacheMessage& message) {
  connection.name = message.name;
  connection.missing = connection.total = message.bytes;
  connection.temporary = fmt::format("new.{}", ++temporaries_);
  // One that does not fit, or a disk that refuses: the bytes are taken and dropped.
  if (message.bytes <= most_bytes_)
    connection.file.reset(::openat(directory_.get(), connection.temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
}

bool ImageCache::append(Connection& connection, std::span<const std::byte> bytes) {
  if (bytes.size() > connection.missing) return false;
  if (connection.file && !write_all(connection.file.get(), bytes)) {
    log::warn("image cache {}: {}", folder_, std::strerror(errno));
    const uint64_t missing = connection.missing;
    drop_store(connection);
    connection.missing = missing;
  }
  connection.missing -= bytes.size();
  if (connection.missing > 0 || !connection.file) return true;
  connection.file.reset();
  const std::string file = file_name(connection.name);
  std::lock_guard guard(mutex_);
  if (const auto old = entries_.find(file); old != entries_.end()) {
    bytes_ -= old->second.bytes;
    entries_.erase(old);
  }
  make_room(connection.total);
  if (::renameat(directory_.get(), connection.temporary.c_str(), directory_.get(), file.c_str()) < 0) {
    ::unlinkat(directory_.get(), connection.temporary.c_str(), 0);
    return true;
  }
  entries_[file] = {connection.total, ++clock_};
  bytes_ += connection.total;
  return true;
}

void ImageCache::drop_store(Connection& connection) {
  if (connection.file) ::unlinkat(directory_.get(), connection.temporary.c_str(), 0);
  connection.file.reset();
  connection.missing = 0;
}

}  // namespace bf::daemon
