// cuFFT: each transform against its definition or its inverse.
#include <cufft.h>

#include "cases.h"

namespace {

constexpr double kTau = 6.283185307179586;

struct Plan {
  cufftHandle handle = 0;
  ~Plan() { cufftDestroy(handle); }
};

// A wave of frequency f becomes one peak of height n at f.
Result one_dimension() {
  constexpr int kN = 1000, kFrequency = 37;
  std::vector<cufftComplex> wave(kN);
  for (int i = 0; i < kN; i++) wave[i] = {float(std::cos(kTau * kFrequency * i / kN)), float(std::sin(kTau * kFrequency * i / kN))};
  DeviceArray<cufftComplex> data(wave);
  Plan plan;
  NEED(cufftPlan1d(&plan.handle, kN, CUFFT_C2C, 1));
  NEED(cufftExecC2C(plan.handle, data.get(), data.get(), CUFFT_FORWARD));
  auto got = data.host();
  bool right = true;
  for (int i = 0; i < kN; i++) right &= std::fabs(got[i].x - (i == kFrequency ? kN : 0)) < 0.05 && std::fabs(got[i].y) < 0.05;
  return {right, hash_of(got)};
}

// There and back again gives n times the input.
template <class T>
bool returned(const std::vector<T>& before, const std::vector<T>& after, double factor) {
  const auto* a = reinterpret_cast<const decltype(T::x)*>(before.data());
  const auto* b = reinterpret_cast<const decltype(T::x)*>(after.data());
  for (size_t i = 0; i < 2 * before.size(); i++)
    if (std::fabs(double(a[i]) * factor - b[i]) > 1e-4 * factor) return false;
  return true;
}

std::vector<cufftComplex> numbers(size_t count) {
  auto parts = whole_numbers<float>(2 * count, 1);
  std::vector<cufftComplex> values(count);
  for (size_t i = 0; i < count; i++) values[i] = {parts[2 * i], parts[2 * i + 1]};
  return values;
}

Result there_and_back(std::vector<int> shape, int batch) {
  int size = 1;
  for (int side : shape) size *= side;
  auto input = numbers(size_t(size) * batch);
  DeviceArray<cufftComplex> data(input), middle(input.size());
  Plan plan;
  NEED(cufftPlanMany(&plan.handle, int(shape.size()), shape.data(), nullptr, 1, size, nullptr, 1, size, CUFFT_C2C, batch));
  NEED(cufftExecC2C(plan.handle, data.get(), middle.get(), CUFFT_FORWARD));
  NEED(cufftExecC2C(plan.handle, middle.get(), data.get(), CUFFT_INVERSE));
  return {returned(input, data.host(), size), hash_of(middle.host())};
}

Result real() {
  constexpr int kRows = 60, kColumns = 128;
  auto input = whole_numbers<float>(kRows * kColumns, 2);
  DeviceArray<float> data(input);
  DeviceArray<cufftComplex> middle(kRows * (kColumns / 2 + 1));
  Plan there, back;
  NEED(cufftPlan2d(&there.handle, kRows, kColumns, CUFFT_R2C));
  NEED(cufftPlan2d(&back.handle, kRows, kColumns, CUFFT_C2R));
  NEED(cufftExecR2C(there.handle, data.get(), middle.get()));
  auto spectrum = middle.host();
  NEED(cufftExecC2R(back.handle, middle.get(), data.get()));
  auto got = data.host();
  double sum = 0;
  bool right = true;
  for (size_t i = 0; i < input.size(); i++) sum += input[i], right &= std::fabs(got[i] - kRows * kColumns * input[i]) < 1;
  return {right && std::fabs(spectrum[0].x - sum) < 0.01, hash_of(spectrum)};
}

Result in_double() {
  constexpr int kN = 729;
  std::vector<cufftDoubleComplex> input;
  for (auto value : numbers(kN)) input.push_back({value.x, value.y});
  DeviceArray<cufftDoubleComplex> data(input), middle(kN);
  Plan plan;
  NEED(cufftPlan1d(&plan.handle, kN, CUFFT_Z2Z, 1));
  NEED(cufftExecZ2Z(plan.handle, data.get(), middle.get(), CUFFT_FORWARD));
  NEED(cufftExecZ2Z(plan.handle, middle.get(), data.get(), CUFFT_INVERSE));
  return {returned(input, data.host(), kN), hash_of(middle.host())};
}

Result own_stream_and_work_area() {
  constexpr int kN = 4099;  // a prime: Bluestein's algorithm
  auto input = numbers(kN);
  DeviceArray<cufftComplex> data(input);
  Plan plan;
  size_t bytes = 0;
  cudaStream_t stream;
  NEED(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  NEED(cufftCreate(&plan.handle));
  NEED(cufftSetAutoAllocation(plan.handle, 0));
  NEED(cufftMakePlan1d(plan.handle, kN, CUFFT_C2C, 1, &bytes));
  DeviceArray<char> area(bytes + 1);
  NEED(cufftSetWorkArea(plan.handle, area.get()));
  NEED(cufftSetStream(plan.handle, stream));
  NEED(cufftExecC2C(plan.handle, data.get(), data.get(), CUFFT_FORWARD));
  NEED(cudaStreamSynchronize(stream));
  auto middle = data.host();
  NEED(cufftExecC2C(plan.handle, data.get(), data.get(), CUFFT_INVERSE));
  NEED(cudaStreamSynchronize(stream));
  NEED(cudaStreamDestroy(stream));
  return {returned(input, data.host(), kN), hash_of(middle)};
}

}  // namespace

int main() {
  run_case("1D, complex", one_dimension);
  run_case("2D there and back", [] { return there_and_back({48, 100}, 1); });
  run_case("3D there and back", [] { return there_and_back({16, 20, 24}, 1); });
  run_case("batch of 64", [] { return there_and_back({256}, 64); });
  run_case("real to complex and back", real);
  run_case("in double", in_double);
  run_case("prime length, own stream and work area", own_stream_and_work_area);
}
