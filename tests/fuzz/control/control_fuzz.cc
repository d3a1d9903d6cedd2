// Every decoder of control messages, the control channel and the worker's datagrams. The first byte chooses. What
// decodes must encode to something that decodes to the same bytes again.
#include <sys/socket.h>

#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "base/fd.h"
#include "proto/control.h"
#include "proto/control_channel.h"
#include "proto/supervise.h"

namespace {

using namespace bf;

template <typename Decode, typename Encode>
void check(control::Bytes bytes, Decode decode, Encode encode) {
  auto message = decode(bytes);
  if (!message.ok()) return;
  std::string once = encode(*message);
  auto again = decode(control::as_bytes(once));
  if (!again.ok() || encode(*again) != once) abort();
}

void feed_socket(int type, control::Bytes bytes, void (*read)(int)) {
  int ends[2];
  if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) != 0) return;
  Fd writer(ends[0]), reader(ends[1]);
  if (send(writer.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) return;
  writer.reset();
  read(reader.get());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  auto bytes = std::as_bytes(std::span(data + 1, size - 1));
  switch (data[0] % 39) {
#define CASE(number, X)                                     \
  case number:                                              \
    check(bytes, control::decode_##X, control::encode_##X); \
    break;
    CASE(0, ListRequest)
    CASE(1, ListReply)
    CASE(2, LeaseRequest)
    CASE(3, LeaseReply)
    CASE(4, AttachRequest)
    CASE(5, AttachReply)
    CASE(6, JoinRequest)
    CASE(7, JoinReply)
    CASE(8, HealthRequest)
    CASE(9, HealthReply)
    CASE(10, BandwidthRequest)
    CASE(11, ErrorReply)
    CASE(12, DataNotice)
    CASE(13, AsyncErrorNotice)
    CASE(14, PrintNotice)
    CASE(15, CallbackNotice)
    CASE(16, Assign)
    CASE(17, Channel)
    CASE(18, Ready)
    CASE(19, WorkerReport)
    CASE(20, ProbeReply)
    CASE(23, ReadingRequest)
    CASE(24, ReadingReply)
    CASE(25, NvmlAnswers)
    CASE(26, MonitorRequest)
    CASE(27, MonitorReport)
    CASE(28, ReserveReply)
    CASE(29, CommitRequest)
    CASE(30, HoldRequest)
    CASE(31, Challenge)
    CASE(32, Proof)
    CASE(33, AuthRequest)
    CASE(34, AuthReply)
    CASE(35, ManageRequest)
    CASE(36, ManageReply)
    CASE(37, HostData)
    CASE(38, SessionLost)
    case 21:
      feed_socket(SOCK_STREAM, bytes, [](int socket) {
        while (control::receive_frame(socket, control::deadline_in(std::chrono::milliseconds(100))).ok()) {
        }
      });
      break;
    case 22:
      feed_socket(SOCK_SEQPACKET, bytes, [](int socket) { (void)supervise::receive(socket, {}); });
      break;
  }
  return 0;
}
