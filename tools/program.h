// Running a program as if the person had started it: same terminal, same process group, signals and job control pass.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace bf::tools {

// Exit statuses as shells use them.
inline constexpr int kTryAgain = 75;  // EX_TEMPFAIL of sysexits.h
inline constexpr int kBackfieldFailed = 125;
inline constexpr int kCannotExecute = 126;
inline constexpr int kNotFound = 127;

// 0 if the command can be found on the PATH and executed, else kNotFound or kCannotExecute.
int check_program(const std::string& command);

enum class Heard {
  kNothing,    // there is no more for now
  kSomething,  // there may be more at once
  kEnd,        // nothing is to come
};

// Runs `command` with the present environment until it ends and returns its exit status, 128 + the signal that ended
// it, or kCannotExecute / kNotFound. Meanwhile, `listen` runs when `watched` (a socket) has something to be read, or was
// hung up; it must not wait. If this process dies, the program gets SIGTERM.
int run_program(const std::vector<std::string>& command, int watched, const std::function<Heard()>& listen);

}  // namespace bf::tools
