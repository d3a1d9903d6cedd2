#include "server/worker/handles.h"

namespace bf::server {
namespace {

constexpr uint32_t kChunksPerMaker = (1u << limits::kHandleIndexBits) / HandleTables::kChunkSlots;

constexpr uint64_t live(uint16_t generation) { return uint64_t{generation} << 1 | 1; }

}  // namespace

HandleTables::HandleTables() : kinds_(new Kind[size_t(HandleKind::kCount)]) {
  for (size_t k = 0; k < size_t(HandleKind::kCount); ++k)
    for (auto& chunks : kinds_[k].chunks) chunks.reset(new std::atomic<Slot*>[kChunksPerMaker] {});
}

HandleTables::~HandleTables() {
  for (size_t k = 0; k < size_t(HandleKind::kCount); ++k)
    for (auto& chunks : kinds_[k].chunks)
      for (uint32_t i = 0; i < kChunksPerMaker; ++i) delete[] chunks[i].load(std::memory_order_relaxed);
}

bool HandleTables::well_formed(HandleKind kind, uint64_t value, Handle& handle) {
  handle = Handle::unpack(value);
  return Handle::plausible(value) && handle.kind == kind;
}

HandleTables::Slot* HandleTables::slot_of(const Handle& handle) const {
  Slot* chunk = kinds_[size_t(handle.kind)].chunks[size_t(handle.maker)][handle.index / kChunkSlots].load(
      std::memory_order_acquire);
  return chunk ? &chunk[handle.index % kChunkSlots] : nullptr;
}

HandleTables::Slot* HandleTables::make_slot(Kind& kind, const Handle& handle) {
  auto& entry = kind.chunks[size_t(handle.maker)][handle.index / kChunkSlots];
  Slot* chunk = entry.load(std::memory_order_relaxed);
  if (!chunk) {
    if (chunks_made_.fetch_add(1, std::memory_order_relaxed) >= kMaxChunks) {
      chunks_made_.fetch_sub(1, std::memory_order_relaxed);
      return nullptr;
    }
    chunk = new Slot[kChunkSlots];
    entry.store(chunk, std::memory_order_release);
  }
  return &chunk[handle.index % kChunkSlots];
}

bool HandleTables::resolve(HandleKind kind, uint64_t value, uint64_t& real) const {
  Handle handle;
  if (!well_formed(kind, value, handle)) return false;
  const Slot* slot = slot_of(handle);
  if (!slot || slot->state.load(std::memory_order_acquire) != live(handle.generation)) return false;
  real = slot->real.load(std::memory_order_relaxed);
  return true;
}

bool HandleTables::insert(HandleKind kind, uint64_t value, uint64_t real) {
  Handle handle;
  if (!well_formed(kind, value, handle) || handle.maker != HandleMaker::kClient) return false;
  Kind& table = kinds_[size_t(kind)];
  std::lock_guard guard(table.mutex);
  Slot* slot = make_slot(table, handle);
  if (!slot) return false;
  const uint64_t state = slot->state.load(std::memory_order_relaxed);
  if (state == live(handle.generation)) return slot->real.load(std::memory_order_relaxed) == real;
  if (state & 1) {
    const auto known = table.value_by_real.find(slot->real.load(std::memory_order_relaxed));
    if (known != table.value_by_real.end()) {
      const Handle old = Handle::unpack(known->second);
      if (old.maker == HandleMaker::kClient && old.index == handle.index) table.value_by_real.erase(known);
    }
  }
  // A node dies with its graph and the driver may use its address again: the older value means nothing any more.
  // (Functions and modules differ: one real object may honestly have several values.)
  if (kind == HandleKind::kGraphNode) {
    if (const auto known = table.value_by_real.find(real); known != table.value_by_real.end())
      erase_locked(table, known->second);
  }
  slot->real.store(real, std::memory_order_relaxed);
  slot->state.store(live(handle.generation), std::memory_order_release);
  table.value_by_real[real] = value;
  return true;
}

void HandleTables::erase_locked(Kind& table, uint64_t value) {
  const Handle handle = Handle::unpack(value);
  Slot* slot = slot_of(handle);
  if (!slot || slot->state.load(std::memory_order_relaxed) != live(handle.generation)) return;
  const auto known = table.value_by_real.find(slot->real.load(std::memory_order_relaxed));
  if (known != table.value_by_real.end() && known->second == value) table.value_by_real.erase(known);
  slot->state.store(uint64_t{uint16_t(handle.generation + 1)} << 1, std::memory_order_release);
  if (handle.maker == HandleMaker::kWorker) table.free_indices.push_back(handle.index);
}

void HandleTables::erase(HandleKind kind, uint64_t value) {
  Handle handle;
  if (!well_formed(kind, value, handle)) return;
  Kind& table = kinds_[size_t(kind)];
  std::lock_guard guard(table.mutex);
  erase_locked(table, value);
}

void HandleTables::erase_real(HandleKind kind, uint64_t real) {
  Kind& table = kinds_[size_t(kind)];
  std::lock_guard guard(table.mutex);
  if (const auto known = table.value_by_real.find(real); known != table.value_by_real.end())
    erase_locked(table, known->second);
}

uint64_t HandleTables::find_value(HandleKind kind, uint64_t real) const {
  const Kind& table = kinds_[size_t(kind)];
  std::lock_guard guard(table.mutex);
  const auto known = table.value_by_real.find(real);
  return known == table.value_by_real.end() ? 0 : known->second;
}

uint64_t HandleTables::value_of(HandleKind kind, uint64_t real) {
  if (real == 0 || kind == HandleKind::kNone || kind >= HandleKind::kCount) return 0;
  Kind& table = kinds_[size_t(kind)];
  std::lock_guard guard(table.mutex);
  if (const auto known = table.value_by_real.find(real); known != table.value_by_real.end()) return known->second;
  Handle handle{kind, HandleMaker::kWorker, 0, 0};
  if (!table.free_indices.empty()) {
    handle.index = table.free_indices.back();
    table.free_indices.pop_back();
  } else if (table.next_index >> limits::kHandleIndexBits) {
    return 0;
  } else {
    handle.index = table.next_index++;
  }
  Slot* slot = make_slot(table, handle);
  if (!slot) return 0;
  handle.generation = uint16_t(slot->state.load(std::memory_order_relaxed) >> 1);
  slot->real.store(real, std::memory_order_relaxed);
  slot->state.store(live(handle.generation), std::memory_order_release);
  return table.value_by_real[real] = handle.pack();
}

}  // namespace bf::server
