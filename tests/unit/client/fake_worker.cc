#include "fake_worker.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <sstream>

#include "client/attach.h"
#include "proto/api/cuda_api.h"
#include "proto/api/wire.h"

namespace bf::client {

uint16_t opcode_of(const std::string& call) {
  std::ifstream lock(BF_OPCODES);
  std::string line, word, name;
  int opcode = 0;
  while (std::getline(lock, line)) {
    std::istringstream words(line);
    if (words >> word >> name >> opcode && word == "call" && name == call) return uint16_t(opcode);
  }
  ADD_FAILURE() << "no such call: " << call;
  return 0;
}

namespace {
void put(std::string& body, uint64_t varint) {
  std::byte bytes[wire::kMaxVarint];
  body.append(reinterpret_cast<char*>(bytes), size_t(wire::put_varint(bytes, varint) - bytes));
}
}  // namespace

Answer::Answer(uint32_t result, uint64_t watermark) {
  if (result) number(1, result);
  if (watermark) number(2, watermark);
}
Answer& Answer::number(uint32_t field, uint64_t value) {
  put(body_, wire::tag(field, wire::kVarint));
  put(body_, value);
  return *this;
}
Answer& Answer::fixed64(uint32_t field, uint64_t value) {
  put(body_, wire::tag(field, wire::kFixed64));
  body_.append(reinterpret_cast<char*>(&value), 8);
  return *this;
}
Answer& Answer::bytes(uint32_t field, const std::string& value) {
  put(body_, wire::tag(field, wire::kLength));
  put(body_, value.size());
  body_ += value;
  return *this;
}

SessionSnapshot FakeWorker::snapshot() {
  SessionSnapshot snapshot;
  snapshot.driver_version = 13000;
  DeviceSnapshot device;
  device.name = "A GPU for tests";
  device.total_bytes = 2048ull << 20;
  device.compute_major = 9;
  device.context_api_version = 3020;
  device.greatest_priority = -5;
  auto set = [&](CUdevice_attribute attribute, int value) { device.attributes.emplace_back(attribute, value); };
  set(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024);
  set(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024);
  set(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024);
  set(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64);
  set(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 2147483647);
  set(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535);
  set(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535);
  set(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 4);
  set(CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32);
  set(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536);
  snapshot.devices.push_back(device);
  return snapshot;
}

FakeWorker::FakeWorker() {
  auto pair = std::make_shared<transport::LoopbackPair>(transport::make_loopback());
  link_ = std::move(pair->worker);
  set_link_factory([pair](bool*) -> Result<Attached> {
    Attached attached;
    attached.link = std::move(pair->client);
    return attached;
  });
  on("bfSessionStart", [](const Seen&) { return Answer().bytes(3, encode(snapshot())); });
  link_->bulk().start(*this);
  thread_ = std::thread([this] { run(); });
  side_thread_ = std::thread([this] { run_side(); });
}

FakeWorker::~FakeWorker() {
  link_->shut();
  thread_.join();
  side_thread_.join();
  link_->bulk().stop();
}

void FakeWorker::on(const std::string& call, Handler handler) {
  uint16_t opcode = opcode_of(call);
  std::lock_guard guard(mutex_);
  handlers_[opcode] = std::move(handler);
}

int FakeWorker::count(const std::string& call) {
  uint16_t opcode = opcode_of(call);
  std::lock_guard guard(mutex_);
  return int(std::count_if(seen_.begin(), seen_.end(), [&](const Seen& frame) { return frame.header.opcode == opcode; }));
}

std::vector<FakeWorker::Seen> FakeWorker::seen() {
  std::lock_guard guard(mutex_);
  return seen_;
}

void FakeWorker::send(const FrameHeader& header, const std::string& body, const std::string& payload) {
  std::lock_guard guard(send_mutex_);
  FrameHeader h = header;
  h.body_bytes = uint32_t(body.size());
  h.payload_bytes = uint32_t(payload.size());
  iovec parts[] = {{&h, sizeof h}, {const_cast<char*>(body.data()), body.size()}, {const_cast<char*>(payload.data()), payload.size()}};
  (void)!link_->calls().send(parts).ok();
}

void FakeWorker::notice(Opcode opcode, const std::string& body, const std::string& payload) {
  send(FrameHeader{0, 0, uint16_t(opcode), 0, 0}, body, payload);
}

void FakeWorker::side(const std::string& body) {
  FrameHeader header{uint32_t(body.size()), 0, uint16_t(Opcode::kCallback), 0, 0};
  iovec parts[] = {{&header, sizeof header}, {const_cast<char*>(body.data()), body.size()}};
  EXPECT_TRUE(link_->side().send(parts).ok());
}

bool FakeWorker::wait_callbacks_done(size_t count) {
  for (int i = 0; i < 5000; ++i) {
    {
      std::lock_guard guard(mutex_);
      if (callbacks_done_ >= count) return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

bool FakeWorker::landed(const transport::Block& block, std::byte* data) noexcept {
  {
    std::lock_guard guard(mutex_);
    std::string& bytes = transfers_[block.transfer];
    bytes.resize(std::max<size_t>(bytes.size(), block.offset + block.bytes));
    std::memcpy(bytes.data() + block.offset, data, block.bytes);
  }
  link_->bulk().release(block);
  return true;
}

bool FakeWorker::wait_transfer(uint64_t id, const std::string& bytes) {
  for (int i = 0; i < 5000; ++i) {
    {
      std::lock_guard guard(mutex_);
      if (transfers_[id] == bytes) return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

void FakeWorker::run() {
  std::string buffer;
  std::vector<std::byte> chunk(64 << 10);
  for (;;) {
    auto received = link_->calls().receive(chunk);
    if (!received.ok() || *received == 0) return;
    buffer.append(reinterpret_cast<char*>(chunk.data()), *received);
    FrameHeader header;
    while (buffer.size() >= sizeof header) {
      std::memcpy(&header, buffer.data(), sizeof header);
      size_t whole = sizeof header + header.body_bytes + header.payload_bytes;
      if (buffer.size() < whole) break;
      Seen frame{header, buffer.substr(sizeof header, header.body_bytes),
                 buffer.substr(sizeof header + header.body_bytes, header.payload_bytes)};
      buffer.erase(0, whole);
      Handler handler;
      {
        std::lock_guard guard(mutex_);
        seen_.push_back(frame);
        auto found = handlers_.find(header.opcode);
        if (found != handlers_.end()) handler = found->second;
      }
      Answer answer = handler ? handler(frame) : Answer();
      if (header.flags & kPost) continue;
      send(FrameHeader{0, 0, header.opcode, kReply, header.lane}, answer.body(), "");
    }
  }
}

void FakeWorker::run_side() {
  std::vector<std::byte> chunk(4096);
  std::string buffer;
  for (;;) {
    auto received = link_->side().receive(chunk);
    if (!received.ok() || *received == 0) return;
    buffer.append(reinterpret_cast<char*>(chunk.data()), *received);
    FrameHeader header;
    while (buffer.size() >= sizeof header) {
      std::memcpy(&header, buffer.data(), sizeof header);
      if (buffer.size() < sizeof header + header.body_bytes) break;
      buffer.erase(0, sizeof header + header.body_bytes);
      std::lock_guard guard(mutex_);
      if (header.opcode == uint16_t(Opcode::kCallbackDone)) ++callbacks_done_;
    }
  }
}

}  // namespace bf::client
