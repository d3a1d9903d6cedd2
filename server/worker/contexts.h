// The session's contexts: when they are made, what they cost, and what happens to our own memory when they end.
#pragma once

#include <atomic>
#include <mutex>
#include <vector>

#include "proto/api/cuda_api.h"

namespace bf {
struct DriverApi;
}

namespace bf::server {

class Session;

class Contexts {
 public:
  explicit Contexts(Session& session) : session_(session) {}

  CUresult retain_primary(CUdevice device, CUcontext* context);
  // Ends the primary context with all that lives in it, whatever its number of users: the client counts them.
  CUresult end_primary(CUdevice device);
  CUresult create(CUcontext* context, unsigned int flags, CUdevice device);
  CUresult destroy(CUcontext context);

  CUresult create_green(CUgreenCtx* green, CUdevResourceDesc resources, CUdevice device, unsigned int flags);
  CUresult destroy_green(CUgreenCtx green);

  // The current context; for a green one the primary one, which owns what is made in it.
  CUcontext owner() const;
  // No other context lives: what waits for the current one waits for all work.
  bool only_one() const { return others_.load(std::memory_order_relaxed) == 0; }

  // The device of the current context; false without one.
  bool current_device(size_t& device) const;

 private:
  struct Live {
    CUcontext context = nullptr;
    size_t device = 0;
  };
  struct Green {
    CUgreenCtx green = nullptr;
    CUcontext context = nullptr;
    size_t device = 0;
  };
  void begin(CUcontext context, size_t device);
  void before_end(CUcontext context);
  void after_end(CUcontext context);
  CUresult end_green(const Green& green);
  void count();

  Session& session_;
  std::mutex mutex_;  // beginnings and ends
  std::vector<Live> live_;
  mutable std::mutex greens_mutex_;  // never held while the driver works
  std::vector<Green> greens_;
  std::atomic<size_t> others_{0};  // contexts beside one
};

// While it lives, some context is current: a primary one where the thread has none. The driver tells nothing about a kernel
// or an address to a thread without (580.159.04), and a client thread may ask before it has one.
class AnyContext {
 public:
  explicit AnyContext(Session& session);
  ~AnyContext();
  AnyContext(const AnyContext&) = delete;
  AnyContext& operator=(const AnyContext&) = delete;

 private:
  const DriverApi& driver_;
  bool pushed_ = false;
};

}  // namespace bf::server
