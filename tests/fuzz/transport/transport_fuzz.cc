// Everything a transport believes or refuses about its peer's numbers: tcp's bulk headers, and the positions and slots
// in shared memory. The input is a list of steps; after each, what the accepted numbers would touch is touched, so that
// the address sanitizer sees a wrong bound.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "transport/shm_segment.h"
#include "transport/tcp_wire.h"

namespace bf::transport {
namespace {

class Input {
 public:
  Input(const uint8_t* data, size_t bytes) : data_(data), left_(bytes) {}
  bool empty() const { return left_ == 0; }
  template <typename T>
  T next() {
    T value{};
    size_t count = std::min(sizeof value, left_);
    memcpy(&value, data_, count);
    data_ += count;
    left_ -= count;
    return value;
  }

 private:
  const uint8_t* data_;
  size_t left_;
};

void require(bool condition) {
  if (!condition) abort();
}

// Sequences near the window are tried often, wild ones sometimes.
uint64_t sequence_near(Input& input, uint64_t base) {
  uint8_t how = input.next<uint8_t>();
  return how < 250 ? base + how % 80 - 8 : input.next<uint64_t>();
}

void fuzz_tcp(Input& input) {
  SendQueue queue(limits::kBulkBlocks);
  ReceiveWindow window(limits::kBulkBlocks);
  uint64_t taken = 0;
  std::vector<Block> held;
  while (!input.empty()) {
    uint8_t step = input.next<uint8_t>();
    if (step % 4 == 0 && !held.empty()) {  // the sink releases something
      size_t index = input.next<uint8_t>() % held.size();
      require(window.release(held[index]));
      held.erase(held.begin() + long(index));
      window.due_credit();
      continue;
    }
    if (step % 4 == 1 && taken < 40) {  // we send a block
      static std::byte byte;
      queue.push(1, &byte, 1, [](const Status&) {});
      queue.finish(*queue.take());
      taken++;
      continue;
    }
    TcpHeader header;
    if (step < 240) {
      header = step % 4 == 2 ? tcp_block_header({sequence_near(input, window.released()), 1, 0, 1})
                             : tcp_credit_header(sequence_near(input, taken));
      if (step % 16 == 2) header.bytes = input.next<uint32_t>();
    } else {
      header = input.next<TcpHeader>();
    }
    auto event = accept_tcp_header(header, queue, window);
    if (!event.ok()) break;  // the link is shut
    if (!event->is_block) {
      require(header.sequence <= taken);
      continue;
    }
    const Block& block = event->block;
    require(block.bytes >= 1 && block.bytes <= limits::kBulkBlockBytes);
    for (const Block& other : held)
      require(other.sequence % limits::kBulkBlocks != block.sequence % limits::kBulkBlocks);
    held.push_back(block);
    require(held.size() <= limits::kBulkBlocks);
  }
  queue.stop();
  while (queue.take()) {
  }
}

// Writes what the peer might into any word of a ring, and works on.
void fuzz_ring(Input& input) {
  constexpr size_t kBytes = 256;
  auto control = std::make_unique<shm::RingControl>();
  std::unique_ptr<std::byte[]> bytes(new std::byte[kBytes]());
  shm::RingWriter writer(*control, {bytes.get(), kBytes});
  shm::RingReader reader(*control, {bytes.get(), kBytes});
  std::vector<std::byte> own(kBytes);
  while (!input.empty()) {
    uint8_t step = input.next<uint8_t>();
    size_t wanted = input.next<uint8_t>();
    if (step < 100) {
      auto room = writer.room(wanted);
      if (!room) break;
      require(*room <= kBytes);
      writer.put(own.data(), std::min(wanted, *room));
      writer.publish();
    } else if (step < 200) {
      auto ready = reader.available();
      if (!ready) break;
      require(*ready <= kBytes);
      reader.take(own.data(), std::min(wanted, *ready));
    } else if (step < 220) {
      control->head = control->head + int8_t(wanted);
    } else if (step < 240) {
      control->tail = control->tail + int8_t(wanted);
    } else if (step < 248) {
      control->head = input.next<uint64_t>();
    } else {
      control->tail = input.next<uint64_t>();
    }
  }
}

void fuzz_slots(Input& input) {
  auto control = std::make_unique<shm::BulkControl>();
  ReceiveWindow window(limits::kBulkBlocks);
  std::vector<Block> held;
  uint64_t next = 0;
  while (!input.empty()) {
    uint8_t step = input.next<uint8_t>();
    if (step < 100) {
      shm::publish_slot(*control, {step < 90 ? next : sequence_near(input, next), 1, 0, 1});
    } else if (step < 120) {
      auto& slot = control->slots[step % limits::kBulkBlocks];
      slot.ready = sequence_near(input, next);
      slot.bytes = input.next<uint32_t>();
    } else if (step < 180 && !held.empty()) {
      size_t index = input.next<uint8_t>() % held.size();
      require(window.release(held[index]));
      held.erase(held.begin() + long(index));
    } else {
      Block block;
      shm::Arrival arrival = shm::read_slot(*control, next, block);
      if (arrival == shm::Arrival::kBroken) break;
      if (arrival == shm::Arrival::kNotYet) continue;
      require(block.sequence == next && block.bytes >= 1 && block.bytes <= limits::kBulkBlockBytes);
      if (!window.admit(block)) break;
      held.push_back(block);
      require(held.size() <= limits::kBulkBlocks);
      next++;
    }
  }
}

}  // namespace
}  // namespace bf::transport

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  if (bytes == 0) return 0;
  bf::transport::Input input(data + 1, bytes - 1);
  switch (data[0] % 3) {
    case 0:
      bf::transport::fuzz_tcp(input);
      break;
    case 1:
      bf::transport::fuzz_ring(input);
      break;
    default:
      bf::transport::fuzz_slots(input);
  }
  return 0;
}
