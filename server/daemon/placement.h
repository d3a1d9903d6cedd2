// Which GPUs a lease gets. Pure arithmetic over the server's GPUs: no side effects, no I/O.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "proto/control.h"

namespace bf::daemon {

struct GpuState {
  control::Gpu facts;           // from the probe
  uint64_t capacity_bytes = 0;  // what all leases may hold together, contexts included
  uint64_t promised_bytes = 0;
  uint32_t leases = 0;

  uint64_t free_bytes() const { return capacity_bytes - promised_bytes; }
};

struct Share {
  size_t gpu = 0;  // position in the list of GPUs
  uint64_t bytes = 0;
};

// Whether the request may have a share of this GPU at all.
bool allowed(const GpuState& gpu, const control::LeaseRequest& request);
// GPUs of which the request wants all.
bool wants_whole(const control::LeaseRequest& request);

// Best fit: of the GPUs that can give what is asked, those with the least left over (with `spread`: the most). Fractions are cut to whole 2 MiB
// blocks, so that fractions adding up to 1 always fit. Whole GPUs are those that nobody else has a share of.
// kInvalid: the request contradicts itself. kImpossible: this server could not grant it even when idle; the message
// names the reason and the biggest GPU. kExhausted: not now.
Result<std::vector<Share>> place(std::span<const GpuState> gpus, const control::LeaseRequest& request);

}  // namespace bf::daemon
