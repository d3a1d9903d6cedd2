// BF_TRACE=FILE: the file that the program's processes append their traces to (client/trace.h). It is made, named by its
// whole path, and ended around the run of the program.
#pragma once

#include "base/fd.h"
#include "base/status.h"

namespace bf::tools {

class TraceFile {
 public:
  // Nothing to do without BF_TRACE.
  static Result<TraceFile> begin();
  void end();

 private:
  Fd file_;
};

}  // namespace bf::tools
