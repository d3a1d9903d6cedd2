// CUB and Thrust: device-wide algorithms against the standard library's.
#include <thrust/device_vector.h>
#include <thrust/reduce.h>
#include <thrust/scan.h>
#include <thrust/set_operations.h>
#include <thrust/sort.h>
#include <thrust/transform_reduce.h>
#include <thrust/unique.h>

#include <algorithm>
#include <cub/cub.cuh>
#include <map>
#include <numeric>

#include "cases.h"

namespace {

constexpr int kCount = 200000;

// Calls a CUB algorithm twice, as it asks for: once for the size of its workspace.
template <class Algorithm>
void with_workspace(const Algorithm& algorithm) {
  size_t bytes = 0;
  NEED(algorithm(nullptr, bytes));
  DeviceArray<char> workspace(bytes + 1);
  NEED(algorithm(workspace.get(), bytes));
  NEED(cudaDeviceSynchronize());
}

Result radix_sort_pairs() {
  auto keys = whole_numbers<int>(kCount, 1, 251);
  std::vector<int> values(kCount);
  std::iota(values.begin(), values.end(), 0);
  DeviceArray<int> keys_in(keys), keys_out(kCount), values_in(values), values_out(kCount);
  with_workspace([&](void* work, size_t& bytes) {
    return cub::DeviceRadixSort::SortPairs(work, bytes, keys_in.get(), keys_out.get(), values_in.get(), values_out.get(), kCount);
  });
  std::stable_sort(values.begin(), values.end(), [&](int a, int b) { return keys[a] < keys[b]; });
  auto got = values_out.host();
  return {got == values, hash_of(got)};
}

Result merge_sort() {
  auto keys = whole_numbers<float>(kCount, 2, 255);
  DeviceArray<float> device(keys);
  with_workspace([&](void* work, size_t& bytes) {
    return cub::DeviceMergeSort::SortKeys(work, bytes, device.get(), kCount, [] __device__(float a, float b) { return a > b; });
  });
  std::sort(keys.begin(), keys.end(), std::greater<>());
  auto got = device.host();
  return {got == keys, hash_of(got)};
}

Result float_sum() {  // the order of the additions is the algorithm's own: the same bits again
  auto numbers = whole_numbers<float>(kCount, 3, 201);
  double wanted = 0;
  for (auto& number : numbers) number *= 0.0173f, wanted += number;
  DeviceArray<float> in(numbers), out(1);
  with_workspace([&](void* work, size_t& bytes) { return cub::DeviceReduce::Sum(work, bytes, in.get(), out.get(), kCount); });
  auto got = out.host();
  return {std::fabs(got[0] - wanted) < 1, hash_of(got)};
}

Result scan() {
  auto numbers = whole_numbers<int>(kCount, 4);
  DeviceArray<int> in(numbers), out(kCount);
  with_workspace([&](void* work, size_t& bytes) { return cub::DeviceScan::InclusiveSum(work, bytes, in.get(), out.get(), kCount); });
  std::partial_sum(numbers.begin(), numbers.end(), numbers.begin());
  auto got = out.host();
  return {got == numbers, hash_of(got)};
}

Result select_some() {
  auto numbers = whole_numbers<int>(kCount, 5, 101);
  DeviceArray<int> in(numbers), out(kCount), count(1);
  with_workspace([&](void* work, size_t& bytes) {
    return cub::DeviceSelect::If(work, bytes, in.get(), out.get(), count.get(), kCount, [] __device__(int x) { return x % 3 == 0; });
  });
  numbers.erase(std::remove_if(numbers.begin(), numbers.end(), [](int x) { return x % 3 != 0; }), numbers.end());
  auto got = out.host();
  got.resize(count.host()[0]);
  return {got == numbers, hash_of(got)};
}

Result histogram() {
  auto numbers = whole_numbers<int>(kCount, 6, 100);
  DeviceArray<int> in(numbers), out(10);
  with_workspace([&](void* work, size_t& bytes) { return cub::DeviceHistogram::HistogramEven(work, bytes, in.get(), out.get(), 11, -50, 50, kCount); });
  std::vector<int> wanted(10);
  for (int number : numbers) wanted[(number + 50) / 10]++;
  auto got = out.host();
  return {got == wanted, hash_of(got)};
}

Result segmented_reduce() {
  constexpr int kSegments = 100, kLength = kCount / kSegments;
  auto numbers = whole_numbers<int>(kCount, 7);
  std::vector<int> offsets, wanted(kSegments);
  for (int i = 0; i <= kSegments; i++) offsets.push_back(i * kLength);
  DeviceArray<int> in(numbers), starts(offsets), out(kSegments);
  with_workspace([&](void* work, size_t& bytes) { return cub::DeviceSegmentedReduce::Sum(work, bytes, in.get(), out.get(), kSegments, starts.get(), starts.get() + 1); });
  for (int i = 0; i < kCount; i++) wanted[i / kLength] += numbers[i];
  auto got = out.host();
  return {got == wanted, hash_of(got)};
}

Result reduce_by_key() {
  auto keys = whole_numbers<int>(kCount, 8, 100), values = whole_numbers<int>(kCount, 9);
  std::map<int, int> wanted;
  for (int i = 0; i < kCount; i++) wanted[keys[i]] += values[i];
  thrust::device_vector<int> dk(keys), dv(values), ok(kCount), ov(kCount);
  thrust::sort_by_key(dk.begin(), dk.end(), dv.begin());
  auto ends = thrust::reduce_by_key(dk.begin(), dk.end(), dv.begin(), ok.begin(), ov.begin());
  std::vector<int> got_keys(ends.first - ok.begin()), got(got_keys.size());
  thrust::copy(ok.begin(), ends.first, got_keys.begin());
  thrust::copy(ov.begin(), ends.second, got.begin());
  bool right = got.size() == wanted.size();
  for (size_t i = 0; i < got.size(); i++) right &= wanted[got_keys[i]] == got[i];
  return {right, hash_of(got)};
}

Result unique_and_sets() {
  auto a = whole_numbers<int>(kCount, 10, 250), b = whole_numbers<int>(kCount / 2, 11, 120);
  thrust::device_vector<int> da(a), db(b), both(kCount);
  for (auto* values : {&da, &db}) {
    thrust::sort(values->begin(), values->end());
    values->erase(thrust::unique(values->begin(), values->end()), values->end());
  }
  both.erase(thrust::set_difference(da.begin(), da.end(), db.begin(), db.end(), both.begin()), both.end());
  std::vector<int> got(both.size()), wanted;
  thrust::copy(both.begin(), both.end(), got.begin());
  for (auto* values : {&a, &b}) {
    std::sort(values->begin(), values->end());
    values->erase(std::unique(values->begin(), values->end()), values->end());
  }
  std::set_difference(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(wanted));
  return {got == wanted, hash_of(got)};
}

struct Square {
  __host__ __device__ long long operator()(int x) const { return static_cast<long long>(x) * x; }
};

Result transform_reduce() {
  auto numbers = whole_numbers<int>(kCount, 12, 201);
  thrust::device_vector<int> device(numbers);
  long long got = thrust::transform_reduce(device.begin(), device.end(), Square(), 0LL, thrust::plus<long long>()), wanted = 0;
  for (int number : numbers) wanted += Square()(number);
  return {got == wanted, uint64_t(got)};
}

}  // namespace

int main() {
  run_case("radix sort of pairs", radix_sort_pairs);
  run_case("merge sort", merge_sort);
  run_case("sum of floats", float_sum);
  run_case("scan", scan);
  run_case("select", select_some);
  run_case("histogram", histogram);
  run_case("segmented reduction", segmented_reduce);
  run_case("reduction by key", reduce_by_key);
  run_case("unique and set difference", unique_and_sets);
  run_case("transformed reduction", transform_reduce);
}
