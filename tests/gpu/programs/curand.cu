// cuRAND: host generators by their moments, the sequence of a seed by its bits, the device's generators in a kernel.
#include <curand.h>
#include <curand_kernel.h>

#include "cases.h"

namespace {

constexpr int kCount = 60000;

bool has_moments(const std::vector<float>& values, double mean, double deviation) {
  double sum = 0, squares = 0;
  for (float value : values) sum += value, squares += double(value) * value;
  double average = sum / values.size();
  return std::fabs(average - mean) < 0.05 * (1 + std::fabs(mean)) && std::fabs(std::sqrt(squares / values.size() - average * average) - deviation) < 0.05 * (1 + deviation);
}

struct Generator {
  curandGenerator_t handle;
  explicit Generator(curandRngType_t type) {
    NEED(curandCreateGenerator(&handle, type));
    bool quasi = type >= CURAND_RNG_QUASI_DEFAULT;
    if (!quasi) NEED(curandSetPseudoRandomGeneratorSeed(handle, 42));
    if (quasi) NEED(curandSetQuasiRandomGeneratorDimensions(handle, 3));
  }
  ~Generator() { curandDestroyGenerator(handle); }
};

Result uniform(curandRngType_t type) {
  Generator generator(type);
  DeviceArray<float> values(kCount);
  NEED(curandGenerateUniform(generator.handle, values.get(), kCount));
  auto got = values.host();
  return {has_moments(got, 0.5, 0.288675), hash_of(got)};
}

Result normal() {
  Generator generator(CURAND_RNG_PSEUDO_PHILOX4_32_10);
  DeviceArray<float> values(kCount);
  NEED(curandGenerateNormal(generator.handle, values.get(), kCount, 3, 2));
  auto got = values.host();
  return {has_moments(got, 3, 2), hash_of(got)};
}

Result log_normal() {
  Generator generator(CURAND_RNG_PSEUDO_XORWOW);
  DeviceArray<float> values(kCount);
  NEED(curandGenerateLogNormal(generator.handle, values.get(), kCount, 0, 0.25f));
  auto got = values.host();
  return {has_moments(got, 1.0317, 0.262), hash_of(got)};
}

Result poisson_and_offset() {
  Generator generator(CURAND_RNG_PSEUDO_PHILOX4_32_10);
  DeviceArray<unsigned> counts(kCount), bits(16), later(16);
  NEED(curandGeneratePoisson(generator.handle, counts.get(), kCount, 9));
  NEED(curandSetGeneratorOffset(generator.handle, 0));
  NEED(curandGenerate(generator.handle, bits.get(), 16));
  NEED(curandSetGeneratorOffset(generator.handle, 0));
  NEED(curandGenerate(generator.handle, later.get(), 16));
  std::vector<float> values;
  for (unsigned count : counts.host()) values.push_back(float(count));
  return {has_moments(values, 9, 3) && bits.host() == later.host(), hash_of(values) ^ hash_of(bits.host())};
}

Result on_the_host() {
  curandGenerator_t generator;
  std::vector<float> values(kCount);
  NEED(curandCreateGeneratorHost(&generator, CURAND_RNG_PSEUDO_PHILOX4_32_10));
  NEED(curandSetPseudoRandomGeneratorSeed(generator, 42));
  NEED(curandGenerateUniform(generator, values.data(), kCount));
  NEED(curandDestroyGenerator(generator));
  return {has_moments(values, 0.5, 0.288675), hash_of(values)};
}

template <class State>
__global__ void draw(float* values, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  State state;
  curand_init(1234, i, 0, &state);
  if (i < count) values[i] = curand_normal(&state);
}

template <class State>
Result in_a_kernel() {
  DeviceArray<float> values(kCount);
  draw<State><<<(kCount + 255) / 256, 256>>>(values.get(), kCount);
  NEED(cudaGetLastError());
  auto got = values.host();
  return {has_moments(got, 0, 1), hash_of(got)};
}

}  // namespace

int main() {
  run_case("xorwow", [] { return uniform(CURAND_RNG_PSEUDO_XORWOW); });
  run_case("mrg32k3a", [] { return uniform(CURAND_RNG_PSEUDO_MRG32K3A); });
  run_case("mtgp32", [] { return uniform(CURAND_RNG_PSEUDO_MTGP32); });
  run_case("mt19937", [] { return uniform(CURAND_RNG_PSEUDO_MT19937); });
  run_case("philox", [] { return uniform(CURAND_RNG_PSEUDO_PHILOX4_32_10); });
  run_case("sobol", [] { return uniform(CURAND_RNG_QUASI_SOBOL32); });
  run_case("scrambled sobol", [] { return uniform(CURAND_RNG_QUASI_SCRAMBLED_SOBOL32); });
  run_case("normal", normal);
  run_case("log-normal", log_normal);
  run_case("poisson, and an offset set back", poisson_and_offset);
  run_case("generator on the host", on_the_host);
  run_case("philox in a kernel", in_a_kernel<curandStatePhilox4_32_10_t>);
  run_case("xorwow in a kernel", in_a_kernel<curandStateXORWOW_t>);
}
