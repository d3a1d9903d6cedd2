// The shim's real symbols against a worker that the test plays. A session is per process and for ever, so every test
// that starts one runs in a process of its own (a death test), and says how it ended by its exit status.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <thread>
#include <utility>

#include "client/session.h"
#include "client/state.h"
#include "fake_worker.h"
#include "proto/control.h"

// A session's threads live as long as the process: under ThreadSanitizer they are no leak.
extern "C" __attribute__((visibility("default"))) const char* __tsan_default_options() { return "report_thread_leaks=0"; }

namespace bf::client {
namespace {

#define EXPECT_OK(call) EXPECT_EQ(call, CUDA_SUCCESS)

FunctionFacts facts_of(const std::string& name) {
  FunctionFacts facts;
  facts.name = name;
  facts.parameters = {{0, 8}, {8, 4}, {16, 8}};
  facts.attributes = {{CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 512},
                      {CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 49152},
                      {CU_FUNC_ATTRIBUTE_NUM_REGS, 96}};
  return facts;
}

constexpr uint64_t kDeviceMemory = uint64_t{0x7ea000000000};

// A session with a current context.
struct Live {
  Live() {
    uint64_t next = kDeviceMemory;
    worker.on("cuMemAlloc_v2", [next](const FakeWorker::Seen&) mutable {
      next += 64 << 20;
      return Answer().fixed64(3, next);
    });
    worker.on("cuModuleGetFunction", [](const FakeWorker::Seen&) { return Answer().bytes(3, encode(facts_of("kernel"))); });
    EXPECT_OK(cuInit(0));
    EXPECT_OK(cuDevicePrimaryCtxRetain(&context, 0));
    EXPECT_OK(cuCtxSetCurrent(context));
  }
  CUfunction function() {
    CUmodule module = nullptr;
    CUfunction made = nullptr;
    EXPECT_OK(cuModuleLoadData(&module, ".version 7.0\n.target sm_70\n"));
    EXPECT_OK(cuModuleGetFunction(&made, module, "kernel"));
    return made;
  }
  FakeWorker worker;
  CUcontext context = nullptr;
};

// Runs `body` in a process of its own; it fails if an expectation in it fails.
template <typename Body>
void in_own_process(Body body) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        body();
        fflush(stdout);
        exit(testing::Test::HasFailure() ? 1 : 0);
      },
      testing::ExitedWithCode(0), "");
}

TEST(Session, NothingWorksBeforeInit) {
  in_own_process([] {
    int count;
    CUcontext context;
    EXPECT_EQ(cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
    EXPECT_EQ(cuCtxGetCurrent(&context), CUDA_ERROR_NOT_INITIALIZED);
    int version = 0;
    EXPECT_OK(cuDriverGetVersion(&version));
    EXPECT_EQ(version, 13000);
    EXPECT_EQ(cuInit(1), CUDA_ERROR_INVALID_VALUE);
    unsetenv("BF_SERVER");
    EXPECT_EQ(cuInit(0), CUDA_ERROR_NO_DEVICE);
    EXPECT_EQ(cuInit(0), CUDA_ERROR_NO_DEVICE);
  });
}

TEST(Session, AServerThatIsNotThereIsAnUnavailableDevice) {
  in_own_process([] {
    setenv("BF_SERVER", "127.0.0.1:1", 1);
    setenv("BF_LEASE_SECRET", "00ff", 1);
    EXPECT_EQ(cuInit(0), CUDA_ERROR_DEVICE_UNAVAILABLE);
  });
}

TEST(Session, QuestionsAreAnsweredFromTheSnapshot) {
  in_own_process([] {
    Live live;
    int count = 0, threads = 0;
    EXPECT_OK(cuDeviceGetCount(&count));
    EXPECT_EQ(count, 1);
    char name[8];
    EXPECT_OK(cuDeviceGetName(name, sizeof name, 0));
    EXPECT_STREQ(name, "A GPU f");
    EXPECT_OK(cuDeviceGetAttribute(&threads, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 0));
    EXPECT_EQ(threads, 1024);
    EXPECT_EQ(cuDeviceGetAttribute(&threads, CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuDeviceGetAttribute(&threads, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 1), CUDA_ERROR_INVALID_DEVICE);
    CUdevice device;
    EXPECT_EQ(cuDeviceGet(&device, 1), CUDA_ERROR_INVALID_DEVICE);
    size_t frames = live.worker.seen().size();
    EXPECT_EQ(frames, 2u) << "only the session's start and the retain travelled";
  });
}

TEST(Session, ACopyOfPageableMemoryHasWaitedForItsStream) {
  in_own_process([] {
    Live live;
    CUdeviceptr memory;
    CUstream one, other;
    EXPECT_OK(cuMemAlloc_v2(&memory, 64));
    EXPECT_OK(cuStreamCreate(&one, 0));
    EXPECT_OK(cuStreamCreate(&other, 0));
    int number;
    const auto copy = [&] { EXPECT_OK(cuMemcpyDtoHAsync_v2(&number, memory, sizeof number, one)); };
    auto asked = [&, before = 0]() mutable {
      const int all = live.worker.count("cuStreamSynchronize");
      return all - std::exchange(before, all);
    };
    copy();
    EXPECT_EQ(asked(), 1);
    EXPECT_OK(cuStreamSynchronize(one));
    EXPECT_EQ(asked(), 0) << "answered already";
    EXPECT_OK(cuStreamSynchronize(one));
    EXPECT_EQ(asked(), 1) << "once only: errors come with answers";
    copy();
    EXPECT_OK(cuStreamSynchronize(other));
    EXPECT_OK(cuStreamSynchronize(one));
    EXPECT_EQ(asked(), 3) << "another stream; and the copy was not the last that was asked about";
    copy();
    EXPECT_OK(cuMemsetD8Async(memory, 1, 4, one));
    EXPECT_OK(cuStreamSynchronize(one));
    EXPECT_EQ(asked(), 2) << "there is new work";
    copy();
    std::thread([&] {
      EXPECT_OK(cuCtxSetCurrent(live.context));
      EXPECT_OK(cuMemsetD8Async(memory, 1, 4, one));
    }).join();
    EXPECT_OK(cuStreamSynchronize(one));
    EXPECT_EQ(asked(), 2) << "another thread's";
    copy();
    std::thread([&] {
      EXPECT_OK(cuCtxSetCurrent(live.context));
      EXPECT_OK(cuStreamSynchronize(one));
    }).join();
    EXPECT_EQ(asked(), 2) << "this thread has not asked";
  });
}

TEST(Session, PrimaryContextsHaveOneHandleAndLives) {
  in_own_process([] {
    Live live;
    CUcontext again = nullptr, current = nullptr;
    unsigned flags, version;
    int active;
    EXPECT_OK(cuDevicePrimaryCtxRetain(&again, 0));
    EXPECT_EQ(again, live.context);
    EXPECT_EQ(live.worker.count("cuDevicePrimaryCtxRetain"), 1);
    EXPECT_OK(cuCtxGetApiVersion(live.context, &version));
    EXPECT_EQ(version, 3020u);
    EXPECT_OK(cuDevicePrimaryCtxRelease_v2(0));
    EXPECT_OK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    EXPECT_EQ(active, 1);
    EXPECT_OK(cuDevicePrimaryCtxRelease_v2(0));
    EXPECT_OK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    EXPECT_EQ(active, 0);
    EXPECT_EQ(cuDevicePrimaryCtxRelease_v2(0), CUDA_ERROR_INVALID_CONTEXT);
    EXPECT_OK(cuCtxGetCurrent(&current));
    EXPECT_EQ(current, live.context) << "it stays current";
    CUdeviceptr memory;
    EXPECT_EQ(cuMemAlloc_v2(&memory, 16), CUDA_ERROR_CONTEXT_IS_DESTROYED);
    EXPECT_EQ(cuCtxGetApiVersion(live.context, &version), CUDA_ERROR_INVALID_CONTEXT);
    EXPECT_OK(cuDevicePrimaryCtxRetain(&again, 0));
    EXPECT_EQ(again, live.context);
    EXPECT_OK(cuMemAlloc_v2(&memory, 16));
    EXPECT_EQ(live.worker.count("bfContextUse"), 1) << "told when the first call of the new life needs it";
  });
}

TEST(Session, TheStackOfContextsIsTheThreads) {
  in_own_process([] {
    Live live;
    CUcontext made = nullptr, got = nullptr;
    EXPECT_OK(cuCtxCreate_v2(&made, 0, 0));
    EXPECT_OK(cuCtxGetCurrent(&got));
    EXPECT_EQ(got, made);
    unsigned long long id = 0;
    EXPECT_OK(cuCtxGetId(made, &id));
    EXPECT_EQ(id, 2u);
    std::thread([&] {
      CUcontext none = made;
      EXPECT_OK(cuCtxGetCurrent(&none));
      EXPECT_EQ(none, nullptr);
      CUdevice device;
      EXPECT_EQ(cuCtxGetDevice(&device), CUDA_ERROR_INVALID_CONTEXT);
      EXPECT_EQ(cuCtxPopCurrent_v2(&none), CUDA_ERROR_INVALID_CONTEXT);
    }).join();
    EXPECT_OK(cuCtxDestroy_v2(made));
    EXPECT_OK(cuCtxGetCurrent(&got));
    EXPECT_EQ(got, live.context);
    EXPECT_EQ(cuCtxSetCurrent(made), CUDA_ERROR_INVALID_CONTEXT);
    EXPECT_EQ(cuCtxDestroy_v2(made), CUDA_ERROR_INVALID_CONTEXT);
    EXPECT_EQ(cuCtxDestroy_v2(nullptr), CUDA_ERROR_INVALID_VALUE);
    EXPECT_OK(cuCtxSetCurrent(nullptr));
    EXPECT_OK(cuCtxGetCurrent(&got));
    EXPECT_EQ(got, nullptr);
  });
}

TEST(Session, LaunchesAreCheckedBeforeTheyArePosted) {
  in_own_process([] {
    Live live;
    CUfunction f = live.function();
    uint64_t a = 1, c = 3;
    int b = 2;
    void* parameters[] = {&a, &b, &c};
    auto launch = [&](unsigned grid, unsigned block, unsigned shared, CUstream stream, void** given) {
      return cuLaunchKernel(f, grid, 1, 1, block, 1, 1, shared, stream, given, nullptr);
    };
    EXPECT_EQ(launch(0, 32, 0, nullptr, parameters), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(launch(1, 0, 0, nullptr, parameters), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(launch(1, 2048, 0, nullptr, parameters), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(launch(1, 1024, 0, nullptr, parameters), CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES) << "too many registers";
    EXPECT_EQ(launch(1, 544, 0, nullptr, parameters), CUDA_ERROR_INVALID_VALUE) << "registers fit, launch bounds do not";
    EXPECT_EQ(launch(1, 32, 49153, nullptr, parameters), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(launch(1, 32, 0, nullptr, nullptr), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(launch(1, 32, 0, reinterpret_cast<CUstream>(0x1234), parameters), CUDA_ERROR_INVALID_HANDLE);
    EXPECT_EQ(cuLaunchKernel(reinterpret_cast<CUfunction>(live.context), 1, 1, 1, 1, 1, 1, 0, nullptr, parameters, nullptr),
              CUDA_ERROR_INVALID_HANDLE);
    EXPECT_OK(launch(1, 512, 49152, nullptr, parameters));
    std::byte packed[24] = {};
    size_t bytes = sizeof packed;
    void* extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, packed, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
    EXPECT_OK(cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, CU_STREAM_PER_THREAD, nullptr, extra));
    bytes = 23;
    EXPECT_EQ(cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, extra), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, nullptr, parameters, extra), CUDA_ERROR_INVALID_VALUE);
    EXPECT_OK(cuCtxSynchronize());
    EXPECT_EQ(live.worker.count("cuLaunchKernel"), 2);
    std::thread([&] { EXPECT_EQ(launch(1, 1, 0, nullptr, parameters), CUDA_ERROR_INVALID_CONTEXT); }).join();
  });
}

TEST(Session, CopiesTravelAsTheirSizeSays) {
  in_own_process([] {
    Live live;
    CUdeviceptr memory = 0;
    EXPECT_OK(cuMemAlloc_v2(&memory, 1 << 20));
    std::string small(limits::kInlineBytes, 's'), large(limits::kInlineBytes + 1, 'l');
    EXPECT_OK(cuMemcpyHtoD_v2(memory, small.data(), small.size()));
    EXPECT_OK(cuMemcpyHtoDAsync_v2(memory, large.data(), large.size(), nullptr));
    EXPECT_OK(cuMemcpyHtoD_v2(memory, large.data(), large.size()));
    EXPECT_TRUE(live.worker.wait_transfer(1, large));
    EXPECT_TRUE(live.worker.wait_transfer(2, large));
    bool inlined = false;
    for (auto& frame : live.worker.seen()) inlined |= frame.payload == small;
    EXPECT_TRUE(inlined);
    EXPECT_EQ(cuMemcpyHtoD_v2(memory + 1, large.data(), 1 << 20), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemcpyHtoD_v2(memory, nullptr, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemcpyHtoD_v2(1, small.data(), 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemsetD8_v2(memory + (1 << 20), 0, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemsetD32_v2(memory + 2, 0, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_OK(cuMemsetD32_v2(memory, 0, 1 << 18));
    EXPECT_OK(cuMemFree_v2(memory));
    EXPECT_EQ(cuMemFree_v2(memory), CUDA_ERROR_INVALID_VALUE);
    EXPECT_OK(cuMemFree_v2(0));
  });
}

TEST(Session, DataLandsBeforeTheReplyThatShowsIt) {
  in_own_process([] {
    Live live;
    CUdeviceptr memory = 0;
    EXPECT_OK(cuMemAlloc_v2(&memory, 4 << 20));
    // A Data frame, then the reply.
    live.worker.on("cuMemcpyDtoH_v2", [&](const FakeWorker::Seen&) {
      control::DataNotice notice;
      notice.ticket = 1;
      live.worker.notice(Opcode::kData, control::encode_DataNotice(notice), "0123456789");
      return Answer();
    });
    char text[11] = "";
    EXPECT_OK(cuMemcpyDtoH_v2(text, memory, 10));
    EXPECT_STREQ(text, "0123456789");
    // Bulk blocks that arrive after the reply, below its watermark.
    std::string source(3 << 20, 'b');
    live.worker.on("cuStreamSynchronize", [&](const FakeWorker::Seen&) {
      uint64_t watermark = live.worker.link().bulk().send(2, source.data(), source.size(), [](const Status&) {});
      return Answer(0, watermark);
    });
    std::string landed(source.size(), '.');
    EXPECT_OK(cuMemHostRegister_v2(landed.data(), landed.size(), 0));
    EXPECT_OK(cuMemcpyDtoHAsync_v2(landed.data(), memory, landed.size(), nullptr));
    EXPECT_OK(cuStreamSynchronize(nullptr));
    EXPECT_TRUE(landed == source);
    live.worker.on("cuStreamSynchronize", [](const FakeWorker::Seen&) { return Answer(); });
    EXPECT_OK(cuMemHostUnregister(landed.data()));
    EXPECT_EQ(cuMemFreeHost(landed.data()), CUDA_ERROR_INVALID_VALUE);
  });
}

TEST(Session, AsynchronousErrorsSurfaceOnceAndStickyOnesStay) {
  in_own_process([] {
    Live live;
    control::AsyncErrorNotice notice;
    notice.result = CUDA_ERROR_OUT_OF_MEMORY;
    live.worker.on("cuCtxSynchronize", [&](const FakeWorker::Seen&) {
      if (notice.result) live.worker.notice(Opcode::kAsyncError, control::encode_AsyncErrorNotice(notice));
      notice.result = 0;
      return Answer();
    });
    EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    notice.result = CUDA_ERROR_ILLEGAL_ADDRESS;
    EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
    CUdeviceptr memory;
    EXPECT_EQ(cuMemAlloc_v2(&memory, 1), CUDA_ERROR_ILLEGAL_ADDRESS);
    CUstream stream;
    EXPECT_EQ(cuStreamCreate(&stream, 0), CUDA_ERROR_ILLEGAL_ADDRESS);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
    int count;
    EXPECT_OK(cuDeviceGetCount(&count));
  });
}

TEST(Session, HostFunctionsRunHereInOrder) {
  in_own_process([] {
    Live live;
    static std::string order;
    auto append = [](void* text) { order += static_cast<char*>(text); };
    auto callback = [](CUstream stream, CUresult status, void* text) {
      if (stream == nullptr && status == CUDA_ERROR_LAUNCH_FAILED) order += static_cast<char*>(text);
      CUdeviceptr memory;
      if (cuMemAlloc_v2(&memory, 1) == CUDA_ERROR_NOT_PERMITTED) order += "!";
    };
    char first[] = "a", second[] = "b";
    EXPECT_OK(cuLaunchHostFunc(nullptr, append, first));
    EXPECT_OK(cuStreamAddCallback(nullptr, callback, second, 0));
    EXPECT_TRUE(Session::get()->callbacks().outstanding());
    control::CallbackNotice notice;
    notice.id = 1;
    live.worker.side(control::encode_CallbackNotice(notice));
    notice.id = 2;
    notice.status = CUDA_ERROR_LAUNCH_FAILED;
    live.worker.side(control::encode_CallbackNotice(notice));
    EXPECT_TRUE(live.worker.wait_callbacks_done(2));
    EXPECT_EQ(order, "ab!");
    EXPECT_FALSE(Session::get()->callbacks().outstanding());
  });
}

TEST(Session, PrintsComeOutBeforeTheCallReturns) {
  in_own_process([] {
    Live live;
    live.worker.on("cuCtxSynchronize", [&](const FakeWorker::Seen&) {
      control::PrintNotice notice;
      notice.fd = 1;
      live.worker.notice(Opcode::kPrint, control::encode_PrintNotice(notice), "from the device\n");
      return Answer();
    });
    fflush(stdout);
    int saved = dup(1), ends[2];
    ASSERT_EQ(pipe(ends), 0);
    dup2(ends[1], 1);
    EXPECT_OK(cuCtxSynchronize());
    fflush(stdout);
    dup2(saved, 1);
    char text[64] = "";
    EXPECT_EQ(read(ends[0], text, sizeof text - 1), 16);
    EXPECT_STREQ(text, "from the device\n");
  });
}

TEST(Session, ALostLinkWakesEveryoneAndEveryCallFails) {
  in_own_process([] {
    Live live;
    std::atomic<int> waiting{0}, ready{0};
    std::mutex gate;
    live.worker.on("cuStreamSynchronize", [&](const FakeWorker::Seen&) {
      ++waiting;
      std::lock_guard wait(gate);
      return Answer();
    });
    gate.lock();
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        EXPECT_OK(cuCtxSetCurrent(live.context));
        ++ready;
        EXPECT_EQ(cuStreamSynchronize(nullptr), CUDA_ERROR_DEVICE_UNAVAILABLE);
      });
    }
    while (waiting == 0 || ready < 4) std::this_thread::yield();
    live.worker.cut();
    for (auto& thread : threads) thread.join();
    gate.unlock();
    EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_DEVICE_UNAVAILABLE);
    CUdeviceptr memory;
    EXPECT_EQ(cuMemAlloc_v2(&memory, 1), CUDA_ERROR_DEVICE_UNAVAILABLE);
    int count = 0;
    EXPECT_OK(cuDeviceGetCount(&count));
    EXPECT_EQ(count, 1);
  });
}

TEST(Session, MalformedRepliesEndTheSession) {
  in_own_process([] {
    Live live;
    live.worker.on("cuMemAlloc_v2", [](const FakeWorker::Seen&) { return Answer().bytes(3, "not an address"); });
    CUdeviceptr memory;
    EXPECT_EQ(cuMemAlloc_v2(&memory, 1), CUDA_ERROR_DEVICE_UNAVAILABLE);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_DEVICE_UNAVAILABLE);
  });
}

TEST(Session, AForkedChildIsNotInitialised) {
  in_own_process([] {
    Live live;
    pid_t child = fork();
    if (child == 0) {
      int count;
      bool right = cuCtxSynchronize() == CUDA_ERROR_NOT_INITIALIZED && cuInit(0) == CUDA_ERROR_NOT_INITIALIZED &&
                   cuDeviceGetCount(&count) == CUDA_ERROR_NOT_INITIALIZED;
      _exit(right ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    EXPECT_OK(cuCtxSynchronize());
  });
}

void after_exit() {
  CUdeviceptr memory;
  if (cuCtxSynchronize() != CUDA_ERROR_DEINITIALIZED || cuMemAlloc_v2(&memory, 1) != CUDA_ERROR_DEINITIALIZED) _exit(9);
  if (cuInit(0) != CUDA_ERROR_DEINITIALIZED) _exit(8);
}

TEST(Session, AfterExitHandlersTheDriverIsDeinitialised) {
  in_own_process([] {
    atexit(after_exit);  // runs after ours, which the session registers later
    auto* live = new Live;
    (void)live;
  });
}

TEST(Session, ManyThreadsShareLanes) {
  in_own_process([] {
    Live live;
    for (int round = 0; round < 3; ++round) {
      std::vector<std::thread> threads;
      for (int i = 0; i < 100; ++i) {
        threads.emplace_back([&] {
          EXPECT_OK(cuCtxSetCurrent(live.context));
          for (int k = 0; k < 5; ++k) EXPECT_OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
        });
      }
      for (auto& thread : threads) thread.join();
    }
    uint32_t highest = 0;
    for (auto& frame : live.worker.seen()) highest = std::max(highest, frame.header.lane);
    EXPECT_LE(highest, 101u) << "lanes of ended threads are used again";
  });
}

}  // namespace
}  // namespace bf::client
