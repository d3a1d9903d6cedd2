// cuGetProcAddress against the map measured on driver 580.159.04, row by row, and the rules between the rows.
#include "proto/abi/procaddr.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace bf::abi {
namespace {

constexpr int kDriver = 13000;

struct Row {
  std::string symbol;
  cuuint64_t flags = 0;
  int from_version = 0;
  std::string target;  // a symbol, st1 or st2
};

std::vector<Row> measured() {
  std::ifstream in(BF_PROCADDR_CSV);
  std::vector<Row> rows;
  std::string line;
  std::getline(in, line);
  while (std::getline(in, line)) {
    std::istringstream words(line);
    std::string flags, version;
    Row row;
    std::getline(words, row.symbol, ',');
    std::getline(words, flags, ',');
    std::getline(words, version, ',');
    std::getline(words, row.target, ',');
    if (!row.target.empty() && row.target.back() == '\r') row.target.pop_back();
    row.flags = std::stoull(flags);
    row.from_version = std::stoi(version);
    rows.push_back(row);
  }
  return rows;
}

void expect(const Row& row, int version, cuuint64_t flags) {
  SCOPED_TRACE(row.symbol + " version " + std::to_string(version) + " flags " + std::to_string(flags) + " -> " +
               row.target);
  void* const untouched = &const_cast<Row&>(row);
  void* pfn = untouched;
  auto status = CUdriverProcAddressQueryResult(99);
  const CUresult v2 = proc_address_v2(row.symbol.c_str(), &pfn, version, flags, &status, kDriver);
  void* old = untouched;
  const CUresult v1 = proc_address_v1(row.symbol.c_str(), &old, version, flags, kDriver);
  ASSERT_EQ(v2, CUDA_SUCCESS);
  if (row.target == "st1" || row.target == "st2") {
    ASSERT_EQ(status,
              row.target == "st1" ? CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND : CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
    ASSERT_EQ(pfn, nullptr);
    ASSERT_EQ(v1, CUDA_ERROR_NOT_FOUND);
    ASSERT_EQ(old, untouched);
    return;
  }
  void* const symbol = dlsym(RTLD_DEFAULT, row.target.c_str());
  ASSERT_NE(symbol, nullptr);
  ASSERT_EQ(status, CU_GET_PROC_ADDRESS_SUCCESS);
  ASSERT_EQ(pfn, symbol);
  ASSERT_EQ(v1, CUDA_SUCCESS);
  ASSERT_EQ(old, symbol);
}

TEST(ProcAddress, EveryMeasuredRow) {
  const auto rows = measured();
  ASSERT_GT(rows.size(), 3700u);
  for (const Row& row : rows) {
    expect(row, row.from_version, row.flags);
    if (HasFatalFailure()) return;
  }
}

// A row holds until the next one of its symbol and flags, and the last one for -1 and the driver's own version.
TEST(ProcAddress, VersionsBetweenRows) {
  std::map<std::pair<std::string, cuuint64_t>, std::vector<Row>> groups;
  for (const Row& row : measured()) groups[{row.symbol, row.flags}].push_back(row);
  ASSERT_GT(groups.size(), 1000u);
  for (auto& [key, rows] : groups) {
    std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.from_version < b.from_version; });
    for (size_t i = 0; i < rows.size(); i++) {
      const int last = i + 1 < rows.size() ? rows[i + 1].from_version - 1 : kDriver;
      expect(rows[i], last, key.second);
      expect(rows[i], (rows[i].from_version + last) / 2, key.second);
      if (HasFatalFailure()) return;
    }
    expect(rows.back(), -1, key.second);
    if (key.second == 2) expect(rows.back(), kDriver, 3);
    if (HasFatalFailure()) return;
  }
}

TEST(ProcAddress, MissesLeaveWhatTheDriverLeaves) {
  for (const char* name : {"", "cuNoSuchFunction", "cuMemAlloc_v2", "cuMemcpyAsync_ptsz", "cuGetProcAddress_v2",
                           "cumemalloc", "cuMemAllo"}) {
    Row row{name, 0, 0, "st1"};
    expect(row, kDriver, 0);
    expect(row, 0, 2);
  }
  expect({"cuInit", 0, 0, "st2"}, 0, 0);
}

TEST(ProcAddress, InvalidArguments) {
  void* pfn = &pfn;
  auto status = CUdriverProcAddressQueryResult(99);
  EXPECT_EQ(proc_address_v2("cuInit", &pfn, kDriver + 10, 0, &status, kDriver), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(proc_address_v2("cuInit", &pfn, kDriver, 4, &status, kDriver), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(proc_address_v1("cuInit", &pfn, kDriver + 1, 0, kDriver), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(proc_address_v1("cuInit", &pfn, kDriver, 8, kDriver), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(pfn, &pfn);
  EXPECT_EQ(int(status), 99);
  EXPECT_EQ(proc_address_v2("cuInit", &pfn, kDriver, 0, nullptr, kDriver), CUDA_SUCCESS);
}

}  // namespace
}  // namespace bf::abi
