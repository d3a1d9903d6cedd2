// cuSPARSE: products of sparse matrices with vectors, dense and sparse matrices, triangular solves, conversions.
#include <cusparse.h>

#include "cases.h"

namespace {

constexpr int kRows = 120, kColumns = 90, kWide = 24;
cusparseHandle_t g_sparse;
const float kOne = 1, kZero = 0;

struct Csr {
  int rows, columns;
  std::vector<int> offsets{0}, indices;
  std::vector<float> values;
  // About one entry in five of a row-major matrix.
  Csr(int rows, int columns, unsigned seed) : rows(rows), columns(columns) {
    auto numbers = whole_numbers<float>(size_t(rows) * columns, seed, 11);
    for (int i = 0; i < rows; i++) {
      for (int j = 0; j < columns; j++)
        if ((i * 7 + j * 3 + int(seed)) % 5 == 0) indices.push_back(j), values.push_back(numbers[i * columns + j] == 0 ? 1 : numbers[i * columns + j]);
      offsets.push_back(int(indices.size()));
    }
  }
  std::vector<float> dense() const {  // row-major
    std::vector<float> full(size_t(rows) * columns);
    for (int i = 0; i < rows; i++)
      for (int at = offsets[i]; at < offsets[i + 1]; at++) full[i * columns + indices[at]] = values[at];
    return full;
  }
};

struct DeviceCsr {
  DeviceArray<int> offsets, indices;
  DeviceArray<float> values;
  cusparseSpMatDescr_t descriptor;
  explicit DeviceCsr(const Csr& a) : offsets(a.offsets), indices(a.indices), values(a.values) {
    NEED(cusparseCreateCsr(&descriptor, a.rows, a.columns, int64_t(a.values.size()), offsets.get(), indices.get(), values.get(), CUSPARSE_INDEX_32I, CUSPARSE_INDEX_32I,
                           CUSPARSE_INDEX_BASE_ZERO, CUDA_R_32F));
  }
  ~DeviceCsr() { cusparseDestroySpMat(descriptor); }
};

struct Vector {
  DeviceArray<float> values;
  cusparseDnVecDescr_t descriptor;
  explicit Vector(const std::vector<float>& host) : values(host) { NEED(cusparseCreateDnVec(&descriptor, int64_t(host.size()), values.get(), CUDA_R_32F)); }
  ~Vector() { cusparseDestroyDnVec(descriptor); }
};

Result multiply(cusparseSpMatDescr_t matrix, const Csr& a) {
  auto x = whole_numbers<float>(kColumns, 2);
  Vector dx(x), dy(std::vector<float>(kRows, 0));
  size_t room = 0;
  NEED(cusparseSpMV_bufferSize(g_sparse, CUSPARSE_OPERATION_NON_TRANSPOSE, &kOne, matrix, dx.descriptor, &kZero, dy.descriptor, CUDA_R_32F, CUSPARSE_SPMV_ALG_DEFAULT, &room));
  DeviceArray<char> buffer(room + 1);
  NEED(cusparseSpMV(g_sparse, CUSPARSE_OPERATION_NON_TRANSPOSE, &kOne, matrix, dx.descriptor, &kZero, dy.descriptor, CUDA_R_32F, CUSPARSE_SPMV_ALG_DEFAULT, buffer.get()));
  std::vector<double> wanted(kRows);
  for (int i = 0; i < kRows; i++)
    for (int at = a.offsets[i]; at < a.offsets[i + 1]; at++) wanted[i] += double(a.values[at]) * x[a.indices[at]];
  auto got = dy.values.host();
  return {close(got, wanted), hash_of(got)};
}

Result spmv_csr() {
  Csr a(kRows, kColumns, 1);
  DeviceCsr device(a);
  return multiply(device.descriptor, a);
}

Result spmv_coo() {
  Csr a(kRows, kColumns, 1);
  std::vector<int> rows;
  for (int i = 0; i < kRows; i++) rows.insert(rows.end(), a.offsets[i + 1] - a.offsets[i], i);
  DeviceArray<int> device_rows(rows), indices(a.indices);
  DeviceArray<float> values(a.values);
  cusparseSpMatDescr_t descriptor;
  NEED(cusparseCreateCoo(&descriptor, kRows, kColumns, int64_t(rows.size()), device_rows.get(), indices.get(), values.get(), CUSPARSE_INDEX_32I, CUSPARSE_INDEX_BASE_ZERO, CUDA_R_32F));
  Result result = multiply(descriptor, a);
  NEED(cusparseDestroySpMat(descriptor));
  return result;
}

Result spmm() {
  Csr a(kRows, kColumns, 3);
  auto b = whole_numbers<float>(kColumns * kWide, 4);
  DeviceCsr device(a);
  DeviceArray<float> db(b), dc(kRows * kWide);
  cusparseDnMatDescr_t mb, mc;
  size_t room = 0;
  NEED(cusparseCreateDnMat(&mb, kColumns, kWide, kWide, db.get(), CUDA_R_32F, CUSPARSE_ORDER_ROW));
  NEED(cusparseCreateDnMat(&mc, kRows, kWide, kWide, dc.get(), CUDA_R_32F, CUSPARSE_ORDER_ROW));
  auto plain = CUSPARSE_OPERATION_NON_TRANSPOSE;
  NEED(cusparseSpMM_bufferSize(g_sparse, plain, plain, &kOne, device.descriptor, mb, &kZero, mc, CUDA_R_32F, CUSPARSE_SPMM_ALG_DEFAULT, &room));
  DeviceArray<char> buffer(room + 1);
  NEED(cusparseSpMM(g_sparse, plain, plain, &kOne, device.descriptor, mb, &kZero, mc, CUDA_R_32F, CUSPARSE_SPMM_ALG_DEFAULT, buffer.get()));
  auto got = dc.host();
  cusparseDestroyDnMat(mb), cusparseDestroyDnMat(mc);
  std::vector<double> wanted(kRows * kWide);
  for (int i = 0; i < kRows; i++)
    for (int at = a.offsets[i]; at < a.offsets[i + 1]; at++)
      for (int j = 0; j < kWide; j++) wanted[i * kWide + j] += double(a.values[at]) * b[a.indices[at] * kWide + j];
  return {close(got, wanted), hash_of(got)};
}

Result spgemm() {
  Csr a(60, 50, 5), b(50, 40, 6);
  DeviceCsr da(a), db(b);
  cusparseSpMatDescr_t c;
  cusparseSpGEMMDescr_t work;
  DeviceArray<int> offsets(61);
  auto plain = CUSPARSE_OPERATION_NON_TRANSPOSE;
  auto algorithm = CUSPARSE_SPGEMM_DEFAULT;
  size_t room1 = 0, room2 = 0;
  NEED(cusparseCreateCsr(&c, 60, 40, 0, offsets.get(), nullptr, nullptr, CUSPARSE_INDEX_32I, CUSPARSE_INDEX_32I, CUSPARSE_INDEX_BASE_ZERO, CUDA_R_32F));
  NEED(cusparseSpGEMM_createDescr(&work));
  NEED(cusparseSpGEMM_workEstimation(g_sparse, plain, plain, &kOne, da.descriptor, db.descriptor, &kZero, c, CUDA_R_32F, algorithm, work, &room1, nullptr));
  DeviceArray<char> buffer1(room1 + 1);
  NEED(cusparseSpGEMM_workEstimation(g_sparse, plain, plain, &kOne, da.descriptor, db.descriptor, &kZero, c, CUDA_R_32F, algorithm, work, &room1, buffer1.get()));
  NEED(cusparseSpGEMM_compute(g_sparse, plain, plain, &kOne, da.descriptor, db.descriptor, &kZero, c, CUDA_R_32F, algorithm, work, &room2, nullptr));
  DeviceArray<char> buffer2(room2 + 1);
  NEED(cusparseSpGEMM_compute(g_sparse, plain, plain, &kOne, da.descriptor, db.descriptor, &kZero, c, CUDA_R_32F, algorithm, work, &room2, buffer2.get()));
  int64_t rows, columns, entries;
  NEED(cusparseSpMatGetSize(c, &rows, &columns, &entries));
  DeviceArray<int> indices(entries);
  DeviceArray<float> values(entries);
  NEED(cusparseCsrSetPointers(c, offsets.get(), indices.get(), values.get()));
  NEED(cusparseSpGEMM_copy(g_sparse, plain, plain, &kOne, da.descriptor, db.descriptor, &kZero, c, CUDA_R_32F, algorithm, work));
  NEED(cusparseSpGEMM_destroyDescr(work));
  NEED(cusparseDestroySpMat(c));
  auto at = offsets.host();
  auto index = indices.host();
  auto value = values.host(), left = a.dense(), right = b.dense();
  std::vector<float> full(60 * 40);
  std::vector<double> wanted(60 * 40);
  for (int i = 0; i < 60; i++)
    for (int k = at[i]; k < at[i + 1]; k++) full[i * 40 + index[k]] = value[k];
  for (int i = 0; i < 60; i++)
    for (int l = 0; l < 50; l++)
      for (int j = 0; j < 40; j++) wanted[i * 40 + j] += double(left[i * 50 + l]) * right[l * 40 + j];
  return {close(full, wanted), hash_of(full)};
}

Result spsv() {  // L x = L 1 has the solution of ones
  constexpr int kSize = 100;
  Csr a(kSize, kSize, 7);
  Csr lower(0, 0, 0);
  lower.rows = lower.columns = kSize;
  std::vector<float> b(kSize);
  for (int i = 0; i < kSize; i++) {
    for (int at = a.offsets[i]; at < a.offsets[i + 1] && a.indices[at] < i; at++) lower.indices.push_back(a.indices[at]), lower.values.push_back(a.values[at] * 0.125f);
    lower.indices.push_back(i), lower.values.push_back(8);
    lower.offsets.push_back(int(lower.indices.size()));
    for (int at = lower.offsets[i]; at < lower.offsets[i + 1]; at++) b[i] += lower.values[at];
  }
  DeviceCsr device(lower);
  Vector db(b), dx(std::vector<float>(kSize, 0));
  cusparseFillMode_t fill = CUSPARSE_FILL_MODE_LOWER;
  cusparseDiagType_t diagonal = CUSPARSE_DIAG_TYPE_NON_UNIT;
  NEED(cusparseSpMatSetAttribute(device.descriptor, CUSPARSE_SPMAT_FILL_MODE, &fill, sizeof fill));
  NEED(cusparseSpMatSetAttribute(device.descriptor, CUSPARSE_SPMAT_DIAG_TYPE, &diagonal, sizeof diagonal));
  cusparseSpSVDescr_t work;
  size_t room = 0;
  auto plain = CUSPARSE_OPERATION_NON_TRANSPOSE;
  NEED(cusparseSpSV_createDescr(&work));
  NEED(cusparseSpSV_bufferSize(g_sparse, plain, &kOne, device.descriptor, db.descriptor, dx.descriptor, CUDA_R_32F, CUSPARSE_SPSV_ALG_DEFAULT, work, &room));
  DeviceArray<char> buffer(room + 1);
  NEED(cusparseSpSV_analysis(g_sparse, plain, &kOne, device.descriptor, db.descriptor, dx.descriptor, CUDA_R_32F, CUSPARSE_SPSV_ALG_DEFAULT, work, buffer.get()));
  NEED(cusparseSpSV_solve(g_sparse, plain, &kOne, device.descriptor, db.descriptor, dx.descriptor, CUDA_R_32F, CUSPARSE_SPSV_ALG_DEFAULT, work));
  auto x = dx.values.host();
  NEED(cusparseSpSV_destroyDescr(work));
  return {close(x, std::vector<double>(kSize, 1), 1e-3), hash_of(x)};
}

Result dense_to_sparse() {
  Csr a(kRows, kColumns, 8);
  DeviceArray<float> full(a.dense());
  DeviceArray<int> offsets(kRows + 1);
  cusparseDnMatDescr_t dense;
  cusparseSpMatDescr_t sparse;
  size_t room = 0;
  int64_t rows, columns, entries;
  NEED(cusparseCreateDnMat(&dense, kRows, kColumns, kColumns, full.get(), CUDA_R_32F, CUSPARSE_ORDER_ROW));
  NEED(cusparseCreateCsr(&sparse, kRows, kColumns, 0, offsets.get(), nullptr, nullptr, CUSPARSE_INDEX_32I, CUSPARSE_INDEX_32I, CUSPARSE_INDEX_BASE_ZERO, CUDA_R_32F));
  NEED(cusparseDenseToSparse_bufferSize(g_sparse, dense, sparse, CUSPARSE_DENSETOSPARSE_ALG_DEFAULT, &room));
  DeviceArray<char> buffer(room + 1);
  NEED(cusparseDenseToSparse_analysis(g_sparse, dense, sparse, CUSPARSE_DENSETOSPARSE_ALG_DEFAULT, buffer.get()));
  NEED(cusparseSpMatGetSize(sparse, &rows, &columns, &entries));
  DeviceArray<int> indices(entries);
  DeviceArray<float> values(entries);
  NEED(cusparseCsrSetPointers(sparse, offsets.get(), indices.get(), values.get()));
  NEED(cusparseDenseToSparse_convert(g_sparse, dense, sparse, CUSPARSE_DENSETOSPARSE_ALG_DEFAULT, buffer.get()));
  NEED(cusparseDestroySpMat(sparse));
  NEED(cusparseDestroyDnMat(dense));
  return {offsets.host() == a.offsets && indices.host() == a.indices && values.host() == a.values, hash_of(values.host())};
}

}  // namespace

int main() {
  run_case("create", [] { return NEED(cusparseCreate(&g_sparse)), Result{true}; });
  run_case("SpMV, csr", spmv_csr);
  run_case("SpMV, coo", spmv_coo);
  run_case("SpMM", spmm);
  run_case("SpGEMM", spgemm);
  run_case("SpSV", spsv);
  run_case("dense to sparse", dense_to_sparse);
  return cusparseDestroy(g_sparse);
}
