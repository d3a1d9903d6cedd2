// cuBLASLt: the heuristic's choice for a product in several types, with epilogues.
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "cases.h"

namespace {

constexpr int kM = 128, kN = 96, kK = 64;
cublasLtHandle_t g_lt;

struct Types {
  cudaDataType in, out;
  cublasComputeType_t compute;
  cudaDataType scale;
};

// D = epilogue(A' B + bias): A is stored k x m, as fp8 and int8 demand.
template <class In, class Out>
std::vector<Out> multiply(const Types& types, const std::vector<In>& a, const std::vector<In>& b, cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT,
                          const Out* bias = nullptr, void* aux = nullptr) {
  DeviceArray<In> da(a), db(b);
  DeviceArray<Out> dd(kM * kN);
  DeviceArray<char> workspace(32 << 20);
  cublasLtMatmulDesc_t product;
  cublasLtMatrixLayout_t la, lb, ld;
  cublasLtMatmulPreference_t preference;
  cublasOperation_t transposed = CUBLAS_OP_T;
  size_t room = workspace.bytes();
  NEED(cublasLtMatmulDescCreate(&product, types.compute, types.scale));
  NEED(cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed));
  NEED(cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
  if (bias) NEED(cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
  if (aux) {
    int64_t leading = kM;
    NEED(cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux, sizeof aux));
    NEED(cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &leading, sizeof leading));
  }
  NEED(cublasLtMatrixLayoutCreate(&la, types.in, kK, kM, kK));
  NEED(cublasLtMatrixLayoutCreate(&lb, types.in, kK, kN, kK));
  NEED(cublasLtMatrixLayoutCreate(&ld, types.out, kM, kN, kM));
  NEED(cublasLtMatmulPreferenceCreate(&preference));
  NEED(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof room));
  cublasLtMatmulHeuristicResult_t best;
  int found = 0;
  NEED(cublasLtMatmulAlgoGetHeuristic(g_lt, product, la, lb, ld, ld, preference, 1, &best, &found));
  if (!found) throw Skipped{"no algorithm on this GPU"};
  float one = 1, zero = 0;
  int32_t one_int = 1, zero_int = 0;
  bool whole = types.scale == CUDA_R_32I;
  NEED(cublasLtMatmul(g_lt, product, whole ? (void*)&one_int : &one, da.get(), la, db.get(), lb, whole ? (void*)&zero_int : &zero, dd.get(), ld, dd.get(), ld,
                      &best.algo, workspace.get(), room, nullptr));
  auto result = dd.host();
  cublasLtMatmulPreferenceDestroy(preference);
  for (auto layout : {la, lb, ld}) cublasLtMatrixLayoutDestroy(layout);
  cublasLtMatmulDescDestroy(product);
  return result;
}

template <class T>
std::vector<T> transpose(const std::vector<T>& a) {  // k x m -> m x k
  std::vector<T> t(a.size());
  for (int i = 0; i < kM; i++)
    for (int l = 0; l < kK; l++) t[i + l * kM] = a[l + i * kK];
  return t;
}

template <class In, class Out>
Result plain(Types types) {
  auto a = whole_numbers<In>(kK * kM, 1), b = whole_numbers<In>(kK * kN, 2);
  auto d = multiply<In, Out>(types, a, b);
  return {close(d, product(transpose(a), b, kM, kN, kK)), hash_of(d)};
}

double gelu(double x) { return 0.5 * x * (1 + std::tanh(0.7978845608 * (x + 0.044715 * x * x * x))); }

Result with_epilogue(cublasLtEpilogue_t epilogue, bool has_bias, bool has_aux, const std::function<double(double)>& function) {
  const Types types{CUDA_R_16F, CUDA_R_16F, CUBLAS_COMPUTE_32F, CUDA_R_32F};
  auto a = whole_numbers<__half>(kK * kM, 3, 3), b = whole_numbers<__half>(kK * kN, 4, 3), bias = whole_numbers<__half>(kM, 5);
  DeviceArray<__half> device_bias(bias), aux(kM * kN);
  auto d = multiply<__half, __half>(types, a, b, epilogue, has_bias ? device_bias.get() : nullptr, has_aux ? aux.get() : nullptr);
  auto wanted = product(transpose(a), b, kM, kN, kK);
  for (size_t i = 0; i < wanted.size(); i++) wanted[i] = function(wanted[i] + (has_bias ? double(float(bias[i % kM])) : 0));
  return {close(d, wanted, 2e-3), hash_of(d) ^ hash_of(aux.host())};
}

}  // namespace

int main() {
  run_case("create", [] { return NEED(cublasLtCreate(&g_lt)), Result{true}; });
  run_case("float", [] { return plain<float, float>({CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F, CUDA_R_32F}); });
  run_case("tf32", [] { return plain<float, float>({CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32, CUDA_R_32F}); });
  run_case("half", [] { return plain<__half, __half>({CUDA_R_16F, CUDA_R_16F, CUBLAS_COMPUTE_32F, CUDA_R_32F}); });
  run_case("bfloat16 into float", [] { return plain<__nv_bfloat16, float>({CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_32F, CUDA_R_32F}); });
  run_case("fp8 e4m3 into float", [] { return plain<__nv_fp8_e4m3, float>({CUDA_R_8F_E4M3, CUDA_R_32F, CUBLAS_COMPUTE_32F, CUDA_R_32F}); });
  run_case("int8 into int32", [] { return plain<int8_t, int32_t>({CUDA_R_8I, CUDA_R_32I, CUBLAS_COMPUTE_32I, CUDA_R_32I}); });
  run_case("bias", [] { return with_epilogue(CUBLASLT_EPILOGUE_BIAS, true, false, [](double x) { return x; }); });
  run_case("relu", [] { return with_epilogue(CUBLASLT_EPILOGUE_RELU, false, false, [](double x) { return x > 0 ? x : 0; }); });
  run_case("bias and gelu", [] { return with_epilogue(CUBLASLT_EPILOGUE_GELU_BIAS, true, false, gelu); });
  run_case("bias, gelu and its input kept", [] { return with_epilogue(CUBLASLT_EPILOGUE_GELU_AUX_BIAS, true, true, gelu); });
  return cublasLtDestroy(g_lt);
}
