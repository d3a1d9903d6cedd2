#include "softgpu/driver/work.h"

#include <time.h>

#include <atomic>
#include <cstring>

#include "softgpu/driver/graph.h"
#include "softgpu/driver/pool.h"
#include "softgpu/driver/stream.h"

namespace bf::softgpu {
namespace {

template <typename T>
void fill_row(uint64_t to, T value, size_t count) {
  T* out = (T*)to;
  for (size_t i = 0; i < count; i++) out[i] = value;
}

void run_memset(const CUDA_MEMSET_NODE_PARAMS& p) {
  for (size_t y = 0; y < p.height; y++) {
    uint64_t row = p.dst + y * p.pitch;
    if (p.elementSize == 1)
      memset((void*)row, int(p.value), p.width);
    else if (p.elementSize == 2)
      fill_row<uint16_t>(row, uint16_t(p.value), p.width);
    else
      fill_row<uint32_t>(row, p.value, p.width);
  }
}

template <typename T>
bool satisfied(T seen, T wanted, unsigned flags) {
  switch (flags & 3) {
    case CU_STREAM_WAIT_VALUE_GEQ:
      return std::make_signed_t<T>(seen - wanted) >= 0;
    case CU_STREAM_WAIT_VALUE_EQ:
      return seen == wanted;
    case CU_STREAM_WAIT_VALUE_AND:
      return (seen & wanted) != 0;
    default:
      return T(~(seen | wanted)) != 0;
  }
}

// Polls, at first eagerly: the value is mostly about to be written.
template <typename T>
void wait_value(Context& context, uint64_t address, T wanted, unsigned flags) {
  for (unsigned round = 0; !context.destroyed; round++) {
    if (satisfied<T>(__atomic_load_n((T*)address, __ATOMIC_ACQUIRE), wanted, flags)) return;
    timespec pause{0, round < 100 ? 5'000 : 100'000};
    nanosleep(&pause, nullptr);
  }
}

void run_memory_operation(Context& context, const CUstreamBatchMemOpParams& operation) {
  const auto& wait = operation.waitValue;
  const auto& write = operation.writeValue;
  switch (operation.operation) {
    case CU_STREAM_MEM_OP_WAIT_VALUE_32:
      return wait_value<uint32_t>(context, wait.address, wait.value, wait.flags);
    case CU_STREAM_MEM_OP_WAIT_VALUE_64:
      return wait_value<uint64_t>(context, wait.address, wait.value64, wait.flags);
    case CU_STREAM_MEM_OP_WRITE_VALUE_32:
      return __atomic_store_n((uint32_t*)write.address, write.value, __ATOMIC_RELEASE);
    case CU_STREAM_MEM_OP_WRITE_VALUE_64:
      return __atomic_store_n((uint64_t*)write.address, write.value64, __ATOMIC_RELEASE);
    default:
      std::atomic_thread_fence(std::memory_order_seq_cst);
  }
}

}  // namespace

void run_work(Context& context, const Work& work) {
  if (auto* callback = std::get_if<CallbackWork>(&work))
    return callback->function(callback->stream, context.fault, callback->user_data);
  // Memory that a stream-ordered free gave up is gone even after a fault.
  if (auto* free = std::get_if<FreeWork>(&work)) return run_free(free->address);
  if (context.fault != CUDA_SUCCESS) return;
  if (auto* kernel = std::get_if<KernelWork>(&work)) return run_kernel(context, *kernel);
  if (auto* copy = std::get_if<CopyWork>(&work)) return run_copy(context, *copy);
  if (auto* set = std::get_if<MemsetWork>(&work)) return run_memset(set->params);
  if (auto* host = std::get_if<HostWork>(&work)) return host->function(host->user_data);
  if (auto* memory = std::get_if<MemoryOpWork>(&work))
    for (const auto& operation : memory->operations) run_memory_operation(context, operation);
}

}  // namespace bf::softgpu
