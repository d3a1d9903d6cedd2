// The memory ledger of one lease: a memfd that bfserver creates and every worker of the lease maps.
//
// Slot s, device d holds the bytes that the worker in slot s has charged on the lease's d-th partition; what the lease
// uses is the sum over the slots. Only the worker of a slot adds to it, under a robust mutex shared by all workers of
// the lease, so that two workers never pass the limit together. A worker that dies inside the mutex harms nobody: the
// sum is always recomputed. bfserver clears the slot of a worker that it has reaped, with plain atomic stores; it never
// takes the mutex, so no worker can stop it. The file is sealed against resizing, so no worker can make it fault.
//
// All functions are safe from any thread and never allocate. `device` counts the partitions in the lease's order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/fd.h"
#include "base/limits.h"
#include "base/status.h"

namespace bf::server {

class Ledger {
 public:
  // bfserver: a new ledger, all slots zero. 1..limits::kDevices devices.
  static Result<Ledger> create(std::span<const uint64_t> limit_bytes);
  // Worker: maps what `memfd` holds. kInvalid if it is not a ledger.
  static Result<Ledger> open(Fd memfd);

  Ledger(Ledger&& other) noexcept;
  Ledger& operator=(Ledger&& other) noexcept;
  ~Ledger();

  int fd() const { return memfd_.get(); }
  size_t devices() const { return devices_; }
  uint64_t limit(size_t device) const;
  // Sum over all slots.
  uint64_t used(size_t device) const;
  uint64_t charged(size_t slot, size_t device) const;

  // Adds `bytes` to the slot if the lease's sum stays within the limit; false, and nothing changed, otherwise.
  bool charge(size_t slot, size_t device, uint64_t bytes);
  // Takes `bytes` off the slot; never below zero.
  void refund(size_t slot, size_t device, uint64_t bytes);
  // bfserver: the worker of the slot is gone.
  void clear_slot(size_t slot);

 private:
  struct Layout;
  Ledger(Fd memfd, Layout* layout, size_t devices)
      : memfd_(static_cast<Fd&&>(memfd)), layout_(layout), devices_(devices) {}

  Fd memfd_;
  Layout* layout_ = nullptr;
  size_t devices_ = 0;
};

}  // namespace bf::server
