// Host memory that kernels of two contexts write: waiting for one context says nothing about the other.
#include <future>
#include <thread>

#include "driver.h"

constexpr unsigned kTurns = 6;

static const char* kSlow = R"(.version 6.4
.target sm_75
.address_size 64
.visible .entry slow(.param .u64 out, .param .u32 turns, .param .u32 value) {
  .reg .pred %p; .reg .b32 %r<5>; .reg .b64 %d<2>;
  ld.param.u64 %d1, [out]; ld.param.u32 %r1, [turns]; ld.param.u32 %r2, [value];
  cvta.to.global.u64 %d1, %d1; mov.u32 %r3, 0;
again:
  add.u32 %r3, %r3, 1; setp.lt.u32 %p, %r3, %r1;
  @%p bra again;
  add.u32 %r4, %r2, %r3; st.global.u32 [%d1], %r4; ret;
}
)";

struct Place {
  CUcontext context;
  CUstream stream;
  CUfunction slow;
  unsigned* value;
};

static Place make_place() {
  Place place;
  CUmodule module;
  void* memory;
  CHECK(cuCtxCreate(&place.context, nullptr, 0, 0));
  CHECK(cuStreamCreate(&place.stream, CU_STREAM_NON_BLOCKING));
  CHECK(cuModuleLoadData(&module, kSlow));
  CHECK(cuModuleGetFunction(&place.slow, module, "slow"));
  CHECK(cuMemHostAlloc(&memory, 4096, CU_MEMHOSTALLOC_DEVICEMAP));
  place.value = static_cast<unsigned*>(memory);
  *place.value = 0;
  return place;
}

static void start(Place& place, unsigned turns, unsigned value) {
  void* parameters[] = {&place.value, &turns, &value};
  CHECK(cuCtxSetCurrent(place.context));
  CHECK(cuLaunchKernel(place.slow, 1, 1, 1, 1, 1, 1, 0, place.stream, parameters, nullptr));
}

int main() {
  CHECK(cuInit(0));
  Place one = make_place(), two = make_place();
  std::promise<void> begin[kTurns], started[kTurns], waited[kTurns], done[kTurns];
  std::thread other([&] {  // whose context is always the second one
    for (unsigned turn = 0; turn < kTurns; turn++) {
      begin[turn].get_future().wait();
      start(two, 300000, turn);
      started[turn].set_value();
      waited[turn].get_future().wait();
      CHECK(turn % 2 ? cuCtxSynchronize() : cuStreamSynchronize(two.stream));
      std::printf("two: %u\n", *two.value);
      done[turn].set_value();
    }
  });
  for (unsigned turn = 0; turn < kTurns; turn++) {
    start(one, 10, turn);
    begin[turn].set_value();
    started[turn].get_future().wait();
    CHECK(cuCtxSynchronize());
    std::printf("one: %u\n", *one.value);
    waited[turn].set_value();
    done[turn].get_future().wait();
  }
  other.join();
}
