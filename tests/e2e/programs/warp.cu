// Votes, shuffles, matches and masks within a warp, also with part of it gone another way.
#include "e2e.h"

__global__ void warp(unsigned* out) {
  const unsigned all = 0xffffffff;
  int lane = threadIdx.x;
  unsigned* o = out + lane * 16;
  o[0] = __ballot_sync(all, lane % 3 == 0);
  o[1] = __all_sync(all, lane < 32) * 2 + __any_sync(all, lane == 40);
  o[2] = __shfl_sync(all, lane * 10, (lane + 5) % 32);
  o[3] = __shfl_up_sync(all, lane, 3);
  o[4] = __shfl_down_sync(all, lane, 4, 8);
  o[5] = __shfl_xor_sync(all, lane * lane, 7);
  o[6] = __match_any_sync(all, lane / 5);
  int same = 0;
  o[7] = __match_all_sync(all, lane / 32, &same) + same;
  if (lane < 12) {
    o[8] = __activemask();
    o[9] = __ballot_sync(0xfff, lane & 1);
  } else {
    o[8] = __popc(__activemask());
    o[9] = __shfl_sync(0xfffff000, lane, 20);
  }
  __syncwarp();
  double wide = __shfl_xor_sync(all, double(lane) * 1.5, 1);
  o[10] = unsigned(wide * 2);
  unsigned below;
  asm("mov.u32 %0, %%lanemask_lt;" : "=r"(below));
  o[11] = below;
  o[12] = unsigned(__shfl_sync(all, (long long)lane << 33, 9) >> 33);
  int sum = lane;
  for (int i = 0; i <= lane; i++) sum += i;  // every lane leaves the loop at another time
  o[13] = sum;
  o[14] = __ballot_sync(all, sum > 100);
  o[15] = __fns(0x0f0f0f0f, 0, lane % 16 + 1);
}

int main() {
  unsigned *device, host[32 * 16];
  CHECK(cudaMalloc(&device, sizeof(host)));
  warp<<<1, 32>>>(device);
  CHECK(cudaMemcpy(host, device, sizeof(host), cudaMemcpyDeviceToHost));
  for (int lane = 0; lane < 32; lane++) {
    for (int i = 0; i < 16; i++) std::printf("%x ", host[lane * 16 + i]);
    std::printf("\n");
  }
}
