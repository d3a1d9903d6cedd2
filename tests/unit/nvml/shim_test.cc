// The shim as a program meets it: loaded with dlopen, in an environment as bfrun makes it, talking to a daemon that is
// played here. One process per test, because the shim's state is the process's.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <thread>

#include "nvml/nvml_api.h"
#include "proto/control_channel.h"
#include "proto/secrets.h"
#include "proto/nvml/answers.h"
#include "transport/transport.h"

namespace bf::nvml {
namespace {

using namespace std::chrono_literals;
using control::deadline_in;

std::string bytes_of(std::initializer_list<uint32_t> words) {
  std::string bytes;
  for (uint32_t word : words) bytes.append(reinterpret_cast<const char*>(&word), 4);
  return bytes;
}

// Answers kReading as bfserver does, from what the test puts into it.
class FakeDaemon {
 public:
  FakeDaemon() {
    transport::Address any;
    any.host = "127.0.0.1";
    auto listener = transport::listen(any, 16);
    listener_ = std::move(*listener);
    sockaddr_storage address{};
    socklen_t bytes = sizeof address;
    getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &bytes);
    port_ = ntohs(reinterpret_cast<sockaddr_in*>(&address)->sin_port);
    thread_ = std::thread([this] { accept_all(); });
  }
  ~FakeDaemon() { stop(); }

  void stop() {
    stopped_ = true;
    shutdown(listener_.get(), SHUT_RDWR);
    hang_up();
    if (thread_.joinable()) thread_.join();
    for (auto& thread : serving_) thread.join();
    serving_.clear();
    listener_.reset();
  }

  void hang_up() {
    std::lock_guard lock(mutex_);
    for (int socket : sockets_) shutdown(socket, SHUT_RDWR);
    sockets_.clear();
  }

  void set_environment(const char* lease = "lease") const {
    setenv("BF_SERVER", ("127.0.0.1:" + std::to_string(port_)).c_str(), 1);
    setenv("BF_LEASE", lease, 1);
    setenv("BF_LEASE_SECRET", "00ff", 1);
    setenv("BF_TRANSPORT", "tcp", 1);
  }

  void add_device(const std::string& uuid, const std::string& bus, uint64_t memory) {
    control::ReadingReply reply;
    reply.gpu_index = uint32_t(devices.size()) + 4;
    reply.uuid = uuid;
    reply.name = "A GPU";
    reply.pci_bus_id = bus;
    reply.memory_bytes = memory;
    reply.facts_version = reply.sample_version = 1;
    reply.sample_unix_us = 1'700'000'000'000'000;
    devices.push_back(reply);
    facts.emplace_back();
  }

  std::vector<control::ReadingReply> devices;
  std::vector<control::NvmlAnswers> facts;
  control::NvmlAnswers system;
  std::string raw_reply;  // sent instead, if not empty
  std::atomic<int> asked{0}, sampled{0}, connections{0};
  std::mutex data;  // of the above, once the shim is at work

 private:
  void accept_all() {
    while (!stopped_) {
      pollfd entry{listener_.get(), POLLIN, 0};
      poll(&entry, 1, -1);  // the listener does not block
      Fd socket(accept(listener_.get(), nullptr, nullptr));
      if (!socket) continue;
      connections++;
      std::lock_guard lock(mutex_);
      sockets_.push_back(socket.get());
      serving_.emplace_back([this, socket = std::move(socket)] { serve(socket.get()); });
    }
  }

  void serve(int socket) {
    for (;;) {
      auto frame = control::receive_frame(socket, deadline_in(60s));
      if (!frame.ok()) return;
      auto request = control::decode_ReadingRequest(control::as_bytes(frame->body));
      std::lock_guard lock(data);
      asked++;
      sampled += request->sampled;
      std::string body = raw_reply;
      if (body.empty()) {
        control::ReadingReply reply = devices.at(request->device);
        reply.devices = uint32_t(devices.size());
        if (request->facts_seen != reply.facts_version) {
          reply.facts = control::encode_NvmlAnswers(facts[request->device]);
          reply.system = control::encode_NvmlAnswers(system);
        }
        if (request->proof != secrets::reading_proof(std::string("\x00\xff", 2))) reply.status = uint32_t(StatusCode::kDenied);
        body = control::encode_ReadingReply(reply);
      }
      if (!control::send_frame(socket, Opcode::kReading, kReply, body, {}, deadline_in(5s)).ok()) return;
    }
  }

  Fd listener_;
  uint16_t port_ = 0;
  std::atomic<bool> stopped_{false};
  std::mutex mutex_;
  std::vector<int> sockets_;
  std::vector<std::thread> serving_;
  std::thread thread_;
};

class Shim : public testing::Test {
 protected:
  void SetUp() override {
    library_ = dlopen(BF_NVML_SHIM, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library_, nullptr) << dlerror();
  }
  template <typename F>
  F* get(const char* name) {
    auto* function = reinterpret_cast<F*>(dlsym(library_, name));
    EXPECT_NE(function, nullptr) << name;
    return function;
  }
#define NVML(name) get<decltype(name)>(#name)

  void start(size_t devices = 1) {
    for (size_t i = 0; i < devices; i++)
      daemon_.add_device("GPU-" + std::to_string(i), "0000:1" + std::to_string(i) + ":00.0", 1 << 30);
    daemon_.facts[0].answers.push_back({1, 0, 0, 0, 0, 0, "something"});
    daemon_.system.answers.push_back({1, 0, 0, 0, 0, 0, "something"});
    daemon_.set_environment();
  }
  nvmlDevice_t initialised() {
    EXPECT_EQ(NVML(nvmlInit_v2)(), NVML_SUCCESS);
    nvmlDevice_t device = nullptr;
    EXPECT_EQ(NVML(nvmlDeviceGetHandleByIndex_v2)(0, &device), NVML_SUCCESS);
    return device;
  }
  void add(const char* function, Keys keys, int result, std::string value = {}) {
    daemon_.facts[0].answers.push_back(
        {name_id(function), keys[0], keys[1], keys[2], keys[3], uint32_t(result), value});
  }

  FakeDaemon daemon_;
  void* library_ = nullptr;
};

TEST_F(Shim, WithoutALeaseThereIsNoDriver) {
  unsetenv("BF_SERVER");
  unsetenv("BF_LEASE");
  unsigned count = 7;
  EXPECT_EQ(NVML(nvmlDeviceGetCount_v2)(&count), NVML_ERROR_UNINITIALIZED);
  EXPECT_EQ(NVML(nvmlInit_v2)(), NVML_ERROR_DRIVER_NOT_LOADED);
  EXPECT_EQ(NVML(nvmlDeviceGetCount_v2)(&count), NVML_ERROR_UNINITIALIZED);
  EXPECT_EQ(count, 7u);
  EXPECT_STREQ(NVML(nvmlErrorString)(NVML_ERROR_DRIVER_NOT_LOADED), "Driver Not Loaded");
}

TEST_F(Shim, InitialisationsAreCounted) {
  start();
  EXPECT_EQ(NVML(nvmlShutdown)(), NVML_ERROR_UNINITIALIZED);
  nvmlDevice_t device = initialised();
  EXPECT_EQ(NVML(nvmlInitWithFlags)(0), NVML_SUCCESS);
  EXPECT_EQ(NVML(nvmlShutdown)(), NVML_SUCCESS);
  unsigned index = 7;
  EXPECT_EQ(NVML(nvmlDeviceGetIndex)(device, &index), NVML_SUCCESS);
  EXPECT_EQ(NVML(nvmlShutdown)(), NVML_SUCCESS);
  EXPECT_EQ(NVML(nvmlDeviceGetIndex)(device, &index), NVML_ERROR_UNINITIALIZED);
  EXPECT_EQ(NVML(nvmlDeviceSetPersistenceMode)(device, 1), NVML_ERROR_UNINITIALIZED);
  EXPECT_EQ(NVML(nvmlShutdown)(), NVML_ERROR_UNINITIALIZED);
  initialised();
  EXPECT_EQ(NVML(nvmlDeviceSetPersistenceMode)(device, 1), NVML_ERROR_NO_PERMISSION);
}

TEST_F(Shim, DevicesAreThoseOfTheLease) {
  start(3);
  initialised();
  unsigned count = 0, index = 9;
  EXPECT_EQ(NVML(nvmlDeviceGetCount_v2)(&count), NVML_SUCCESS);
  EXPECT_EQ(count, 3u);
  nvmlDevice_t device = nullptr;
  EXPECT_EQ(NVML(nvmlDeviceGetHandleByIndex_v2)(3, &device), NVML_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(NVML(nvmlDeviceGetHandleByUUID)("GPU-2", &device), NVML_SUCCESS);
  EXPECT_EQ(NVML(nvmlDeviceGetIndex)(device, &index), NVML_SUCCESS);
  EXPECT_EQ(index, 2u);
  EXPECT_EQ(NVML(nvmlDeviceGetHandleByPciBusId_v2)("00000000:11:00.0", &device), NVML_SUCCESS);
  EXPECT_EQ(NVML(nvmlDeviceGetIndex)(device, &index), NVML_SUCCESS);
  EXPECT_EQ(index, 1u);
  EXPECT_EQ(NVML(nvmlDeviceGetHandleByUUID)("GPU-9", &device), NVML_ERROR_NOT_FOUND);
  EXPECT_EQ(NVML(nvmlDeviceGetIndex)(reinterpret_cast<nvmlDevice_t>(0x1234), &index), NVML_ERROR_INVALID_ARGUMENT);
}

TEST_F(Shim, AnswersAreRelayedAsTheyAre) {
  start();
  add("nvmlDeviceGetName", {}, 0, "NVIDIA H200");
  add("nvmlDeviceGetClockInfo", {NVML_CLOCK_SM}, 0, bytes_of({1980}));
  add("nvmlDeviceGetClockInfo", {4}, NVML_ERROR_NOT_SUPPORTED);
  add("nvmlDeviceGetUtilizationRates", {}, 0, bytes_of({17}));
  add("nvmlDeviceGetMigMode", {}, 0, "");
  add("nvmlDeviceGetFanSpeed", {}, NVML_ERROR_NOT_SUPPORTED);
  nvmlDevice_t device = initialised();
  char name[96];
  EXPECT_EQ(NVML(nvmlDeviceGetName)(device, name, sizeof name), NVML_SUCCESS);
  EXPECT_STREQ(name, "NVIDIA H200");
  EXPECT_EQ(NVML(nvmlDeviceGetName)(device, name, 11), NVML_ERROR_INSUFFICIENT_SIZE) << "no room for the end";
  EXPECT_EQ(NVML(nvmlDeviceGetName)(device, name, 12), NVML_SUCCESS);
  EXPECT_EQ(NVML(nvmlDeviceGetName)(device, nullptr, 96), NVML_ERROR_INVALID_ARGUMENT);
  unsigned clock = 0, other = 0;
  EXPECT_EQ(NVML(nvmlDeviceGetClockInfo)(device, NVML_CLOCK_SM, &clock), NVML_SUCCESS);
  EXPECT_EQ(clock, 1980u);
  EXPECT_EQ(NVML(nvmlDeviceGetClockInfo)(device, 4, &clock), NVML_ERROR_NOT_SUPPORTED);
  EXPECT_EQ(NVML(nvmlDeviceGetClockInfo)(device, 77, &clock), NVML_ERROR_INVALID_ARGUMENT) << "nobody asked that";
  EXPECT_EQ(clock, 1980u) << "outputs are written only after success";
  nvmlUtilization_t load{5, 5};
  EXPECT_EQ(NVML(nvmlDeviceGetUtilizationRates)(device, &load), NVML_SUCCESS);
  EXPECT_EQ(load.gpu, 17u);
  EXPECT_EQ(load.memory, 0u) << "zeros at the end do not travel";
  clock = other = 9;
  EXPECT_EQ(NVML(nvmlDeviceGetMigMode)(device, &clock, &other), NVML_SUCCESS);
  EXPECT_EQ(clock + other, 0u);
  EXPECT_EQ(NVML(nvmlDeviceGetFanSpeed)(device, &clock), NVML_ERROR_NOT_SUPPORTED);
  EXPECT_EQ(NVML(nvmlDeviceGetFanSpeed)(nullptr, &clock), NVML_ERROR_INVALID_ARGUMENT);
}

TEST_F(Shim, StructsAreOfTheVersionThatWasAsked) {
  start();
  add("nvmlDeviceGetTemperatureV", {nvmlTemperature_v1, NVML_TEMPERATURE_GPU}, 0,
      bytes_of({nvmlTemperature_v1, 0, 33}));
  add("nvmlDeviceGetTemperatureV", {0, 0}, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
  nvmlDevice_t device = initialised();
  nvmlTemperature_t temperature{nvmlTemperature_v1, NVML_TEMPERATURE_GPU, 0};
  EXPECT_EQ(NVML(nvmlDeviceGetTemperatureV)(device, &temperature), NVML_SUCCESS);
  EXPECT_EQ(temperature.temperature, 33);
  temperature.version = 12 | 7u << 24;
  EXPECT_EQ(NVML(nvmlDeviceGetTemperatureV)(device, &temperature), NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
}

TEST_F(Shim, ArraysSayHowLongTheyAre) {
  start();
  add("nvmlDeviceGetSupportedMemoryClocks", {}, 0, bytes_of({2, 3201, 2201}));
  nvmlDevice_t device = initialised();
  unsigned count = 0, clocks[4] = {1, 1, 1, 1};
  EXPECT_EQ(NVML(nvmlDeviceGetSupportedMemoryClocks)(device, &count, nullptr), NVML_ERROR_INSUFFICIENT_SIZE);
  EXPECT_EQ(count, 2u);
  count = 1;
  EXPECT_EQ(NVML(nvmlDeviceGetSupportedMemoryClocks)(device, &count, clocks), NVML_ERROR_INSUFFICIENT_SIZE);
  EXPECT_EQ(clocks[0], 1u);
  count = 4;
  EXPECT_EQ(NVML(nvmlDeviceGetSupportedMemoryClocks)(device, &count, clocks), NVML_SUCCESS);
  EXPECT_EQ(count, 2u);
  EXPECT_EQ(clocks[0], 3201u);
  EXPECT_EQ(clocks[1], 2201u);
  EXPECT_EQ(clocks[2], 1u);
}

TEST_F(Shim, PairsOfDevicesAreNamedAsOnTheServer) {
  start(2);
  add("nvmlDeviceGetP2PStatus", {5, NVML_P2P_CAPS_INDEX_READ}, 0, bytes_of({NVML_P2P_STATUS_GPU_NOT_SUPPORTED}));
  add("nvmlDeviceGetP2PStatus", {0, NVML_P2P_CAPS_INDEX_READ}, 0, bytes_of({77}));
  initialised();
  nvmlDevice_t first, second;
  NVML(nvmlDeviceGetHandleByIndex_v2)(0, &first);
  NVML(nvmlDeviceGetHandleByIndex_v2)(1, &second);
  nvmlGpuP2PStatus_t status = 99;
  EXPECT_EQ(NVML(nvmlDeviceGetP2PStatus)(first, second, NVML_P2P_CAPS_INDEX_READ, &status), NVML_SUCCESS);
  EXPECT_EQ(status, unsigned(NVML_P2P_STATUS_GPU_NOT_SUPPORTED)) << "the lease's second device is the server's fifth";
}

TEST_F(Shim, MemoryAndProcessesAreTheBooks) {
  start();
  daemon_.devices[0].used_bytes = 100 << 20;
  daemon_.devices[0].processes = {{4711, "python3", 100 << 20}};
  nvmlDevice_t device = initialised();
  nvmlMemory_t memory{};
  EXPECT_EQ(NVML(nvmlDeviceGetMemoryInfo)(device, &memory), NVML_SUCCESS);
  EXPECT_EQ(memory.total, 1u << 30);
  EXPECT_EQ(memory.used, 100u << 20);
  EXPECT_EQ(memory.free, memory.total - memory.used);
  nvmlMemory_v2_t second{};
  EXPECT_NE(NVML(nvmlDeviceGetMemoryInfo_v2)(device, &second), NVML_SUCCESS) << "without a version";
  second.version = nvmlMemory_v2;
  EXPECT_EQ(NVML(nvmlDeviceGetMemoryInfo_v2)(device, &second), NVML_SUCCESS);
  EXPECT_EQ(second.used, memory.used);
  EXPECT_EQ(second.reserved, 0u);
  unsigned count = 0;
  EXPECT_EQ(NVML(nvmlDeviceGetComputeRunningProcesses_v3)(device, &count, nullptr), NVML_ERROR_INSUFFICIENT_SIZE);
  EXPECT_EQ(count, 1u);
  nvmlProcessInfo_t process{};
  EXPECT_EQ(NVML(nvmlDeviceGetComputeRunningProcesses_v3)(device, &count, &process), NVML_SUCCESS);
  EXPECT_EQ(process.pid, 4711u);
  EXPECT_EQ(process.usedGpuMemory, 100u << 20);
  EXPECT_EQ(process.gpuInstanceId, 0xffffffffu);
  char name[64];
  EXPECT_EQ(NVML(nvmlSystemGetProcessName)(4711, name, sizeof name), NVML_SUCCESS);
  EXPECT_STREQ(name, "python3");
  EXPECT_EQ(NVML(nvmlSystemGetProcessName)(1, name, sizeof name), NVML_ERROR_NOT_FOUND);
  {
    std::lock_guard lock(daemon_.data);
    daemon_.devices[0].used_bytes = 300 << 20;
  }
  EXPECT_EQ(NVML(nvmlDeviceGetMemoryInfo)(device, &memory), NVML_SUCCESS);
  EXPECT_EQ(memory.used, 300u << 20) << "figures of memory are never old";
}

TEST_F(Shim, SamplesAreAskedForOnceASecond) {
  start();
  add("nvmlDeviceGetTemperature", {NVML_TEMPERATURE_GPU}, 0, bytes_of({40}));
  nvmlDevice_t device = initialised();
  unsigned celsius = 0;
  for (int i = 0; i < 1000; i++) ASSERT_EQ(NVML(nvmlDeviceGetTemperature)(device, 0, &celsius), NVML_SUCCESS);
  EXPECT_LE(daemon_.asked, 3);
  EXPECT_EQ(daemon_.connections, 1);
  std::this_thread::sleep_for(1100ms);
  EXPECT_EQ(NVML(nvmlDeviceGetTemperature)(device, 0, &celsius), NVML_SUCCESS);
  EXPECT_EQ(celsius, 40u);
  EXPECT_GE(daemon_.sampled, 2);
}

TEST_F(Shim, FieldValuesAreRelayedOneByOne) {
  start();
  FieldAnswer power{NVML_VALUE_TYPE_UNSIGNED_INT, 0, 122'000};
  add("nvmlDeviceGetFieldValues", {NVML_FI_DEV_POWER_INSTANT, 0}, 0,
      std::string(reinterpret_cast<const char*>(&power), sizeof power));
  add("nvmlDeviceGetFieldValues", {NVML_FI_DEV_NVLINK_LINK_COUNT, 0}, NVML_ERROR_NOT_SUPPORTED);
  nvmlDevice_t device = initialised();
  nvmlFieldValue_t fields[3] = {};
  fields[0].fieldId = NVML_FI_DEV_POWER_INSTANT;
  fields[1].fieldId = NVML_FI_DEV_NVLINK_LINK_COUNT;
  fields[2].fieldId = 9999;
  EXPECT_EQ(NVML(nvmlDeviceGetFieldValues)(device, 3, fields), NVML_SUCCESS);
  EXPECT_EQ(fields[0].nvmlReturn, NVML_SUCCESS);
  EXPECT_EQ(fields[0].value.uiVal, 122'000u);
  EXPECT_EQ(fields[0].valueType, unsigned(NVML_VALUE_TYPE_UNSIGNED_INT));
  EXPECT_EQ(fields[1].nvmlReturn, NVML_ERROR_NOT_SUPPORTED);
  EXPECT_EQ(fields[2].nvmlReturn, NVML_ERROR_INVALID_ARGUMENT);
}

TEST_F(Shim, ALostServerIsALostGpu) {
  start();
  add("nvmlDeviceGetName", {}, 0, "NVIDIA H200");
  nvmlDevice_t device = initialised();
  daemon_.stop();
  nvmlMemory_t memory{};
  auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 100; i++) EXPECT_EQ(NVML(nvmlDeviceGetMemoryInfo)(device, &memory), NVML_ERROR_GPU_IS_LOST);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 2s);
  char name[96];
  EXPECT_EQ(NVML(nvmlDeviceGetName)(device, name, sizeof name), NVML_SUCCESS) << "what is known stays known";
  EXPECT_EQ(NVML(nvmlShutdown)(), NVML_SUCCESS);
}

TEST_F(Shim, AServerThatHangsUpOnTheSilentIsNotLost) {
  start();
  nvmlDevice_t device = initialised();
  daemon_.hang_up();
  nvmlMemory_t memory{};
  EXPECT_EQ(NVML(nvmlDeviceGetMemoryInfo)(device, &memory), NVML_SUCCESS);
  EXPECT_EQ(daemon_.connections, 2);
}

TEST_F(Shim, NonsenseFromTheServerIsAnError) {
  start();
  control::ReadingReply too_many, none, malformed;
  too_many.devices = 1000;
  none.memory_bytes = 1;
  malformed.devices = 1;
  malformed.facts = "\xff\xff";
  for (const std::string& reply : {std::string("\xff\xff\xff\xff"), control::encode_ReadingReply(too_many),
                                   control::encode_ReadingReply(none), control::encode_ReadingReply(malformed)}) {
    daemon_.raw_reply = reply;
    EXPECT_EQ(NVML(nvmlInit_v2)(), NVML_ERROR_DRIVER_NOT_LOADED);
  }
}

TEST_F(Shim, AForkedChildAsksForItself) {
  start();
  nvmlDevice_t device = initialised();
  nvmlMemory_t memory{};
  auto* memory_info = NVML(nvmlDeviceGetMemoryInfo);
  ASSERT_EQ(memory_info(device, &memory), NVML_SUCCESS);
  ASSERT_EQ(daemon_.connections, 1);
  pid_t child = fork();
  if (child == 0) _exit(memory_info(device, &memory) == NVML_SUCCESS && memory.total == 1u << 30 ? 0 : 1);
  int status = 1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(daemon_.connections, 2) << "it must not take its parent's answers";
  EXPECT_EQ(memory_info(device, &memory), NVML_SUCCESS);
  EXPECT_EQ(daemon_.connections, 2);
}

TEST_F(Shim, IsSafeFromManyThreads) {
  start(2);
  add("nvmlDeviceGetTemperature", {NVML_TEMPERATURE_GPU}, 0, bytes_of({40}));
  nvmlDevice_t device = initialised();
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  auto* temperature = NVML(nvmlDeviceGetTemperature);
  auto* memory_info = NVML(nvmlDeviceGetMemoryInfo);
  for (int t = 0; t < 8; t++)
    threads.emplace_back([&] {
      for (int i = 0; i < 200; i++) {
        unsigned celsius = 0;
        nvmlMemory_t memory{};
        wrong += temperature(device, 0, &celsius) != NVML_SUCCESS || celsius != 40;
        wrong += memory_info(device, &memory) != NVML_SUCCESS || memory.total != 1u << 30;
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(Shim, EventsNeverCome) {
  start();
  add("nvmlDeviceGetSupportedEventTypes", {}, 0, bytes_of({0xff9f}));
  nvmlDevice_t device = initialised();
  nvmlEventSet_t set = nullptr;
  ASSERT_EQ(NVML(nvmlEventSetCreate)(&set), NVML_SUCCESS);
  EXPECT_EQ(NVML(nvmlDeviceRegisterEvents)(device, 1, set), NVML_SUCCESS);
  EXPECT_EQ(NVML(nvmlDeviceRegisterEvents)(device, 1ull << 40, set), NVML_ERROR_NOT_SUPPORTED);
  nvmlEventData_t data{};
  auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(NVML(nvmlEventSetWait_v2)(set, &data, 100), NVML_ERROR_TIMEOUT);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 100ms);
  EXPECT_EQ(NVML(nvmlEventSetFree)(set), NVML_SUCCESS);
  EXPECT_EQ(NVML(nvmlEventSetFree)(set), NVML_ERROR_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace bf::nvml
