// The client's side of proto/api/call_channel.h for tests: a call goes straight into the worker's dispatch.
#include "tests/unit/api/exercise.h"

namespace bf::apitest {
namespace {

// What the fakes see of the call that is going on.
struct Driver {
  bool hostile = false;  // a damaged body: nothing is expected of the arguments
  int calls = 0;
  bool twin = false;
  std::string received;
  uint64_t seed = 0;
  CUresult result = CUDA_SUCCESS;
};
Driver g_driver;
Exercise* g_exercise = nullptr;

}  // namespace

CUresult driver_was_called(const Record& record, const std::function<void(Generator&)>& fill) {
  Generator generator(g_driver.seed);
  if (g_driver.hostile) {
    fill(generator);
    return CUDA_SUCCESS;
  }
  g_driver.calls++;
  g_driver.received = record.bytes;
  if (g_driver.result == CUDA_SUCCESS) fill(generator);
  return g_driver.result;
}

HostileDriver::HostileDriver() { g_driver.hostile = true; }
HostileDriver::~HostileDriver() { g_driver.hostile = false; }

void note_twin() { g_driver.twin = true; }

uint64_t make_test_handle(HandleKind kind) {
  Exercise& x = *g_exercise;
  x.handles_made_.push_back(Handle{kind, HandleMaker::kClient, 1, uint32_t(x.handles_made_.size() + 1)}.pack());
  return x.handles_made_.back();
}

Exercise::Exercise(const DriverApi& driver, uint64_t seed, Oracle oracle)
    : driver_(driver), random_(seed), oracle_(std::move(oracle)) {
  g_exercise = this;
  g_driver = {};
  answer_seed_ = random_();
}

Exercise::~Exercise() { g_exercise = nullptr; }

client::Payload Exercise::payload() {
  payload_bytes_ = text() + text();
  const size_t half = payload_bytes_.size() / 2;
  parts_[0] = {payload_bytes_.data(), half};
  parts_[1] = {payload_bytes_.data() + half, payload_bytes_.size() - half};
  return client::Payload(parts_, 2);
}

void Exercise::expect(const std::function<void(Record&)>& record) {
  FakeCall translator(driver_);
  Record r(&translator);
  record(r);
  expected_ = r.bytes;
}

std::byte* Exercise::begin(size_t body_bound) {
  bound_ = body_bound;
  buffer_ = std::make_unique<std::byte[]>(body_bound ? body_bound : 1);  // exactly: a sanitizer sees a wrong bound
  return buffer_.get();
}

void Exercise::attack(uint16_t opcode, uint16_t flags, std::string_view body, std::string_view payload) {
  const server::Dispatch* entry = server::lookup(opcode);
  HostileDriver hostile;
  auto run = [&](std::string_view damaged) {
    auto exact = std::make_unique<std::byte[]>(damaged.size());
    std::memcpy(exact.get(), damaged.data(), damaged.size());
    auto call = std::make_unique<FakeCall>(driver_);
    call->opcode = opcode;
    call->flags = flags;
    call->body = {exact.get(), damaged.size()};
    call->payload = {reinterpret_cast<const std::byte*>(payload.data()), payload.size()};
    entry->run(*call);
  };
  for (size_t n = 0; n < body.size(); n++) run(body.substr(0, n));
  for (size_t i = 0; i < 24 && !body.empty(); i++) {
    std::string damaged(body);
    damaged[random_() % damaged.size()] ^= char(1 << random_() % 8);
    run(damaged);
  }
}

CUresult Exercise::finish(uint16_t opcode, uint16_t flags, size_t body_bytes, const client::Payload& payload,
                          client::Reply* reply) {
  EXPECT_LE(body_bytes, bound_) << name << ": the bound of the body is too low";
  std::string body(reinterpret_cast<const char*>(buffer_.get()), body_bytes), sent;
  for (size_t i = 0; i < payload.count; i++)
    sent.append(static_cast<const char*>(payload.parts[i].iov_base), payload.parts[i].iov_len);
  EXPECT_EQ(sent.size(), payload.bytes);
  const server::Dispatch* entry = server::lookup(opcode);
  EXPECT_TRUE(entry && entry->name == std::string(name)) << name;
  EXPECT_EQ(entry->post, reply == nullptr) << name;
  EXPECT_EQ(bool(flags & kPost), reply == nullptr) << name;
  if (!cut_reply) attack(opcode, flags, body, sent);
  if (oracle_) body = oracle_(opcode, false, body);

  call_ = std::make_unique<FakeCall>(driver_);
  call_->opcode = opcode;
  call_->flags = flags;
  call_->body = {reinterpret_cast<const std::byte*>(body.data()), body.size()};
  call_->payload = {reinterpret_cast<const std::byte*>(sent.data()), sent.size()};
  g_driver.seed = answer_seed_;
  g_driver.result = driver_result;
  EXPECT_EQ(entry->run(*call_), server::Outcome::kDone) << name << ": " << (call_->violation ? call_->violation : "");
  EXPECT_EQ(g_driver.calls, 1) << name << ": the driver was not called";
  EXPECT_EQ(g_driver.received, expected_) << name << ": the driver was called with other arguments";
  EXPECT_EQ(call_->result, driver_result) << name;
  if (expect_twin) {
    EXPECT_EQ(g_driver.twin, client::per_thread()) << name;
  }
  if (!reply) return CUDA_SUCCESS;

  std::byte head[wire::kReplyHeadBound];
  std::byte* end = wire::put_reply_head(head, {uint32_t(call_->result), 77});
  reply_bytes_.assign(reinterpret_cast<const char*>(head), size_t(end - head));
  reply_bytes_.append(reinterpret_cast<const char*>(call_->outs.data()), call_->outs.size());
  if (oracle_) reply_bytes_ = oracle_(opcode, true, reply_bytes_);
  wire::ReplyHead got;
  EXPECT_TRUE(wire::read_reply_head({reinterpret_cast<const std::byte*>(reply_bytes_.data()), reply_bytes_.size()}, got,
                                    reply->outs))
      << name;
  EXPECT_EQ(got.watermark, 77u);
  reply->result = CUresult(got.result);
  if (cut_reply && !reply->outs.empty()) {
    reply->outs = reply->outs.first(random_() % reply->outs.size());
    cut_ = true;
  }
  return CUDA_SUCCESS;
}

bool Exercise::check_call(CUresult result) {
  if (cut_) return false;  // success or malformed, both are fine
  const bool post = !call_ || server::lookup(call_->opcode)->post;
  EXPECT_EQ(result, post ? CUDA_SUCCESS : driver_result) << name;
  return result == CUDA_SUCCESS && driver_result == CUDA_SUCCESS;
}

void Exercise::replay(const std::function<void(Generator&)>& fill) {
  Generator generator(answer_seed_);
  fill(generator);
}

void Exercise::check_new(HandleKind kind, uint64_t value, uint64_t real) {
  check_made(kind, value);
  if (!call_->made.empty()) {
    EXPECT_EQ(call_->made[0].real, real) << name;
  }
}

void Exercise::check_made(HandleKind kind, uint64_t value) {
  ASSERT_EQ(call_->made.size(), 1u) << name;
  EXPECT_TRUE(call_->made[0].kind == kind && call_->made[0].value == value) << name;
  EXPECT_EQ(value, handles_made_.at(0)) << name;
}

}  // namespace bf::apitest

namespace bf::client {

constinit std::atomic<uint32_t> g_gate{0};
CUresult enter_slow() noexcept { return CUDA_SUCCESS; }
CUresult denied(const char*, std::atomic<uint32_t>&) noexcept { return CUDA_ERROR_NOT_SUPPORTED; }

CUresult begin(size_t body_bound, std::byte*& body) noexcept {
  body = apitest::g_exercise->begin(body_bound);
  return CUDA_SUCCESS;
}
CUresult finish_post(uint16_t opcode, uint16_t flags, size_t body_bytes, const Payload& payload) noexcept {
  return apitest::g_exercise->finish(opcode, flags, body_bytes, payload, nullptr);
}
CUresult finish_call(uint16_t opcode, uint16_t flags, size_t body_bytes, const Payload& payload,
                     Reply& reply) noexcept {
  return apitest::g_exercise->finish(opcode, flags, body_bytes, payload, &reply);
}
CUresult malformed_reply(const char*) noexcept { return CUDA_ERROR_DEVICE_UNAVAILABLE; }
uint64_t make_handle(HandleKind kind) noexcept { return apitest::make_test_handle(kind); }
void drop_handle(uint64_t) noexcept {}

}  // namespace bf::client
