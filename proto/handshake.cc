#include "proto/handshake.h"

#include "base/limits.h"
#include "base/random.h"
#include "proto/secrets.h"

namespace bf::control {

Result<Admission> attach(int socket, AttachRequest request, std::string_view lease_secret, Deadline deadline,
                         bool* device_twice) {
  request.nonce = random_bytes(kSecretBytes);
  const std::string sent = encode_AttachRequest(request);
  auto answer = exchange(socket, Opcode::kAttach, sent, deadline);
  if (!answer.ok()) return answer.status();
  Admission session;
  if (answer->opcode == Opcode::kChallenge) {
    auto challenge = decode_Challenge(as_bytes(answer->body));
    if (!challenge.ok()) return challenge.status();
    if (challenge->nonce.size() != kSecretBytes)
      return Status{StatusCode::kInvalid, "the server's challenge is not one"};
    session.session_key = secrets::session_key(lease_secret, sent, challenge->nonce);
    Proof proof{secrets::attach_proof(lease_secret, sent, challenge->nonce)};
    // What answers is the worker, when it can use the GPU.
    answer = exchange(socket, Opcode::kProof, encode_Proof(proof), deadline + std::chrono::milliseconds(limits::kWorkerStartMs));
    if (!answer.ok()) return answer.status();
  }
  if (answer->opcode != Opcode::kAttach)
    return Status{StatusCode::kInvalid, "the server answered something else than it was asked"};
  auto reply = decode_AttachReply(as_bytes(answer->body));
  if (!reply.ok()) return reply.status();
  if (device_twice) *device_twice = reply->device_twice;
  if (reply->status != 0) return to_status(reply->status, std::move(reply->message));
  if (session.session_key.empty())
    return Status{StatusCode::kInvalid, "the server admits a client that has proved nothing"};
  session.reply = std::move(*reply);
  return session;
}

Status join(int socket, const Admission& session, uint32_t index, Deadline deadline) {
  JoinRequest request{session.reply.session_id, index, secrets::join_proof(session.session_key, index)};
  auto body = round_trip(socket, Opcode::kJoin, encode_JoinRequest(request), deadline);
  if (!body.ok()) return body.status();
  auto reply = decode_JoinReply(as_bytes(*body));
  if (!reply.ok()) return reply.status();
  return to_status(reply->status, std::move(reply->message));
}

}  // namespace bf::control
