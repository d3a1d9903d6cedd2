// What most files include, for -DBF_PRECOMPILE=ON. No file may rely on it: other builds are made without.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/log.h"

// Clang reads of these what a file uses, and has instantiated their templates once and for all. GCC does that again in every
// file: half a second for nlohmann/json.hpp alone.
#ifdef __clang__
#include <nlohmann/json.hpp>
#if __has_include(<gtest/gtest.h>)
#include <gtest/gtest.h>
#endif

#include "api/remote.h"
#include "client/contexts.h"
#include "client/state.h"
#include "server/daemon/daemon.h"
#endif
