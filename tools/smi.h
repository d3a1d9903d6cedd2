// `bf smi`: the GPUs as nvidia-smi would show them, where there is no nvidia-smi. In a program's environment under
// bfrun the lease's own GPUs and processes; else every GPU of the pool, without anybody's processes.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/survey.h"

namespace bf::tools {

// More GPUs than this: one line per server, so that a pool of 20 servers with 8 GPUs each is one screen.
inline constexpr size_t kGpusInDetail = 32;

// The pool as text for people, and for programs.
std::string pool_text(const std::vector<Answer>& answers, bool coloured);
nlohmann::json pool_json(const std::vector<Answer>& answers);

// True in the environment that bfrun makes.
bool under_lease();
// Prints the lease's GPUs. The exit status.
int lease_smi(bool as_json, bool coloured);

}  // namespace bf::tools
