// cuBLAS: products in every type, batched and strided, level 1 to 3, scalars on host and device, inside a captured graph.
#include <cublas_v2.h>
#include <cuComplex.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cases.h"

namespace {

constexpr int kM = 96, kN = 80, kK = 64;
cublasHandle_t g_blas;

// A matrix of `rows` x `columns`, by columns, with its rows and columns swapped.
template <class T>
std::vector<T> transpose(const std::vector<T>& from, int rows, int columns) {
  std::vector<T> to(from.size());
  for (int row = 0; row < rows; row++)
    for (int column = 0; column < columns; column++) to[row * columns + column] = from[column * rows + row];
  return to;
}

// C = A B with cublasGemmEx; the inputs are whole numbers, so that the result is exact.
template <class In, class Out>
Result gemm_ex(cudaDataType in, cudaDataType out, cublasComputeType_t compute) {
  auto a = whole_numbers<In>(kM * kK, 1), b = whole_numbers<In>(kK * kN, 2);
  const bool transposed = in == CUDA_R_8I;  // the form that tensor cores take bytes in; others are NOT_SUPPORTED on Hopper
  DeviceArray<In> da(transposed ? transpose(a, kM, kK) : a), db(b);
  DeviceArray<Out> dc(kM * kN);
  float one = 1, zero = 0;
  int32_t one_int = 1, zero_int = 0;
  double one_double = 1, zero_double = 0;
  __half one_half = 1.0f, zero_half = 0.0f;
  const void *alpha = &one, *beta = &zero;
  if (compute == CUBLAS_COMPUTE_32I) alpha = &one_int, beta = &zero_int;
  if (compute == CUBLAS_COMPUTE_64F) alpha = &one_double, beta = &zero_double;
  if (compute == CUBLAS_COMPUTE_16F) alpha = &one_half, beta = &zero_half;
  NEED(cublasGemmEx(g_blas, transposed ? CUBLAS_OP_T : CUBLAS_OP_N, CUBLAS_OP_N, kM, kN, kK, alpha, da.get(), in, transposed ? kK : kM,
                    db.get(), in, kK, beta, dc.get(), out, kM, compute, CUBLAS_GEMM_DEFAULT));
  auto c = dc.host();
  return {close(c, product(a, b, kM, kN, kK)), hash_of(c)};
}

Result sgemm() {
  auto a = whole_numbers<float>(kM * kK, 3), b = whole_numbers<float>(kK * kN, 4);
  DeviceArray<float> da(a), db(b), dc(kM * kN);
  float one = 1, zero = 0;
  NEED(cublasSgemm(g_blas, CUBLAS_OP_N, CUBLAS_OP_N, kM, kN, kK, &one, da.get(), kM, db.get(), kK, &zero, dc.get(), kM));
  auto c = dc.host();
  return {close(c, product(a, b, kM, kN, kK)), hash_of(c)};
}

// The sums of fractions depend on the order of the additions: the same GPU has to take the same one.
Result sgemm_fractions() {
  auto a = whole_numbers<float>(kM * kK, 3, 201), b = whole_numbers<float>(kK * kN, 4, 201);
  for (auto& value : a) value *= 0.0137f;
  for (auto& value : b) value *= 0.0271f;
  DeviceArray<float> da(a), db(b), dc(kM * kN);
  float one = 1, zero = 0;
  NEED(cublasSgemm(g_blas, CUBLAS_OP_N, CUBLAS_OP_N, kM, kN, kK, &one, da.get(), kM, db.get(), kK, &zero, dc.get(), kM));
  auto c = dc.host();
  return {close(c, product(a, b, kM, kN, kK), 1e-3), hash_of(c)};
}

Result transposed() {  // C = A' B', against B A read the other way
  auto a = whole_numbers<float>(kK * kM, 5), b = whole_numbers<float>(kN * kK, 6);
  std::vector<float> at(kM * kK), bt(kK * kN);
  for (int i = 0; i < kM; i++)
    for (int l = 0; l < kK; l++) at[i + l * kM] = a[l + i * kK];
  for (int l = 0; l < kK; l++)
    for (int j = 0; j < kN; j++) bt[l + j * kK] = b[j + l * kN];
  DeviceArray<float> da(a), db(b), dc(kM * kN);
  float one = 1, zero = 0;
  NEED(cublasSgemm(g_blas, CUBLAS_OP_T, CUBLAS_OP_T, kM, kN, kK, &one, da.get(), kK, db.get(), kN, &zero, dc.get(), kM));
  auto c = dc.host();
  return {close(c, product(at, bt, kM, kN, kK)), hash_of(c)};
}

Result zgemm() {  // (1 + i) A times B: real and imaginary part are both A B
  auto a = whole_numbers<float>(kM * kK, 7), b = whole_numbers<float>(kK * kN, 8);
  std::vector<cuDoubleComplex> za, zb;
  for (float value : a) za.push_back({value, value});
  for (float value : b) zb.push_back({value, 0});
  DeviceArray<cuDoubleComplex> da(za), db(zb), dc(kM * kN);
  cuDoubleComplex one{1, 0}, zero{0, 0};
  NEED(cublasZgemm(g_blas, CUBLAS_OP_N, CUBLAS_OP_N, kM, kN, kK, &one, da.get(), kM, db.get(), kK, &zero, dc.get(), kM));
  auto c = dc.host();
  auto wanted = product(a, b, kM, kN, kK);
  bool right = true;
  for (size_t i = 0; i < c.size(); i++) right &= c[i].x == wanted[i] && c[i].y == wanted[i];
  return {right, hash_of(c)};
}

Result batched(bool strided) {
  constexpr int kBatch = 12, kSize = 24, kArea = kSize * kSize;
  auto a = whole_numbers<float>(kBatch * kArea, 9), b = whole_numbers<float>(kBatch * kArea, 10);
  DeviceArray<float> da(a), db(b), dc(kBatch * kArea);
  float one = 1, zero = 0;
  if (strided) {
    NEED(cublasSgemmStridedBatched(g_blas, CUBLAS_OP_N, CUBLAS_OP_N, kSize, kSize, kSize, &one, da.get(), kSize, kArea, db.get(), kSize, kArea, &zero,
                                   dc.get(), kSize, kArea, kBatch));
  } else {
    std::vector<float*> pa, pb, pc;
    for (int i = 0; i < kBatch; i++) pa.push_back(da.get() + i * kArea), pb.push_back(db.get() + i * kArea), pc.push_back(dc.get() + i * kArea);
    DeviceArray<float*> dpa(pa), dpb(pb), dpc(pc);
    NEED(cublasSgemmBatched(g_blas, CUBLAS_OP_N, CUBLAS_OP_N, kSize, kSize, kSize, &one, dpa.get(), kSize, dpb.get(), kSize, &zero, dpc.get(), kSize, kBatch));
    NEED(cudaDeviceSynchronize());
  }
  auto c = dc.host();
  bool right = true;
  for (int i = 0; i < kBatch; i++) {
    std::vector<float> ai(a.begin() + i * kArea, a.begin() + (i + 1) * kArea), bi(b.begin() + i * kArea, b.begin() + (i + 1) * kArea);
    std::vector<float> ci(c.begin() + i * kArea, c.begin() + (i + 1) * kArea);
    right &= close(ci, product(ai, bi, kSize, kSize, kSize));
  }
  return {right, hash_of(c)};
}

Result level1(cublasPointerMode_t mode) {
  constexpr int kCount = 10000;
  auto x = whole_numbers<float>(kCount, 11), y = whole_numbers<float>(kCount, 12);
  x[1234] = -500;
  DeviceArray<float> dx(x), dy(y), dot(1), sum(1), norm(1), two(std::vector<float>{2});
  DeviceArray<int> most(1);
  float host[3], alpha = 2;
  int index = 0;
  bool on_device = mode == CUBLAS_POINTER_MODE_DEVICE;
  NEED(cublasSetPointerMode(g_blas, mode));
  NEED(cublasSaxpy(g_blas, kCount, on_device ? two.get() : &alpha, dx.get(), 1, dy.get(), 1));
  NEED(cublasSdot(g_blas, kCount, dx.get(), 1, dy.get(), 1, on_device ? dot.get() : &host[0]));
  NEED(cublasSasum(g_blas, kCount, dx.get(), 1, on_device ? sum.get() : &host[1]));
  NEED(cublasSnrm2(g_blas, kCount, dx.get(), 1, on_device ? norm.get() : &host[2]));
  NEED(cublasIsamax(g_blas, kCount, dx.get(), 1, on_device ? most.get() : &index));
  NEED(cublasSetPointerMode(g_blas, CUBLAS_POINTER_MODE_HOST));
  if (on_device) host[0] = dot.host()[0], host[1] = sum.host()[0], host[2] = norm.host()[0], index = most.host()[0];
  double wanted_dot = 0, wanted_sum = 0, squares = 0;
  for (int i = 0; i < kCount; i++) wanted_dot += x[i] * (y[i] + 2.0 * x[i]), wanted_sum += std::fabs(x[i]), squares += double(x[i]) * x[i];
  bool right = host[0] == wanted_dot && host[1] == wanted_sum && std::fabs(host[2] - std::sqrt(squares)) < 1e-2 && index == 1235;
  return {right, hash_of(host, sizeof host)};
}

Result gemv_ger_syrk() {
  auto a = whole_numbers<double>(kM * kN, 13), x = whole_numbers<double>(kN, 14), y = whole_numbers<double>(kM, 15);
  DeviceArray<double> da(a), dx(x), dy(y), ds(kM * kM);
  double one = 1, zero = 0;
  NEED(cublasDgemv(g_blas, CUBLAS_OP_N, kM, kN, &one, da.get(), kM, dx.get(), 1, &one, dy.get(), 1));
  NEED(cublasDger(g_blas, kM, kN, &one, dy.get(), 1, dx.get(), 1, da.get(), kM));
  NEED(cublasDsyrk(g_blas, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N, kM, kN, &one, da.get(), kM, &zero, ds.get(), kM));
  for (int i = 0; i < kM; i++)
    for (int j = 0; j < kN; j++) y[i] += a[i + j * kM] * x[j];
  for (int i = 0; i < kM; i++)
    for (int j = 0; j < kN; j++) a[i + j * kM] += y[i] * x[j];
  auto s = ds.host();
  bool right = dy.host() == y && da.host() == a;
  for (int j = 0; j < kM; j++)
    for (int i = j; i < kM; i++) {
      double wanted = 0;
      for (int l = 0; l < kN; l++) wanted += a[i + l * kM] * a[j + l * kM];
      right &= s[i + j * kM] == wanted;
    }
  return {right, hash_of(s)};
}

Result trsm() {  // L X = L 1 has the solution of ones
  std::vector<float> l(kM * kM), b(kM * kN);
  for (int j = 0; j < kM; j++)
    for (int i = j; i < kM; i++) l[i + j * kM] = i == j ? 4 : float((i + j) % 3 - 1);
  for (int i = 0; i < kM; i++)
    for (int k = 0; k <= i; k++)
      for (int j = 0; j < kN; j++) b[i + j * kM] += l[i + k * kM];
  DeviceArray<float> dl(l), db(b);
  float one = 1;
  NEED(cublasStrsm(g_blas, CUBLAS_SIDE_LEFT, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N, CUBLAS_DIAG_NON_UNIT, kM, kN, &one, dl.get(), kM, db.get(), kM));
  auto x = db.host();
  return {close(x, std::vector<double>(x.size(), 1), 1e-3), hash_of(x)};
}

Result lu_batched() {  // the inverses of matrices 3 I + E
  constexpr int kBatch = 8, kSize = 10, kArea = kSize * kSize;
  std::vector<float> a(kBatch * kArea, 1.0f);
  for (int m = 0; m < kBatch; m++)
    for (int i = 0; i < kSize; i++) a[m * kArea + i * kSize + i] += 3 + m;
  DeviceArray<float> da(a), dc(kBatch * kArea);
  DeviceArray<int> pivots(kBatch * kSize), info(kBatch);
  std::vector<float*> pa, pc;
  for (int m = 0; m < kBatch; m++) pa.push_back(da.get() + m * kArea), pc.push_back(dc.get() + m * kArea);
  DeviceArray<float*> dpa(pa), dpc(pc);
  NEED(cublasSgetrfBatched(g_blas, kSize, dpa.get(), kSize, pivots.get(), info.get(), kBatch));
  NEED(cublasSgetriBatched(g_blas, kSize, dpa.get(), kSize, pivots.get(), dpc.get(), kSize, info.get(), kBatch));
  auto c = dc.host();
  std::vector<double> wanted(c.size());
  for (int m = 0; m < kBatch; m++)
    for (int i = 0; i < kArea; i++) {
      double d = 3 + m;
      wanted[m * kArea + i] = (i / kSize == i % kSize ? 1 / d : 0) - 1 / (d * (d + kSize));
    }
  return {close(c, wanted, 1e-4), hash_of(c)};
}

Result geam_and_scal() {
  auto a = whole_numbers<float>(kM * kN, 16), b = whole_numbers<float>(kN * kM, 17);
  DeviceArray<float> da(a), db(b), dc(kM * kN);
  float two = 2, three = 3, half = 0.5f;
  NEED(cublasSgeam(g_blas, CUBLAS_OP_N, CUBLAS_OP_T, kM, kN, &two, da.get(), kM, &three, db.get(), kN, dc.get(), kM));
  NEED(cublasSscal(g_blas, kM * kN, &half, dc.get(), 1));
  std::vector<double> wanted(kM * kN);
  for (int j = 0; j < kN; j++)
    for (int i = 0; i < kM; i++) wanted[i + j * kM] = (2 * a[i + j * kM] + 3 * b[j + i * kN]) / 2;
  auto c = dc.host();
  return {close(c, wanted), hash_of(c)};
}

Result in_a_graph() {  // captured once with a workspace of our own, replayed three times: C = 3 A B
  auto a = whole_numbers<float>(kM * kK, 18), b = whole_numbers<float>(kK * kN, 19);
  DeviceArray<float> da(a), db(b), dc(kM * kN);
  DeviceArray<char> workspace(8 << 20);
  float one = 1;
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  NEED(cudaStreamCreate(&stream));
  NEED(cublasSetStream(g_blas, stream));
  NEED(cublasSetWorkspace(g_blas, workspace.get(), workspace.bytes()));
  NEED(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  NEED(cublasSgemm(g_blas, CUBLAS_OP_N, CUBLAS_OP_N, kM, kN, kK, &one, da.get(), kM, db.get(), kK, &one, dc.get(), kM));
  NEED(cudaStreamEndCapture(stream, &graph));
  NEED(cudaGraphInstantiate(&exec, graph, 0));
  for (int i = 0; i < 3; i++) NEED(cudaGraphLaunch(exec, stream));
  NEED(cudaStreamSynchronize(stream));
  NEED(cublasSetStream(g_blas, nullptr));
  NEED(cudaGraphExecDestroy(exec));
  NEED(cudaGraphDestroy(graph));
  NEED(cudaStreamDestroy(stream));
  auto wanted = product(a, b, kM, kN, kK);
  for (auto& value : wanted) value *= 3;
  auto c = dc.host();
  return {close(c, wanted), hash_of(c)};
}

Result matrix_copies() {
  auto a = whole_numbers<float>(kM * kN, 20);
  DeviceArray<float> da(kM * kN);
  std::vector<float> back(kM * kN), row(kN);
  NEED(cublasSetMatrix(kM, kN, sizeof(float), a.data(), kM, da.get(), kM));
  NEED(cublasGetMatrix(kM, kN, sizeof(float), da.get(), kM, back.data(), kM));
  NEED(cublasGetVector(kN, sizeof(float), da.get() + 5, kM, row.data(), 1));
  bool right = back == a;
  for (int j = 0; j < kN; j++) right &= row[j] == a[5 + j * kM];
  return {right, hash_of(row)};
}

}  // namespace

int main() {
  run_case("create", [] { return NEED(cublasCreate(&g_blas)), Result{true}; });
  run_case("sgemm", sgemm);
  run_case("sgemm of fractions", sgemm_fractions);
  run_case("sgemm transposed", transposed);
  run_case("dgemm", [] { return gemm_ex<double, double>(CUDA_R_64F, CUDA_R_64F, CUBLAS_COMPUTE_64F); });
  run_case("zgemm", zgemm);
  run_case("gemm tf32", [] { return gemm_ex<float, float>(CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32); });
  run_case("gemm half", [] { return gemm_ex<__half, __half>(CUDA_R_16F, CUDA_R_16F, CUBLAS_COMPUTE_16F); });
  run_case("gemm half into float", [] { return gemm_ex<__half, float>(CUDA_R_16F, CUDA_R_32F, CUBLAS_COMPUTE_32F); });
  run_case("gemm bfloat16", [] { return gemm_ex<__nv_bfloat16, float>(CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_32F); });
  run_case("gemm int8 into int32", [] { return gemm_ex<int8_t, int32_t>(CUDA_R_8I, CUDA_R_32I, CUBLAS_COMPUTE_32I); });
  run_case("gemm batched by pointers", [] { return batched(false); });
  run_case("gemm strided batched", [] { return batched(true); });
  run_case("level 1, results on the host", [] { return level1(CUBLAS_POINTER_MODE_HOST); });
  run_case("level 1, results on the device", [] { return level1(CUBLAS_POINTER_MODE_DEVICE); });
  run_case("gemv, ger, syrk", gemv_ger_syrk);
  run_case("trsm", trsm);
  run_case("getrf and getri batched", lu_batched);
  run_case("geam and scal", geam_and_scal);
  run_case("gemm in a graph", in_a_graph);
  run_case("set and get matrices", matrix_copies);
  return cublasDestroy(g_blas);
}
