// Integer instructions of all widths against the host's own arithmetic.
#include "e2e.h"

__host__ __device__ inline uint64_t mix(uint64_t x, int step) {
  x ^= x >> 31;
  x *= 0x7fb5d329728ea185ull;
  return x ^ (x >> 27) ^ step;
}

__global__ void all(uint64_t* out) {
  uint64_t x = mix(threadIdx.x + 1, 1), y = mix(threadIdx.x + 77, 2);
  int a = int(x), b = int(y);
  unsigned u = unsigned(x >> 32), v = unsigned(y >> 32) | 1;
  uint64_t* o = out + threadIdx.x * 20;
  o[0] = uint64_t(a + b) ^ uint64_t(a * b);
  o[1] = uint64_t(__mulhi(a, b)) + __umulhi(u, v);
  o[2] = __umul64hi(x, y) + uint64_t(__mul64hi((long long)x, (long long)y));
  o[3] = u / v + (u % v) * 3ull;
  o[4] = b ? uint64_t((long long)a / b) + uint64_t(a % b) : 0;
  o[5] = (y | 1) ? x / (y | 1) + x % (y >> 40 | 1) : 0;
  o[6] = __clz(u) * 1000 + __popc(v) * 100 + __ffs(a);
  o[7] = __clzll(x) * 1000 + __popcll(y) * 100 + __ffsll((long long)x);
  o[8] = __brev(u) ^ __brevll(x);
  o[9] = __byte_perm(u, v, 0x5140);
  o[10] = __funnelshift_l(u, v, a & 63) + uint64_t(__funnelshift_rc(u, v, b & 63));
  o[11] = (x << (a & 63)) ^ (y >> (b & 63)) ^ uint64_t((long long)x >> (b & 63));
  o[12] = uint64_t(__dp4a(a, b, 5)) + __dp4a(u, v, 3u);
  o[13] = uint64_t(__sad(a, b, 10u)) + __usad(u, v, 3u) + uint64_t(__hadd(a, b)) + __uhadd(u, v);
  o[14] = uint64_t(min(a, b)) + uint64_t(max(u, v)) + uint64_t(abs(a)) + uint64_t(llabs((long long)y));
  o[15] = uint64_t(short(a)) + uint64_t((signed char)b) + uint8_t(a) + uint16_t(b);
  o[16] = uint64_t(__mul24(a, b)) + __umul24(u, v);
  o[17] = uint64_t(__rhadd(a, b)) + __urhadd(u, v);
  o[18] = __vadd2(u, v) ^ __vavgu4(u, v);
  o[19] = (unsigned __int128)(x)*y >> 70;
}

int main() {
  const int threads = 64;
  uint64_t *device, host[threads * 20];
  CHECK(cudaMalloc(&device, sizeof(host)));
  all<<<1, threads>>>(device);
  CHECK(cudaMemcpy(host, device, sizeof(host), cudaMemcpyDeviceToHost));
  for (int column = 0; column < 20; column++) {
    uint64_t hash = 0;
    for (int t = 0; t < threads; t++) hash = hash * 31 + host[t * 20 + column];
    std::printf("%2d: %016llx\n", column, (unsigned long long)hash);
  }
  bool good = true;
  for (int t = 0; t < threads; t++) {
    uint64_t x = mix(t + 1, 1), y = mix(t + 77, 2);
    good &= host[t * 20 + 5] == x / (y | 1) + x % (y >> 40 | 1);
    good &= host[t * 20 + 19] == uint64_t((unsigned __int128)(x)*y >> 70);
    good &= host[t * 20 + 1] ==
            uint64_t(int64_t(int(x)) * int(y) >> 32) + (uint64_t(unsigned(x >> 32)) * (unsigned(y >> 32) | 1) >> 32);
  }
  std::printf("as on the host: %d\n", good);
}
