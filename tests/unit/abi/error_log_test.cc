// The error log by cuLogs*: what it remembers, iterators, too small buffers, files, callbacks.
#include "proto/abi/error_log.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <string>

namespace bf::abi {
namespace {

std::string dump(CUlogIterator* iterator, size_t room = 25600) {
  std::string text(room, 'x');
  size_t size = room;
  EXPECT_EQ(dump_log_to_memory(iterator, text.data(), &size, 0), CUDA_SUCCESS);
  EXPECT_EQ(text[size], 0);
  return text.substr(0, size);
}

TEST(ErrorLog, NamesTheCallAndTheError) {
  CUlogIterator from;
  ASSERT_EQ(current_log(&from, 0), CUDA_SUCCESS);
  log_error("cuMemAlloc_v2", CUDA_ERROR_OUT_OF_MEMORY);
  log_error("cuMemFree_v2", CUDA_ERROR_INVALID_VALUE);
  const std::string text = dump(&from);
  EXPECT_NE(text.find("[CUDA][E] cuMemAlloc_v2 returned CUDA_ERROR_OUT_OF_MEMORY: out of memory\n"), std::string::npos) << text;
  EXPECT_LT(text.find("cuMemAlloc_v2"), text.find("cuMemFree_v2"));
  EXPECT_EQ(dump(&from), "") << "the iterator moved behind them";
}

TEST(ErrorLog, KeepsTheNewest) {
  for (int i = 0; i < 1000; i++) log_error(i < 999 ? "cuMemFree_v2" : "cuMemAlloc_v2", CUDA_ERROR_INVALID_VALUE);
  const std::string all = dump(nullptr);
  EXPECT_TRUE(all.starts_with("[older messages are gone]\n")) << all.substr(0, 100);
  EXPECT_NE(all.find("cuMemAlloc_v2"), std::string::npos);
  const std::string some = dump(nullptr, 300);
  EXPECT_TRUE(some.starts_with("[older messages are gone]\n"));
  EXPECT_NE(some.find("cuMemAlloc_v2"), std::string::npos) << "the newest is there for certain";
  char tiny[8];
  size_t size = sizeof tiny;
  EXPECT_EQ(dump_log_to_memory(nullptr, tiny, &size, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(size, 0u);
  CUlogIterator foreign = 0xdeadbeef;
  EXPECT_NE(dump(&foreign).find("cuMemAlloc_v2"), std::string::npos);
}

TEST(ErrorLog, WritesFiles) {
  CUlogIterator from;
  ASSERT_EQ(current_log(&from, 0), CUDA_SUCCESS);
  log_error("cuCtxSynchronize", CUDA_ERROR_ILLEGAL_ADDRESS);
  CUlogIterator again = from;
  const std::string path = testing::TempDir() + "error_log";
  ASSERT_EQ(dump_log_to_file(&again, path.c_str(), 0), CUDA_SUCCESS);
  std::FILE* file = std::fopen(path.c_str(), "r");
  ASSERT_NE(file, nullptr);
  char text[1000];
  const size_t size = std::fread(text, 1, sizeof text, file);
  std::fclose(file);
  std::remove(path.c_str());
  EXPECT_EQ(std::string(text, size), dump(&from));
  EXPECT_EQ(dump_log_to_file(nullptr, "/no/such/folder/log", 0), CUDA_ERROR_INVALID_VALUE);
}

TEST(ErrorLog, CallbacksHearOfEach) {
  std::string heard;
  const CUlogsCallback callback = [](void* data, CUlogLevel level, char* message, size_t length) {
    EXPECT_EQ(level, CU_LOG_LEVEL_ERROR);
    static_cast<std::string*>(data)->append(message, length);
  };
  CUlogsCallbackHandle handle;
  ASSERT_EQ(register_log_callback(callback, &heard, &handle), CUDA_SUCCESS);
  CUlogIterator from;
  ASSERT_EQ(current_log(&from, 0), CUDA_SUCCESS);
  log_error("cuStreamQuery", CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(heard, dump(&from));
  ASSERT_EQ(unregister_log_callback(handle), CUDA_SUCCESS);
  EXPECT_EQ(unregister_log_callback(handle), CUDA_ERROR_INVALID_VALUE);
  heard.clear();
  log_error("cuStreamQuery", CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(heard, "");
}

TEST(ErrorLog, RefusesWhatItMust) {
  CUlogsCallbackHandle handle;
  CUlogIterator iterator;
  EXPECT_EQ(register_log_callback(nullptr, nullptr, &handle), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(current_log(nullptr, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(current_log(&iterator, 1), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(dump_log_to_file(nullptr, nullptr, 0), CUDA_ERROR_INVALID_VALUE);
  size_t none = 0;
  char text[1];
  EXPECT_EQ(dump_log_to_memory(nullptr, text, &none, 0), CUDA_ERROR_INVALID_VALUE);
}

}  // namespace
}  // namespace bf::abi
