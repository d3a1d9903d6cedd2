#include "server/worker/charges.h"

#include <algorithm>

namespace bf::server {

Charges::Charges(Ledger& ledger, uint32_t slot, std::vector<Device> devices)
    : ledger_(ledger),
      slot_(slot),
      devices_(std::move(devices)),
      blocks_(devices_.size()),
      contexts_(devices_.size()) {}

Charges::~Charges() {
  for (const Device& device : devices_)
    ledger_.refund(slot_, device.partition, ledger_.charged(slot_, device.partition));
}

uint64_t Charges::free(size_t device) const {
  const uint64_t limit = total(device);
  return limit - std::min(limit, ledger_.used(devices_[device].partition));
}

bool Charges::may_fit(size_t device, uint64_t bytes) const { return bytes / kBlockBytes * kBlockBytes <= free(device); }

// References every block of the record; the bytes of those that nobody referenced before.
uint64_t Charges::count_new_blocks(const Record& record) {
  if (record.by_size) return record.bytes;
  auto& blocks = blocks_[record.device];
  uint64_t fresh = 0;
  for (uint64_t b = record.key >> kBlockShift; b <= (record.key + record.bytes - 1) >> kBlockShift; ++b)
    if (blocks[b]++ == 0) fresh += kBlockBytes;
  return fresh;
}

uint64_t Charges::drop_blocks(const Record& record) {
  if (record.by_size) return record.bytes;
  auto& blocks = blocks_[record.device];
  uint64_t freed = 0;
  for (uint64_t b = record.key >> kBlockShift; b <= (record.key + record.bytes - 1) >> kBlockShift; ++b) {
    const auto found = blocks.find(b);
    if (found == blocks.end() || --found->second > 0) continue;
    blocks.erase(found);
    freed += kBlockBytes;
  }
  return freed;
}

bool Charges::add(const Record& record) {
  if (record.bytes == 0) return true;
  std::lock_guard guard(mutex_);
  const uint64_t fresh = count_new_blocks(record);
  if (fresh > 0 && !ledger_.charge(slot_, devices_[record.device].partition, fresh)) {
    drop_blocks(record);
    return false;
  }
  records_[record.key] = record;
  return true;
}

std::optional<Charges::Record> Charges::take(uint64_t key) {
  std::lock_guard guard(mutex_);
  const auto found = records_.find(key);
  if (found == records_.end()) return std::nullopt;
  const Record record = found->second;
  records_.erase(found);
  return record;
}

void Charges::settle(const Record& record) {
  std::lock_guard guard(mutex_);
  if (const uint64_t freed = drop_blocks(record)) ledger_.refund(slot_, devices_[record.device].partition, freed);
}

void Charges::restore(const Record& record) {
  std::lock_guard guard(mutex_);
  records_[record.key] = record;
}

void Charges::remove_context(CUcontext context) {
  std::lock_guard guard(mutex_);
  for (auto it = records_.begin(); it != records_.end();) {
    if (it->second.context != context) {
      ++it;
      continue;
    }
    if (const uint64_t freed = drop_blocks(it->second))
      ledger_.refund(slot_, devices_[it->second.device].partition, freed);
    it = records_.erase(it);
  }
}

bool Charges::add_physical(uint64_t handle, size_t device, uint64_t bytes) {
  std::lock_guard guard(mutex_);
  if (!ledger_.charge(slot_, devices_[device].partition, bytes)) return false;
  physical_[next_physical_] = {device, bytes, 1};
  physical_of_[handle] = {next_physical_++, 1};
  return true;
}

void Charges::release_physical(uint64_t id) {
  const auto found = physical_.find(id);
  if (found == physical_.end() || --found->second.uses > 0) return;
  ledger_.refund(slot_, devices_[found->second.device].partition, found->second.bytes);
  physical_.erase(found);
}

void Charges::drop_physical(uint64_t handle) {
  std::lock_guard guard(mutex_);
  const auto found = physical_of_.find(handle);
  if (found == physical_of_.end()) return;
  release_physical(found->second.number);
  if (--found->second.count == 0) physical_of_.erase(found);
}

void Charges::retain_physical(uint64_t handle, uint64_t address) {
  std::lock_guard guard(mutex_);
  auto mapping = mappings_.upper_bound(address);
  if (mapping == mappings_.begin()) return;
  const uint64_t number = (--mapping)->second;
  const auto found = physical_.find(number);
  if (found == physical_.end()) return;
  ++found->second.uses;
  auto& use = physical_of_.try_emplace(handle, HandleUse{number, 0}).first->second;
  ++use.count;
}

void Charges::map_physical(uint64_t handle, uint64_t address) {
  std::lock_guard guard(mutex_);
  const auto found = physical_of_.find(handle);
  if (found == physical_of_.end()) return;
  ++physical_[found->second.number].uses;
  mappings_[address] = found->second.number;
}

void Charges::unmap_physical(uint64_t address, uint64_t bytes) {
  std::lock_guard guard(mutex_);
  for (auto it = mappings_.lower_bound(address); it != mappings_.end() && it->first - address < bytes;) {
    release_physical(it->second);
    it = mappings_.erase(it);
  }
}

bool Charges::add_context(size_t device) {
  std::lock_guard guard(mutex_);
  if (!ledger_.charge(slot_, devices_[device].partition, devices_[device].context_bytes)) return false;
  ++contexts_[device];
  return true;
}

void Charges::remove_context_cost(size_t device) {
  std::lock_guard guard(mutex_);
  if (contexts_[device] == 0) return;
  --contexts_[device];
  ledger_.refund(slot_, devices_[device].partition, devices_[device].context_bytes);
}

bool Charges::set_pool(CUmemoryPool pool, size_t device, uint64_t reserved_bytes) {
  std::lock_guard guard(mutex_);
  auto& charge = pools_.try_emplace(pool, PoolCharge{device, 0}).first->second;
  const size_t partition = devices_[charge.device].partition;
  if (reserved_bytes > charge.bytes && !ledger_.charge(slot_, partition, reserved_bytes - charge.bytes)) return false;
  if (reserved_bytes < charge.bytes) ledger_.refund(slot_, partition, charge.bytes - reserved_bytes);
  charge.bytes = reserved_bytes;
  if (reserved_bytes == 0) pools_.erase(pool);
  return true;
}

uint64_t Charges::pool_charge(CUmemoryPool pool) const {
  std::lock_guard guard(mutex_);
  const auto found = pools_.find(pool);
  return found == pools_.end() ? 0 : found->second.bytes;
}

std::vector<Charges::Pool> Charges::pools() const {
  std::lock_guard guard(mutex_);
  std::vector<Pool> list;
  for (const auto& [pool, charge] : pools_) list.push_back({pool, charge.device});
  return list;
}

}  // namespace bf::server
