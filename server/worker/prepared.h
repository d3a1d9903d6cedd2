// A driver made ready for a session before its client comes (a warm worker), or at its first need: primary contexts,
// pinned staging, fences. Outlives the session's parts that use it.
#pragma once

#include <vector>

#include "server/worker/fences.h"
#include "server/worker/staging.h"

namespace bf::server {

struct Prepared {
  // `gpudirect`: staging in the GPU's memory, too (device_staging.h).
  explicit Prepared(const DriverApi& driver, bool gpudirect = false)
      : driver(driver), fences(driver), staging(driver, gpudirect) {}

  // Looks at the devices; no context is made. Once.
  CUresult start();
  // Retains every visible device's primary context, pins staging and runs a first memset. After start(). The
  // result of the first driver call that fails.
  CUresult warm();

  const DriverApi& driver;
  Fences fences;
  Staging staging;
  std::vector<CUcontext> primary;  // by device; NULL: not retained
};

}  // namespace bf::server
