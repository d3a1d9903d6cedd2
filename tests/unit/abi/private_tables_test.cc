// The private tables as CUDA's libraries use them. Test vectors: ZLUDA's published sample of the integrity hash, RFC
// 1319.
#include "proto/abi/private_tables.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "proto/abi/context_storage.h"
#include "proto/abi/fatbin.h"
#include "proto/abi/integrity.h"

namespace bf::abi {
namespace {

// A driver with one device, a primary context and a second one.
struct FakeDriver {
  bool alive = true;
  CUcontext current = nullptr;
  ContextState primary = ContextState::kInactive;
  ContextState second = ContextState::kActive;
  const void* loaded = nullptr;
} g;

const CUcontext kPrimary = reinterpret_cast<CUcontext>(0x20000000001),
                kSecond = reinterpret_cast<CUcontext>(0x20000000002),
                kGreen = reinterpret_cast<CUcontext>(0x20000000003);

constexpr DriverHooks kHooks{
    .alive = []() noexcept { return g.alive; },
    .driver_version = []() noexcept { return 13000; },
    .current_context = []() noexcept { return g.current; },
    .context_state =
        [](CUcontext c) noexcept {
          return c == kPrimary  ? g.primary
                 : c == kSecond ? g.second
                 : c == kGreen  ? ContextState::kActive
                                : ContextState::kUnknown;
        },
    .primary_context =
        [](CUcontext* c, CUdevice d) noexcept {
          if (d != 0) return CUDA_ERROR_INVALID_DEVICE;
          *c = kPrimary;
          return CUDA_SUCCESS;
        },
    .context_id =
        [](CUcontext c, uint64_t* id) noexcept {
          *id = c == kPrimary ? 1 : 2;
          return CUDA_SUCCESS;
        },
    .stream_id =
        [](CUstream s, uint64_t* id) noexcept {
          if (uint64_t(s) > 2) return CUDA_ERROR_INVALID_HANDLE;
          *id = s == CU_STREAM_PER_THREAD ? 15 : 7;
          return CUDA_SUCCESS;
        },
    .underlying_context = [](CUcontext c) noexcept { return c == kGreen ? kPrimary : nullptr; },
    .device_count = []() noexcept { return 1; },
    .device_identity =
        [](int, CUuuid* uuid, PciAddress* pci) noexcept {
          std::memset(uuid->bytes, 0x5a, sizeof(uuid->bytes));
          *pci = {0, 4, 0};
          return true;
        },
    .load_module =
        [](CUmodule* m, const void* image) noexcept {
          g.loaded = image;
          *m = reinterpret_cast<CUmodule>(0x99);
          return CUDA_SUCCESS;
        },
    .function_count =
        [](unsigned int* n, CUmodule) noexcept {
          *n = 2;
          return CUDA_SUCCESS;
        },
    .enumerate_functions =
        [](CUfunction* f, unsigned int n, CUmodule) noexcept {
          for (unsigned int i = 0; i < n; i++) f[i] = reinterpret_cast<CUfunction>(uintptr_t(i + 1));
          return CUDA_SUCCESS;
        },
    .function_name =
        [](const char** name, CUfunction f) noexcept {
          *name = f == reinterpret_cast<CUfunction>(1) ? "first" : "second";
          return CUDA_SUCCESS;
        },
};

CUuuid uuid(const char* hex) {
  CUuuid id;
  for (int i = 0; i < 16; i++) id.bytes[i] = char(std::stoi(std::string(hex + 2 * i, 2), nullptr, 16));
  return id;
}

const uint64_t* table(const char* hex) {
  const CUuuid id = uuid(hex);
  const void* t = nullptr;
  EXPECT_EQ(export_table(&t, &id), CUDA_SUCCESS) << hex;
  const void* again = nullptr;
  export_table(&again, &id);
  EXPECT_EQ(t, again);
  return static_cast<const uint64_t*>(t);
}

template <typename F>
F* slot(const uint64_t* t, int number) {
  return reinterpret_cast<F*>(t[number]);
}

constexpr const char* kCudart = "6bd5fb6c5bf4e74a8987d93912fd9df9";
constexpr const char* kStorage = "c693336e1121df11a8c368f355d89593";
constexpr const char* kIntegrityId = "d4082055bde6704b8d34ba123c66e1f2";

class PrivateTables : public testing::Test {
 protected:
  void SetUp() override {
    g = {};
    set_driver_hooks(&kHooks);
  }
};

TEST_F(PrivateTables, SizesAndNullSlotsAreTheDrivers) {
  const struct {
    const char* id;
    size_t words;
    int null_slot;
  } all[] = {{kCudart, 13, 10},
             {"a094798c2e742e7493f20800200c0a66", 7, 0},
             {"42d85a8123f6cb478298f6e78a3aecdc", 3, 0},
             {"263e88607cd2614392f6bbd5006dfa7e", 15, 0},
             {kIntegrityId, 3, 0},
             {"f8cff95121468b4eb9e2fb469e7c0dd9", 3, 0},
             {"21318c60971432488ca641ff7324c8f2", 93, 91},
             {"6e163fbeb958444d835ce182aff1991e", 99, 93},
             {"1734dc26800d47458726c0f1e7dd8bca", 17, 0},
             {"dd9e98a4f410484499b0e2aeb7b432b5", 3, 0},
             {"0ca50b8c1004929a89a7d0df10e77286", 2, 0},
             {"b10541e1f7c7c74a9f64f223be99f1e2", 31, 30},
             {"7f9212d6261ddd4d8af638dd1aeb10ae", 58, 0},
             {"9af0707b8e2dd84c8e4eb994c82ddc35", 28, 0},
             {"35770f1b092e0348a48e056fc423968d", 10, 0},
             {"bfdb432dbf3c5a4a945eb34029e81e75", 60, 0},
             {"a6b1ff99ecc4c94f92f91928663d5585", 32, 0},
             {"f88cc93e53fd9e46ba591e2b873e0f91", 11, 0},
             {"69a28e9f24498b47b030c5da330ea4e9", 34, 0}};
  for (const auto& t : all) {
    const uint64_t* words = table(t.id);
    EXPECT_EQ(words[0], t.words * 8) << t.id;
    for (size_t i = 1; i < t.words; i++) EXPECT_EQ(words[i] == 0, int(i) == t.null_slot) << t.id << " slot " << i;
  }
  EXPECT_EQ(slot<CUresult()>(table("1734dc26800d47458726c0f1e7dd8bca"), 4)(), CUDA_ERROR_NOT_SUPPORTED);
  EXPECT_EQ(slot<CUresult()>(table("1734dc26800d47458726c0f1e7dd8bca"), 13)(), CUDA_ERROR_NOT_SUPPORTED);
  EXPECT_EQ(slot<CUresult()>(table("bfdb432dbf3c5a4a945eb34029e81e75"), 59)(), CUDA_ERROR_NOT_SUPPORTED);
}

TEST_F(PrivateTables, UnknownTablesAreRefused) {
  for (const char* hex :
       {"195bcbf4d67d024aacc51d29cea631ae", "da9151d33ae6cc41a5c04f26d533e328", "00000000000000000000000000000000"}) {
    const CUuuid id = uuid(hex);
    const void* t = &t;
    EXPECT_EQ(export_table(&t, &id), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(t, nullptr);
  }
  EXPECT_EQ(export_table(nullptr, nullptr), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(PrivateTables, CudartInterface) {
  const uint64_t* t = table(kCudart);
  CUcontext context = nullptr;
  EXPECT_EQ(slot<CUresult(CUcontext*, CUdevice)>(t, 2)(&context, 0), CUDA_SUCCESS);
  EXPECT_EQ(context, kPrimary);
  EXPECT_EQ(slot<CUresult(CUcontext*, CUdevice)>(t, 2)(&context, 5), CUDA_ERROR_INVALID_DEVICE);
  const FatbinHeader header;
  const FatbinWrapper wrapper{kFatbinWrapperMagic, 1, &header, nullptr};
  CUmodule module = nullptr;
  EXPECT_EQ(slot<CUresult(CUmodule*, const void*)>(t, 1)(&module, &wrapper), CUDA_SUCCESS);
  EXPECT_EQ(g.loaded, &header);
  EXPECT_EQ(slot<CUresult(CUmodule*, const void*)>(t, 1)(&module, &header), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(
      slot<CUresult(CUmodule*, const void*, void*, void*, uint32_t)>(t, 6)(&module, &wrapper, nullptr, nullptr, 0),
      CUDA_SUCCESS);
  EXPECT_EQ(slot<CUresult(const void*, CUmodule*, void*, void*, uint32_t)>(t, 8)(&header, &module, nullptr, nullptr, 0),
            CUDA_SUCCESS);
  EXPECT_EQ(slot<CUresult()>(t, 12)(), CUDA_SUCCESS);
}

TEST_F(PrivateTables, CallbackHooksReportZeroedFlags) {
  const uint64_t* t = table("a094798c2e742e7493f20800200c0a66");
  const uint32_t* flags = nullptr;
  size_t count = 0;
  slot<void(const void**, size_t*)>(t, 2)(reinterpret_cast<const void**>(&flags), &count);
  EXPECT_EQ(count, 1024u);
  for (size_t i = 0; i < 1024; i++) EXPECT_EQ(flags[i], 0u);
  slot<void(const void**, size_t*)>(t, 6)(reinterpret_cast<const void**>(&flags), &count);
  EXPECT_EQ(count, 14u);
  for (size_t i = 0; i < 14; i++) EXPECT_EQ(flags[i], 0u);
}

TEST_F(PrivateTables, CurrentContextAndChecks) {
  const auto current = slot<CUresult(CUcontext*)>(table("42d85a8123f6cb478298f6e78a3aecdc"), 2);
  CUcontext context = kSecond;
  EXPECT_EQ(current(&context), CUDA_SUCCESS);
  EXPECT_EQ(context, nullptr);
  const auto check = slot<CUresult(CUcontext, uint32_t*, CUcontext*)>(table("263e88607cd2614392f6bbd5006dfa7e"), 2);
  uint32_t wrapped[2] = {7, 7};
  context = kSecond;
  EXPECT_EQ(check(nullptr, wrapped, &context), CUDA_ERROR_INVALID_CONTEXT);
  EXPECT_TRUE(wrapped[0] == 7 && context == kSecond);
  g.current = kPrimary;
  EXPECT_EQ(current(&context), CUDA_SUCCESS);
  EXPECT_EQ(context, kPrimary);
  context = kSecond;
  EXPECT_EQ(check(nullptr, wrapped, &context), CUDA_SUCCESS);
  EXPECT_TRUE(wrapped[0] == 0 && wrapped[1] == 7 && context == kSecond);  // 32-bit store; the other output untouched
  EXPECT_EQ(check(kGreen, wrapped, &context), CUDA_SUCCESS);
  EXPECT_TRUE(wrapped[0] == 1 && context == kPrimary);
  EXPECT_EQ(check(kGreen, wrapped, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(slot<uint32_t()>(table("263e88607cd2614392f6bbd5006dfa7e"), 3)(), 0u);
}

TEST_F(PrivateTables, IdsOfContextsAndStreams) {
  const uint64_t* t = table("21318c60971432488ca641ff7324c8f2");
  const auto context_id = slot<CUresult(CUcontext, uint64_t*)>(t, 4);
  const auto object = slot<CUresult(CUcontext, CUstream, void**)>(t, 51);
  const auto object_id = slot<CUresult(CUcontext, void*, uint64_t*)>(t, 39);
  uint64_t id = 9;
  EXPECT_EQ(context_id(nullptr, &id), CUDA_SUCCESS);
  EXPECT_EQ(id, 0u);
  EXPECT_EQ(context_id(kSecond, &id), CUDA_SUCCESS);
  EXPECT_EQ(id, 2u);
  void* p = nullptr;
  for (auto [stream, want] :
       {std::pair<CUstream, uint64_t>(nullptr, 7), {CU_STREAM_LEGACY, 7}, {CU_STREAM_PER_THREAD, 15}}) {
    ASSERT_EQ(object(kPrimary, stream, &p), CUDA_SUCCESS);
    EXPECT_NE(p, nullptr);
    EXPECT_EQ(object_id(kPrimary, p, &id), CUDA_SUCCESS);
    EXPECT_EQ(id, want);
  }
  EXPECT_EQ(object(kPrimary, reinterpret_cast<CUstream>(0x1234), &p), CUDA_ERROR_INVALID_HANDLE);
}

TEST_F(PrivateTables, FunctionsOfAModule) {
  const auto each = slot<uint64_t(CUcontext, CUmodule, void (*)(void*, CUfunction, const char*), void*)>(
      table("6e163fbeb958444d835ce182aff1991e"), 7);
  std::vector<std::string> names;
  EXPECT_EQ(each(
                kPrimary, nullptr,
                [](void* user, CUfunction, const char* name) {
                  static_cast<std::vector<std::string>*>(user)->push_back(name);
                },
                &names),
            2u);
  EXPECT_EQ(names, (std::vector<std::string>{"first", "second"}));
}

TEST_F(PrivateTables, EverySlotSurvivesTheEndOfTheProcess) {
  g.alive = false;
  uint64_t id = 5;
  CUcontext context = nullptr;
  EXPECT_EQ(slot<CUresult(CUcontext*, CUdevice)>(table(kCudart), 2)(&context, 0), CUDA_ERROR_DEINITIALIZED);
  EXPECT_EQ(slot<CUresult(CUcontext, void*)>(table(kStorage), 1)(kPrimary, &id), CUDA_ERROR_DEINITIALIZED);
  EXPECT_EQ(slot<CUresult(CUcontext, uint64_t*)>(table("21318c60971432488ca641ff7324c8f2"), 4)(kPrimary, &id),
            CUDA_ERROR_DEINITIALIZED);
  EXPECT_EQ(slot<CUresult()>(table("1734dc26800d47458726c0f1e7dd8bca"), 4)(), CUDA_ERROR_DEINITIALIZED);
}

// --- Context-local storage
// ---------------------------------------------------------------------------------------------

struct Died {
  std::vector<int> order;
  bool readable = true;
} g_died;

void destructor(CUcontext context, void* key, void* value) {
  g_died.order.push_back(int(uintptr_t(value)));
  void* still = nullptr;
  g_died.readable &= storage_get(&still, context, key) == CUDA_SUCCESS && still == value;
}

TEST_F(PrivateTables, StorageFollowsTheContext) {
  const uint64_t* t = table(kStorage);
  const auto put = slot<CUresult(CUcontext, void*, void*, ContextDestructor)>(t, 0);
  const auto remove = slot<CUresult(CUcontext, void*)>(t, 1);
  const auto get = slot<CUresult(void**, CUcontext, void*)>(t, 2);
  EXPECT_EQ(t[3], 0u);
  int key[3];
  auto value = [](int n) { return reinterpret_cast<void*>(uintptr_t(n)); };
  void* got = nullptr;

  EXPECT_EQ(get(&got, nullptr, key), CUDA_ERROR_INVALID_CONTEXT);  // none is current
  EXPECT_EQ(put(nullptr, key, value(1), destructor), CUDA_ERROR_INVALID_CONTEXT);
  EXPECT_EQ(remove(nullptr, key), CUDA_ERROR_INVALID_CONTEXT);
  g.current = kPrimary;  // not retained: all three work
  EXPECT_EQ(get(&got, nullptr, key), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(put(nullptr, key, value(1), destructor), CUDA_SUCCESS);
  EXPECT_EQ(put(kPrimary, key, value(2), destructor), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(get(&got, reinterpret_cast<CUcontext>(-1), key), CUDA_SUCCESS);
  EXPECT_EQ(got, value(1));  // the old value stayed
  EXPECT_EQ(get(&got, kSecond, key), CUDA_ERROR_INVALID_HANDLE);
  g.primary = ContextState::kActive;
  EXPECT_EQ(put(nullptr, key + 1, value(2), destructor), CUDA_SUCCESS);
  EXPECT_EQ(put(nullptr, key + 2, value(3), destructor), CUDA_SUCCESS);
  EXPECT_EQ(remove(nullptr, key + 1), CUDA_SUCCESS);
  EXPECT_EQ(remove(nullptr, key + 1), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(get(&got, nullptr, key + 1), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(put(nullptr, key + 1, nullptr, nullptr), CUDA_SUCCESS);  // NULL value and destructor are legal
  EXPECT_EQ(put(kSecond, key, value(9), destructor), CUDA_SUCCESS);

  g_died = {};
  EXPECT_EQ(get(&got, nullptr, key), CUDA_SUCCESS);  // remembered, must not survive the reset
  g.primary = ContextState::kDead;
  storage_context_died(kPrimary);
  EXPECT_EQ(g_died.order, (std::vector<int>{3, 1}));  // last put first; the removed one not at all
  EXPECT_TRUE(g_died.readable);
  EXPECT_EQ(get(&got, nullptr, key), CUDA_ERROR_INVALID_CONTEXT);  // current, but dead
  EXPECT_EQ(get(&got, kPrimary, key), CUDA_ERROR_INVALID_HANDLE);  // named
  EXPECT_EQ(put(nullptr, key, value(1), destructor), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  EXPECT_EQ(remove(nullptr, key), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  g.primary = ContextState::kActive;  // retained again: the same handle, empty
  EXPECT_EQ(get(&got, nullptr, key), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(get(&got, kSecond, key), CUDA_SUCCESS);  // the other context kept its entry
  EXPECT_EQ(remove(kSecond, key), CUDA_SUCCESS);
}

TEST_F(PrivateTables, StorageFromManyThreads) {
  g.current = kPrimary;
  g.primary = ContextState::kActive;
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  static int keys[8];
  for (int i = 0; i < 8; i++) {
    threads.emplace_back([&, i] {
      void* key = &keys[i];
      for (int n = 1; n < 500; n++) {
        void* got = nullptr;
        wrong += storage_put(nullptr, key, reinterpret_cast<void*>(uintptr_t(n)), nullptr) != CUDA_SUCCESS;
        for (int k = 0; k < 4; k++)
          wrong += storage_get(&got, nullptr, key) != CUDA_SUCCESS || got != reinterpret_cast<void*>(uintptr_t(n));
        wrong += storage_remove(nullptr, key) != CUDA_SUCCESS;
        wrong += storage_get(&got, nullptr, key) != CUDA_ERROR_INVALID_HANDLE;
      }
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(wrong, 0);
}

// --- The integrity check
// -----------------------------------------------------------------------------------------------

std::string hex(const Digest& d) {
  std::string out;
  char byte[3];
  for (uint8_t b : d) out += (snprintf(byte, sizeof(byte), "%02x", b), byte);
  return out;
}

TEST_F(PrivateTables, Md2IsRfc1319s) {
  const std::string abc = "abc";
  EXPECT_EQ(hex(md2({reinterpret_cast<const uint8_t*>(abc.data()), 3})), "da853b0d3f88d99b30283a69e6ded6bb");
  EXPECT_EQ(hex(md2({})), "8350e5a3e24c153df2275c9f80692773");
}

TEST_F(PrivateTables, IntegrityHashMatchesThePublishedSample) {
  IntegrityDevice device;
  const uint8_t id[16] = {0x67, 0x22, 0xCB, 0xCF, 0xC6, 0x61, 0xF2, 0x92,
                          0x74, 0xD6, 0xED, 0x23, 0x2A, 0x32, 0x13, 0x1C};
  std::memcpy(device.uuid.bytes, id, 16);
  device.pci = {0, 4, 0};
  const IntegrityInput input{
      12020, 0x2B4A, 0x4D08, 0x2B78, 0x00007FF8C80717F0, 0x00007FF8C825E4B0, 0x00007FF8C7DD0AD0, 0x64A365EE};
  EXPECT_EQ(hex(integrity_digest(input, {&device, 1})), "7a7014f22846c3a784cdbf423331f1ea");
}

TEST_F(PrivateTables, IntegrityCheckUsesThisProcess) {
  const uint64_t* t = table(kIntegrityId);
  const auto check = slot<CUresult(uint32_t, uint64_t, uint8_t*)>(t, 1);
  Digest out;
  ASSERT_EQ(check(13000, 1, out.data()), CUDA_SUCCESS);
  EXPECT_EQ(hex(out), "5c67cb031c184133e8d14c1faa83d38e");
  ASSERT_EQ(check(13001, 1, out.data()), CUDA_SUCCESS);
  EXPECT_EQ(hex(out), "5c67cb031c184118e8d14c1faa83d38e");
  ASSERT_EQ(check(13002, 1700000000, out.data()), CUDA_SUCCESS);
  IntegrityDevice device;
  std::memset(device.uuid.bytes, 0x5a, 16);
  device.pci = {0, 4, 0};
  const IntegrityInput input{13000,       13002, uint32_t(getpid()), uint32_t(pthread_self()), uint64_t(table(kCudart)),
                             uint64_t(t), t[1],  1700000000};
  EXPECT_EQ(out, integrity_digest(input, {&device, 1}));
}

}  // namespace
}  // namespace bf::abi
