#include "server/daemon/lease_table.h"

#include "server/daemon/random.h"

namespace bf::daemon {

std::vector<size_t> Lease::gpus() const {
  std::vector<size_t> positions;
  for (auto& share : shares) positions.push_back(share.gpu);
  return positions;
}

Result<Lease*> LeaseTable::grant(const control::LeaseRequest& request, uint64_t connection) {
  if (leases_.size() >= kLeases)
    return Status{StatusCode::kExhausted, "the server already keeps " + std::to_string(kLeases) + " leases"};
  auto shares = place(gpus_, request);
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
              .connection = connection,
              .shares = std::move(*shares),
              .ledger = std::move(*ledger),
              .request = request};
  return &leases_.emplace(std::move(id), std::move(lease)).first->second;
}

Lease* LeaseTable::find(const std::string& id) {
  auto found = leases_.find(id);
  return found == leases_.end() ? nullptr : &found->second;
}

Lease* LeaseTable::find_by_connection(uint64_t connection) {
  for (auto& [id, lease] : leases_)
    if (lease.connection == connection) return &lease;
  return nullptr;
}

Result<Lease*> LeaseTable::check(const std::string& id, const std::string& secret) {
  Lease* lease = find(id);
  if (lease == nullptr || !equal_secrets(lease->secret, secret))
    return Status{StatusCode::kDenied, "no such lease, or the wrong secret; start the program with bfrun"};
  if (lease->ending) return Status{StatusCode::kUnavailable, "the lease has ended, because bfrun did"};
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
