// shm: the handshake and life of a link over shared memory.
//
// The worker makes a memfd of fixed layout, seals its size (so that no peer can shrink it under the other's feet, which
// would be SIGBUS), and sends it over the Unix socket, with a second one out of which the client gives its program
// pinned memory (Link::shared_memory). From then on nothing travels on the socket: it stays open so that its hang-up tells each side that the other one left, whatever way it died. A watcher thread waits for that.
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>

#include "proto/shared_memory.h"
#include "transport/shm_link.h"
#include "transport/thread.h"

namespace bf::transport {
namespace shm {
namespace {

// What the worker sends along with the memfd.
struct Offer {
  char magic[8] = {'b', 'f', '-', 's', 'h', 'm', '\n', '\0'};
  uint32_t version = kVersion;
  uint32_t reserved = 0;
  uint64_t bytes = sizeof(Segment);
  uint64_t shared_bytes = kSharedBytes;
};

// The descriptors that come along, in this order.
struct Files {
  Fd segment;
  Fd shared;
};

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW;

// The mapped segment.
class Mapping {
 public:
  explicit Mapping(int fd) {
    void* memory = mmap(nullptr, sizeof(Segment), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (memory != MAP_FAILED) segment_ = static_cast<Segment*>(memory);
  }
  Mapping(Mapping&& other) noexcept : segment_(std::exchange(other.segment_, nullptr)) {}
  ~Mapping() {
    if (segment_) munmap(segment_, sizeof(Segment));
  }
  explicit operator bool() const { return segment_ != nullptr; }
  Segment* operator->() const { return segment_; }

 private:
  Segment* segment_ = nullptr;
};

// One thread copies about 10 GB/s: enough on a small machine, while a large one has cores to spare.
uint32_t copy_threads() { return std::clamp(std::thread::hardware_concurrency() / 4, 1u, 4u); }

class ShmLink : public Link {
 public:
  ShmLink(Fd socket, Mapping mapping, Fd shared, bool worker)
      : limits_{"shm", true, true, limits::kBulkBlocks, copy_threads(), false},
        socket_(std::move(socket)),
        shared_(std::move(shared)),
        mapping_(std::move(mapping)),
        out_(worker ? mapping_->to_client : mapping_->to_worker),
        in_(worker ? mapping_->to_worker : mapping_->to_client),
        calls_(out_.calls, out_.calls_bytes, in_.calls, in_.calls_bytes, life_, [this] { shut(); }),
        side_(out_.side, out_.side_bytes, in_.side, in_.side_bytes, life_, [this] { shut(); }),
        bulk_(out_, in_, limits_.bulk_channels, life_, [this] { shut(); }) {}

  ~ShmLink() override {
    shut();
    bulk_.stop();
    watcher_.join();
  }

  Status watch() {
    auto thread = Thread::start("bf-shm-watch", [this] { watch_peer(); });
    if (thread.ok()) watcher_ = std::move(thread).value();
    return thread.status();
  }

  Stream& calls() override { return calls_; }
  Stream& side() override { return side_; }
  Bulk& bulk() override { return bulk_; }
  const Limits& limits() const override { return limits_; }
  int shared_memory() const override { return shared_.get(); }

  void shut() noexcept override {
    life_.shut = true;
    calls_.shut();
    side_.shut();
    bulk_.shut(Status(StatusCode::kUnavailable, "the link was shut"));
    shutdown(socket_.get(), SHUT_RDWR);
  }

 private:
  void watch_peer() {
    pollfd socket{socket_.get(), POLLIN | POLLRDHUP, 0};
    while (poll(&socket, 1, -1) < 0 && errno == EINTR) {
    }
    // A hang-up; or bytes, which no peer in its right mind sends.
    life_.peer_gone = true;
    calls_.wake();
    side_.wake();
    bulk_.wake();
  }

  Limits limits_;
  Fd socket_;
  Fd shared_;
  Mapping mapping_;
  Direction& out_;
  Direction& in_;
  Life life_;
  ShmStream calls_;
  ShmStream side_;
  ShmBulk bulk_;
  Thread watcher_;
};

Result<std::unique_ptr<Link>> make_link(Fd socket, Files files, bool worker) {
  Mapping mapping(files.segment.get());
  if (!mapping) return errno_status("cannot map the shared memory of a shm link", errno);
  auto link = std::make_unique<ShmLink>(std::move(socket), std::move(mapping), std::move(files.shared), worker);
  BF_RETURN_IF_ERROR(link->watch());
  return std::unique_ptr<Link>(std::move(link));
}

Status send_offer(int socket, const Files& files) {
  const int descriptors[] = {files.segment.get(), files.shared.get()};
  Offer offer;
  iovec part{&offer, sizeof offer};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof descriptors)] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof descriptors);
  memcpy(CMSG_DATA(rights), descriptors, sizeof descriptors);
  ssize_t sent;
  do {
    sent = sendmsg(socket, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return errno_status("cannot offer shared memory to the client", errno);
  if (sent != ssize_t(sizeof offer)) return Status(StatusCode::kUnavailable, "the client does not take the shm offer");
  return ok_status();
}

void take_descriptors(msghdr& message, std::vector<Fd>& found) {
  for (cmsghdr* one = CMSG_FIRSTHDR(&message); one; one = CMSG_NXTHDR(&message, one)) {
    if (one->cmsg_level != SOL_SOCKET || one->cmsg_type != SCM_RIGHTS) continue;
    for (size_t at = 0; CMSG_LEN(at + sizeof(int)) <= one->cmsg_len; at += sizeof(int)) {
      int fd;
      memcpy(&fd, CMSG_DATA(one) + at, sizeof fd);
      found.emplace_back(fd);
    }
  }
}

Result<Files> receive_offer(int socket, std::chrono::milliseconds timeout) {
  auto deadline = std::chrono::steady_clock::now() + timeout;
  Offer offer, expected;
  std::vector<Fd> descriptors;
  for (size_t done = 0; done < sizeof offer;) {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    pollfd wanted{socket, POLLIN, 0};
    int ready = poll(&wanted, 1, int(std::max<int64_t>(left, 0)));
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return errno_status("poll", errno);
    if (ready == 0) return Status(StatusCode::kTimeout, "the worker did not offer shared memory in time");
    iovec part{reinterpret_cast<std::byte*>(&offer) + done, sizeof offer - done};
    alignas(cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))];
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    ssize_t got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) return errno_status("cannot receive the shm offer", errno);
    take_descriptors(message, descriptors);
    if (got == 0) return Status(StatusCode::kUnavailable, "the worker left before it offered shared memory");
    done += size_t(got);
  }
  if (memcmp(&offer, &expected, sizeof offer) != 0)
    return Status(StatusCode::kInvalid,
                  "the worker offers another layout of shared memory; use the same version of "
                  "Backfield on both sides, or --transport tcp");
  if (descriptors.size() != 2) return Status(StatusCode::kInvalid, "the shm offer came without its memory");
  return Files{std::move(descriptors[0]), std::move(descriptors[1])};
}

// Memory that could shrink would let the peer kill us with SIGBUS.
Status check_memfd(int fd, uint64_t bytes) {
  struct stat facts;
  int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals || fstat(fd, &facts) != 0 || facts.st_size != off_t(bytes))
    return {StatusCode::kInvalid, "the worker offers shared memory of the wrong size, or not sealed"};
  return ok_status();
}

Result<Fd> make_memfd(uint64_t bytes) {
  Fd memfd(memfd_create("backfield", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memfd) return errno_status("cannot make shared memory", errno);
  if (ftruncate(memfd.get(), off_t(bytes)) != 0) return errno_status("cannot size shared memory", errno);
  if (fcntl(memfd.get(), F_ADD_SEALS, kSeals | F_SEAL_SEAL) != 0) return errno_status("cannot seal shared memory", errno);
  return memfd;
}

}  // namespace
}  // namespace shm

Result<std::unique_ptr<Link>> offer_shm_link(Fd socket) {
  auto segment = shm::make_memfd(sizeof(shm::Segment));
  if (!segment.ok()) return segment.status();
  auto shared = shm::make_memfd(kSharedBytes);
  if (!shared.ok()) return shared.status();
  shm::Files files{std::move(*segment), std::move(*shared)};
  BF_RETURN_IF_ERROR(shm::send_offer(socket.get(), files));
  return shm::make_link(std::move(socket), std::move(files), true);
}

Result<std::unique_ptr<Link>> accept_shm_link(Fd socket, std::chrono::milliseconds timeout) {
  auto files = shm::receive_offer(socket.get(), timeout);
  if (!files.ok()) return files.status();
  BF_RETURN_IF_ERROR(shm::check_memfd(files->segment.get(), sizeof(shm::Segment)));
  BF_RETURN_IF_ERROR(shm::check_memfd(files->shared.get(), kSharedBytes));
  return shm::make_link(std::move(socket), std::move(*files), false);
}

}  // namespace bf::transport
