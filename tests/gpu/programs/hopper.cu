// What compute capability 9.0 brought, and tensor cores: clusters, bulk copies, tensor maps, dependent launches.
#include <cooperative_groups.h>
#include <cuda.h>
#include <cuda/barrier>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>

#include "cases.h"

namespace {

namespace cg = cooperative_groups;
using Barrier = cuda::barrier<cuda::thread_scope_block>;
namespace bulk = cuda::device::experimental;

constexpr int kSide = 64, kTile = 16;

// Each block's sum goes to the block of rank 0 of its cluster, through distributed shared memory.
__global__ void cluster_sum(const int* in, int* out) {
  __shared__ int sum;
  auto cluster = cg::this_cluster();
  if (threadIdx.x == 0) sum = 0;
  cluster.sync();
  atomicAdd(cluster.map_shared_rank(&sum, 0), in[blockIdx.x * blockDim.x + threadIdx.x]);
  cluster.sync();
  if (cluster.block_rank() == 0 && threadIdx.x == 0) out[blockIdx.x / cluster.num_blocks()] = sum;
}

Result cluster(unsigned size, bool beyond_portable) {
  constexpr int kBlocks = 64, kThreads = 128;
  auto in = whole_numbers<int>(kBlocks * kThreads, 1, 101);
  DeviceArray<int> din(in), out(kBlocks / size);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {size, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = kBlocks, config.blockDim = kThreads, config.attrs = &attribute, config.numAttrs = 1;
  if (beyond_portable) NEED(cudaFuncSetAttribute(cluster_sum, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  int clusters = 0;
  NEED(cudaOccupancyMaxActiveClusters(&clusters, cluster_sum, &config));
  if (clusters == 0) throw Skipped{"no room for such a cluster"};
  NEED(cudaLaunchKernelEx(&config, cluster_sum, static_cast<const int*>(din.get()), out.get()));
  auto got = out.host();
  bool right = true;
  for (size_t c = 0; c < got.size(); c++) {
    int sum = 0;
    for (size_t i = 0; i < size * kThreads; i++) sum += in[c * size * kThreads + i];
    right &= got[c] == sum;
  }
  return {right, hash_of(got)};
}

// 1D bulk copies in and out of shared memory.
__global__ void bulk_copy(const int* in, int* out) {
  __shared__ alignas(128) int block[256];
#pragma nv_diag_suppress static_var_with_dynamic_init
  __shared__ Barrier barrier;
  if (threadIdx.x == 0) init(&barrier, blockDim.x), bulk::fence_proxy_async_shared_cta();
  __syncthreads();
  Barrier::arrival_token token;
  if (threadIdx.x == 0) {
    bulk::cp_async_bulk_global_to_shared(block, in + blockIdx.x * 256, sizeof block, barrier);
    token = cuda::device::barrier_arrive_tx(barrier, 1, sizeof block);
  } else {
    token = barrier.arrive();
  }
  barrier.wait(std::move(token));
  block[threadIdx.x] += 1;
  bulk::fence_proxy_async_shared_cta();
  __syncthreads();
  if (threadIdx.x == 0) {
    bulk::cp_async_bulk_shared_to_global(out + blockIdx.x * 256, block, sizeof block);
    bulk::cp_async_bulk_commit_group();
    bulk::cp_async_bulk_wait_group_read<0>();
  }
}

Result bulk_copies() {
  auto in = whole_numbers<int>(16 * 256, 2, 101);
  DeviceArray<int> din(in), out(in.size());
  bulk_copy<<<16, 256>>>(din.get(), out.get());
  NEED(cudaGetLastError());
  auto got = out.host();
  for (auto& value : in) value++;
  return {got == in, hash_of(got)};
}

// A tile of a matrix by its tensor map, transposed on its way out.
__global__ void transpose_tiles(const __grid_constant__ CUtensorMap map, float* out) {
  __shared__ alignas(128) float tile[kTile][kTile];
#pragma nv_diag_suppress static_var_with_dynamic_init
  __shared__ Barrier barrier;
  if (threadIdx.x == 0) init(&barrier, blockDim.x), bulk::fence_proxy_async_shared_cta();
  __syncthreads();
  Barrier::arrival_token token;
  if (threadIdx.x == 0) {
    bulk::cp_async_bulk_tensor_2d_global_to_shared(&tile, &map, blockIdx.x * kTile, blockIdx.y * kTile, barrier);
    token = cuda::device::barrier_arrive_tx(barrier, 1, sizeof tile);
  } else {
    token = barrier.arrive();
  }
  barrier.wait(std::move(token));
  int x = threadIdx.x % kTile, y = threadIdx.x / kTile;
  out[(blockIdx.x * kTile + x) * kSide + blockIdx.y * kTile + y] = tile[y][x];
}

Result tensor_map() {
  auto in = whole_numbers<float>(kSide * kSide, 3, 201);
  DeviceArray<float> din(in), out(in.size());
  CUtensorMap map;
  cuuint64_t sizes[] = {kSide, kSide}, strides[] = {kSide * sizeof(float)};
  cuuint32_t box[] = {kTile, kTile}, steps[] = {1, 1};
  NEED(cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, din.get(), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
                              CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
  transpose_tiles<<<dim3(kSide / kTile, kSide / kTile), kTile * kTile>>>(map, out.get());
  NEED(cudaGetLastError());
  auto got = out.host();
  bool right = true;
  for (int y = 0; y < kSide; y++)
    for (int x = 0; x < kSide; x++) right &= got[x * kSide + y] == in[y * kSide + x];
  return {right, hash_of(got)};
}

// The second kernel may start early, but waits for what the first has written.
__global__ void first_half(int* data, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) data[i] = i;
  cudaTriggerProgrammaticLaunchCompletion();
}
__global__ void second_half(int* data, int n) {
  cudaGridDependencySynchronize();
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) data[i] *= 3;
}

Result dependent_launch(bool in_a_graph) {
  constexpr int kCount = 50000;
  DeviceArray<int> data(kCount);
  cudaStream_t stream;
  NEED(cudaStreamCreate(&stream));
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = (kCount + 255) / 256, config.blockDim = 256, config.stream = stream, config.attrs = &attribute, config.numAttrs = 1;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  if (in_a_graph) NEED(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  first_half<<<(kCount + 255) / 256, 256, 0, stream>>>(data.get(), kCount);
  NEED(cudaLaunchKernelEx(&config, second_half, data.get(), int(kCount)));
  if (in_a_graph) {
    NEED(cudaStreamEndCapture(stream, &graph));
    NEED(cudaGraphInstantiate(&exec, graph, 0));
    NEED(cudaGraphLaunch(exec, stream));
  }
  NEED(cudaStreamSynchronize(stream));
  if (in_a_graph) NEED(cudaGraphExecDestroy(exec)), NEED(cudaGraphDestroy(graph));
  NEED(cudaStreamDestroy(stream));
  auto got = data.host();
  bool right = true;
  for (int i = 0; i < kCount; i++) right &= got[i] == 3 * i;
  return {right, hash_of(got)};
}

// One warp's 16 x 16 x 16 product on tensor cores.
template <class In, class Fragment>
__global__ void warp_product(const In* a, const In* b, float* c) {
  using namespace nvcuda::wmma;
  constexpr int kDepth = sizeof(In) == 4 ? 8 : 16;
  fragment<matrix_a, 16, 16, kDepth, Fragment, col_major> left;
  fragment<matrix_b, 16, 16, kDepth, Fragment, col_major> right;
  fragment<accumulator, 16, 16, kDepth, float> sum;
  fill_fragment(sum, 0);
  for (int k = 0; k < 16; k += kDepth) {
    load_matrix_sync(left, a + k * 16, 16);
    load_matrix_sync(right, b + k, 16);
    mma_sync(sum, left, right, sum);
  }
  store_matrix_sync(c, sum, 16, mem_col_major);
}

template <class In, class Fragment>
Result tensor_cores() {
  auto a = whole_numbers<In>(256, 4), b = whole_numbers<In>(256, 5);
  DeviceArray<In> da(a), db(b);
  DeviceArray<float> dc(256);
  warp_product<In, Fragment><<<1, 32>>>(da.get(), db.get(), dc.get());
  NEED(cudaGetLastError());
  auto c = dc.host();
  return {close(c, product(a, b, 16, 16, 16)), hash_of(c)};
}

__global__ void int8_product(const int8_t* a, const int8_t* b, int* c) {
  using namespace nvcuda::wmma;
  fragment<matrix_a, 16, 16, 16, signed char, col_major> left;
  fragment<matrix_b, 16, 16, 16, signed char, col_major> right;
  fragment<accumulator, 16, 16, 16, int> sum;
  fill_fragment(sum, 0);
  load_matrix_sync(left, reinterpret_cast<const signed char*>(a), 16);
  load_matrix_sync(right, reinterpret_cast<const signed char*>(b), 16);
  mma_sync(sum, left, right, sum);
  store_matrix_sync(c, sum, 16, mem_col_major);
}

Result tensor_cores_int8() {
  auto a = whole_numbers<int8_t>(256, 6, 101), b = whole_numbers<int8_t>(256, 7, 101);
  DeviceArray<int8_t> da(a), db(b);
  DeviceArray<int> dc(256);
  int8_product<<<1, 32>>>(da.get(), db.get(), dc.get());
  NEED(cudaGetLastError());
  auto c = dc.host();
  return {close(c, product(a, b, 16, 16, 16)), hash_of(c)};
}

// Every block adds to every other block's number between two barriers of the whole grid.
__global__ void grid_rounds(unsigned* numbers, int rounds) {
  auto grid = cg::this_grid();
  for (int round = 0; round < rounds; round++) {
    unsigned next = numbers[(blockIdx.x + 1) % gridDim.x];
    grid.sync();
    if (threadIdx.x == 0) numbers[blockIdx.x] = numbers[blockIdx.x] * 3 + next;
    grid.sync();
  }
}

Result grid_barrier() {
  constexpr int kBlocks = 48, kRounds = 20;
  std::vector<unsigned> numbers(kBlocks);
  for (int i = 0; i < kBlocks; i++) numbers[i] = i * i + 1;
  DeviceArray<unsigned> device(numbers);
  unsigned* pointer = device.get();
  int rounds = kRounds;
  void* arguments[] = {&pointer, &rounds};
  NEED(cudaLaunchCooperativeKernel(grid_rounds, kBlocks, 64, arguments, 0, nullptr));
  for (int round = 0; round < kRounds; round++) {
    auto before = numbers;
    for (int i = 0; i < kBlocks; i++) numbers[i] = before[i] * 3 + before[(i + 1) % kBlocks];
  }
  auto got = device.host();
  return {got == numbers, hash_of(got)};
}

__global__ void use_shared(int* out, int count) {
  extern __shared__ int numbers[];
  for (int i = threadIdx.x; i < count; i += blockDim.x) numbers[i] = i;
  __syncthreads();
  if (threadIdx.x == 0) {
    int sum = 0;
    for (int i = 0; i < count; i++) sum = sum * 31 + numbers[i];
    *out = sum;
  }
}

Result much_shared_memory() {  // as much as a block may ask for
  int bytes = 0;
  NEED(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
  NEED(cudaFuncSetAttribute(use_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  DeviceArray<int> out(1);
  use_shared<<<1, 256, bytes>>>(out.get(), bytes / 4);
  NEED(cudaGetLastError());
  unsigned wanted = 0;
  for (int i = 0; i < bytes / 4; i++) wanted = wanted * 31 + i;
  int got = out.host()[0];
  return {unsigned(got) == wanted, uint64_t(unsigned(got))};
}

}  // namespace

int main() {
  int major = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  if (major < 9) return std::puts("skipped: needs compute capability 9.0"), 77;
  run_case("cluster of 8", [] { return cluster(8, false); });
  run_case("cluster of 16", [] { return cluster(16, true); });
  run_case("bulk copies", bulk_copies);
  run_case("tensor map", tensor_map);
  run_case("dependent launch", [] { return dependent_launch(false); });
  run_case("dependent launch in a graph", [] { return dependent_launch(true); });
  run_case("tensor cores, half", tensor_cores<__half, __half>);
  run_case("tensor cores, bfloat16", tensor_cores<__nv_bfloat16, __nv_bfloat16>);
  run_case("tensor cores, int8", tensor_cores_int8);
  run_case("barriers of the whole grid", grid_barrier);
  run_case("all of a block's shared memory", much_shared_memory);
}
