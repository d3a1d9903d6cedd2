// cuSOLVER: factorisations and what they are for, judged by putting the factors together again.
#include <cusolverDn.h>

#include "cases.h"

namespace {

constexpr int kN = 64;
cusolverDnHandle_t g_solver;

// Symmetric, positive definite, column-major.
std::vector<double> matrix(int n, unsigned seed) {
  auto numbers = whole_numbers<double>(size_t(n) * n, seed);
  std::vector<double> a(size_t(n) * n);
  for (int i = 0; i < n; i++)
    for (int j = 0; j < n; j++) a[i + j * n] = numbers[std::min(i, j) + std::max(i, j) * n] + (i == j ? 6.0 * n : 0);
  return a;
}

std::vector<double> times_ones(const std::vector<double>& a, int n) {
  std::vector<double> b(n);
  for (int j = 0; j < n; j++)
    for (int i = 0; i < n; i++) b[i] += a[i + j * n];
  return b;
}

bool ones(const std::vector<double>& x) { return close(x, std::vector<double>(x.size(), 1), 1e-6); }

Result cholesky() {
  auto a = matrix(kN, 1);
  DeviceArray<double> da(a), db(times_ones(a, kN));
  DeviceArray<int> info(1);
  int room = 0;
  NEED(cusolverDnDpotrf_bufferSize(g_solver, CUBLAS_FILL_MODE_LOWER, kN, da.get(), kN, &room));
  DeviceArray<double> work(room);
  NEED(cusolverDnDpotrf(g_solver, CUBLAS_FILL_MODE_LOWER, kN, da.get(), kN, work.get(), room, info.get()));
  NEED(cusolverDnDpotrs(g_solver, CUBLAS_FILL_MODE_LOWER, kN, 1, da.get(), kN, db.get(), kN, info.get()));
  auto x = db.host();
  return {ones(x) && info.host()[0] == 0, hash_of(x)};
}

Result not_positive_definite() {
  auto a = matrix(kN, 1);
  a[10 + 10 * kN] = -1;
  DeviceArray<double> da(a);
  DeviceArray<int> info(1);
  int room = 0;
  NEED(cusolverDnDpotrf_bufferSize(g_solver, CUBLAS_FILL_MODE_LOWER, kN, da.get(), kN, &room));
  DeviceArray<double> work(room);
  NEED(cusolverDnDpotrf(g_solver, CUBLAS_FILL_MODE_LOWER, kN, da.get(), kN, work.get(), room, info.get()));
  int minor = info.host()[0];
  return {minor == 11, uint64_t(minor)};
}

Result lu() {
  auto a = matrix(kN, 2);
  DeviceArray<double> da(a), db(times_ones(a, kN));
  DeviceArray<int> pivots(kN), info(1);
  int room = 0;
  NEED(cusolverDnDgetrf_bufferSize(g_solver, kN, kN, da.get(), kN, &room));
  DeviceArray<double> work(room);
  NEED(cusolverDnDgetrf(g_solver, kN, kN, da.get(), kN, work.get(), pivots.get(), info.get()));
  NEED(cusolverDnDgetrs(g_solver, CUBLAS_OP_N, kN, 1, da.get(), kN, pivots.get(), db.get(), kN, info.get()));
  auto x = db.host();
  return {ones(x), hash_of(x)};
}

Result lu_64_bit() {  // the interface with a workspace on the host too
  auto a = matrix(kN, 3);
  DeviceArray<double> da(a), db(times_ones(a, kN));
  DeviceArray<int64_t> pivots(kN);
  DeviceArray<int> info(1);
  cusolverDnParams_t parameters;
  size_t on_device = 0, on_host = 0;
  NEED(cusolverDnCreateParams(&parameters));
  NEED(cusolverDnXgetrf_bufferSize(g_solver, parameters, kN, kN, CUDA_R_64F, da.get(), kN, CUDA_R_64F, &on_device, &on_host));
  DeviceArray<char> work(on_device + 1);
  std::vector<char> host_work(on_host + 1);
  NEED(cusolverDnXgetrf(g_solver, parameters, kN, kN, CUDA_R_64F, da.get(), kN, pivots.get(), CUDA_R_64F, work.get(), on_device, host_work.data(), on_host, info.get()));
  NEED(cusolverDnXgetrs(g_solver, parameters, CUBLAS_OP_N, kN, 1, CUDA_R_64F, da.get(), kN, pivots.get(), CUDA_R_64F, db.get(), kN, info.get()));
  auto x = db.host();
  NEED(cusolverDnDestroyParams(parameters));
  return {ones(x), hash_of(x)};
}

Result qr() {  // Q' Q = 1
  auto a = matrix(kN, 4);
  DeviceArray<double> da(a), tau(kN);
  DeviceArray<int> info(1);
  int room = 0, more = 0;
  NEED(cusolverDnDgeqrf_bufferSize(g_solver, kN, kN, da.get(), kN, &room));
  NEED(cusolverDnDorgqr_bufferSize(g_solver, kN, kN, kN, da.get(), kN, tau.get(), &more));
  room = std::max(room, more);
  DeviceArray<double> work(room);
  NEED(cusolverDnDgeqrf(g_solver, kN, kN, da.get(), kN, tau.get(), work.get(), room, info.get()));
  NEED(cusolverDnDorgqr(g_solver, kN, kN, kN, da.get(), kN, tau.get(), work.get(), room, info.get()));
  auto q = da.host();
  bool right = true;
  for (int i = 0; i < kN; i++)
    for (int j = 0; j < kN; j++) {
      double sum = 0;
      for (int k = 0; k < kN; k++) sum += q[k + i * kN] * q[k + j * kN];
      right &= std::fabs(sum - (i == j)) < 1e-9;
    }
  return {right, hash_of(q)};
}

// U S V' = A, for both ways of computing it.
bool reassembled(const std::vector<double>& a, const std::vector<double>& u, const std::vector<double>& s, const std::vector<double>& v, bool v_is_transposed) {
  for (int i = 0; i < kN; i++)
    for (int j = 0; j < kN; j++) {
      double sum = 0;
      for (int k = 0; k < kN; k++) sum += u[i + k * kN] * s[k] * (v_is_transposed ? v[k + j * kN] : v[j + k * kN]);
      if (std::fabs(sum - a[i + j * kN]) > 1e-6) return false;
    }
  return true;
}

Result svd() {
  auto a = matrix(kN, 5);
  DeviceArray<double> da(a), s(kN), u(kN * kN), vt(kN * kN), rest(kN);
  DeviceArray<int> info(1);
  int room = 0;
  NEED(cusolverDnDgesvd_bufferSize(g_solver, kN, kN, &room));
  DeviceArray<double> work(room);
  NEED(cusolverDnDgesvd(g_solver, 'A', 'A', kN, kN, da.get(), kN, s.get(), u.get(), kN, vt.get(), kN, work.get(), room, rest.get(), info.get()));
  return {reassembled(a, u.host(), s.host(), vt.host(), true), hash_of(s.host())};
}

Result svd_by_rotations() {
  auto a = matrix(kN, 6);
  DeviceArray<double> da(a), s(kN), u(kN * kN), v(kN * kN);
  DeviceArray<int> info(1);
  gesvdjInfo_t parameters;
  int room = 0;
  NEED(cusolverDnCreateGesvdjInfo(&parameters));
  NEED(cusolverDnDgesvdj_bufferSize(g_solver, CUSOLVER_EIG_MODE_VECTOR, 0, kN, kN, da.get(), kN, s.get(), u.get(), kN, v.get(), kN, &room, parameters));
  DeviceArray<double> work(room);
  NEED(cusolverDnDgesvdj(g_solver, CUSOLVER_EIG_MODE_VECTOR, 0, kN, kN, da.get(), kN, s.get(), u.get(), kN, v.get(), kN, work.get(), room, info.get(), parameters));
  auto singular = s.host();
  NEED(cusolverDnDestroyGesvdjInfo(parameters));
  return {reassembled(a, u.host(), singular, v.host(), false), hash_of(singular)};
}

// A symmetric matrix's eigenvectors: A v = w v.
bool are_eigen(const double* a, const double* v, const double* w, int n) {
  for (int k = 0; k < n; k++)
    for (int i = 0; i < n; i++) {
      double sum = 0;
      for (int j = 0; j < n; j++) sum += a[i + j * n] * v[j + k * n];
      if (std::fabs(sum - w[k] * v[i + k * n]) > 1e-5) return false;
    }
  return true;
}

Result eigenvalues() {
  auto a = matrix(kN, 7);
  DeviceArray<double> da(a), w(kN);
  DeviceArray<int> info(1);
  int room = 0;
  NEED(cusolverDnDsyevd_bufferSize(g_solver, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, kN, da.get(), kN, w.get(), &room));
  DeviceArray<double> work(room);
  NEED(cusolverDnDsyevd(g_solver, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, kN, da.get(), kN, w.get(), work.get(), room, info.get()));
  auto vectors = da.host(), values = w.host();
  return {are_eigen(a.data(), vectors.data(), values.data(), kN), hash_of(values)};
}

Result eigenvalues_batched() {
  constexpr int kBatch = 6, kSize = 16, kArea = kSize * kSize;
  std::vector<double> a;
  for (int i = 0; i < kBatch; i++) {
    auto one = matrix(kSize, 10 + i);
    a.insert(a.end(), one.begin(), one.end());
  }
  DeviceArray<double> da(a), w(kBatch * kSize);
  DeviceArray<int> info(kBatch);
  syevjInfo_t parameters;
  int room = 0;
  NEED(cusolverDnCreateSyevjInfo(&parameters));
  NEED(cusolverDnDsyevjBatched_bufferSize(g_solver, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, kSize, da.get(), kSize, w.get(), &room, parameters, kBatch));
  DeviceArray<double> work(room);
  NEED(cusolverDnDsyevjBatched(g_solver, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, kSize, da.get(), kSize, w.get(), work.get(), room, info.get(), parameters, kBatch));
  auto vectors = da.host(), values = w.host();
  NEED(cusolverDnDestroySyevjInfo(parameters));
  bool right = true;
  for (int i = 0; i < kBatch; i++) right &= are_eigen(&a[i * kArea], &vectors[i * kArea], &values[i * kSize], kSize);
  return {right, hash_of(values)};
}

}  // namespace

int main() {
  run_case("create", [] { return NEED(cusolverDnCreate(&g_solver)), Result{true}; });
  run_case("cholesky", cholesky);
  run_case("a matrix that is not positive definite", not_positive_definite);
  run_case("lu", lu);
  run_case("lu, 64-bit interface", lu_64_bit);
  run_case("qr", qr);
  run_case("svd", svd);
  run_case("svd by rotations", svd_by_rotations);
  run_case("eigenvalues", eigenvalues);
  run_case("eigenvalues, batched", eigenvalues_batched);
  return cusolverDnDestroy(g_solver);
}
