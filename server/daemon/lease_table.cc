#include "server/daemon/lease_table.h"

#include "base/random.h"
#include "proto/secrets.h"

namespace bf::daemon {

Result<Lease*> LeaseTable::reserve(const control::LeaseRequest& request, const Identity& owner, uint64_t connection,
                                   std::span<const GpuState> visible) {
  if (leases_.size() >= kLeases)
    return Status{StatusCode::kExhausted, "the server already keeps " + std::to_string(kLeases) + " leases"};
  auto shares = place(visible, request);
  if (!shares.ok()) return shares.status();
  std::vector<uint64_t> limit_bytes;
  for (auto& share : *shares) limit_bytes.push_back(share.bytes);
  auto ledger = server::Ledger::create(limit_bytes);
  if (!ledger.ok()) return ledger.status();
  for (auto& share : *shares) {
    gpus_[share.gpu].promised_bytes += share.bytes;
    gpus_[share.gpu].leases++;
  }
  std::string id = random_id();
  Lease lease{.id = id,
              .secret = random_bytes(control::kSecretBytes),
              .owner = owner,
              .connection = connection,
              .reserved = Lease::Clock::now(),
              .shares = std::move(*shares),
              .ledger = std::move(*ledger),
              .request = request};
  return &leases_.emplace(std::move(id), std::move(lease)).first->second;
}

Result<Lease*> LeaseTable::commit(const std::string& id, uint64_t connection) {
  Lease* lease = find(id);
  if (lease == nullptr || lease->connection != connection || lease->state != Lease::State::kReserved)
    return Status{StatusCode::kDenied, "this connection has no such reservation, or it is over; ask again"};
  lease->state = Lease::State::kActive;
  lease->began = lease->last_used = Lease::Clock::now();
  lease->began_unix = ::time(nullptr);
  if (lease->detached()) lease->connection = 0;
  return lease;
}

Lease* LeaseTable::find(const std::string& id) {
  auto found = leases_.find(id);
  return found == leases_.end() ? nullptr : &found->second;
}

Lease* LeaseTable::find_by_connection(uint64_t connection) {
  for (auto& [id, lease] : leases_)
    if (lease.connection == connection || lease.holders.contains(connection)) return &lease;
  return nullptr;
}

Result<Lease*> LeaseTable::check(const std::string& id, std::string_view attach_body, std::string_view nonce,
                                 std::string_view proof) {
  Lease* lease = find(id);
  if (lease == nullptr || lease->state == Lease::State::kReserved ||
      !equal_secrets(secrets::attach_proof(lease->secret, attach_body, nonce), proof))
    return Status{StatusCode::kDenied, "no such lease, or the wrong secret; start the program with bfrun"};
  if (lease->state == Lease::State::kEnding)
    return Status{StatusCode::kUnavailable, "the lease has ended: " + lease->end_reason};
  return lease;
}

Result<Lease*> LeaseTable::check_reading(const std::string& id, std::string_view proof) {
  Lease* lease = find(id);
  if (lease == nullptr || lease->state == Lease::State::kReserved ||
      !equal_secrets(secrets::reading_proof(lease->secret), proof))
    return Status{StatusCode::kDenied, "no such lease, or the wrong secret; start the program with bfrun"};
  return lease;
}

Result<uint32_t> LeaseTable::take_slot(Lease& lease) {
  for (uint32_t slot = 0; slot < lease.slots.size(); slot++) {
    if (lease.slots[slot]) continue;
    lease.slots[slot] = true;
    return slot;
  }
  return Status{StatusCode::kExhausted,
                "this lease already serves " + std::to_string(lease.slots.size()) + " processes"};
}

void LeaseTable::free_slot(Lease& lease, uint32_t slot) {
  lease.ledger.clear_slot(slot);
  lease.slots[slot] = false;
}

void LeaseTable::release(Lease& lease) {
  for (auto& share : lease.shares) {
    gpus_[share.gpu].promised_bytes -= share.bytes;
    gpus_[share.gpu].leases--;
  }
  leases_.erase(lease.id);
}

control::LeaseReply LeaseTable::describe(const Lease& lease) const {
  control::LeaseReply reply;
  reply.lease_id = lease.id;
  reply.secret = lease.secret;
  for (auto& share : lease.shares) {
    auto& facts = gpus_[share.gpu].facts;
    reply.partitions.push_back({facts.index, facts.uuid, share.bytes, facts.name});
  }
  return reply;
}

}  // namespace bf::daemon
