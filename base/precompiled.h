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

#ifdef __clang__  // instantiates its templates once and for all; GCC would do it in every file, for half a second each
#include <nlohmann/json.hpp>
#endif
