// Code images on disk, shared by all workers (server/image_cache.h says how they ask). A bounded folder: one file per image,
// written whole under a temporary name and renamed; the least recently used go first. A thread of its own serves the
// workers, so that a slow disk holds up nobody else. Only bfserver's user can read the folder.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "base/status.h"
#include "server/image_cache.h"

namespace bf::daemon {

class ImageCache {
 public:
  // Makes the folder (0700) if it is not there. `most_bytes`: of all images together.
  static Result<std::unique_ptr<ImageCache>> open(const std::string& folder, uint64_t most_bytes);
  ~ImageCache();

  // The server's salt: random, kept with the folder.
  const std::string& salt() const { return salt_; }
  // A worker's end of a new connection.
  Result<Fd> connect();

  uint64_t bytes() const;
  size_t size() const;

 private:
  struct Entry {
    uint64_t bytes = 0;
    uint64_t used = 0;  // grows with every use
  };
  struct Connection {
    Fd socket;
    Fd file;  // being stored
    std::string temporary;
    Sha256 name{};
    uint64_t missing = 0, total = 0;
  };

  ImageCache(std::string folder, Fd directory, uint64_t most_bytes);
  Status load();
  Status load_salt();
  void serve();
  // False: the connection is done.
  bool receive(Connection& connection);
  void answer_open(Connection& connection, const Sha256& name);
  void begin_store(Connection& connection, const server::ImageCacheMessage& message);
  bool append(Connection& connection, std::span<const std::byte> bytes);
  void drop_store(Connection& connection);
  void make_room(uint64_t bytes);

  const std::string folder_;
  const Fd directory_;
  const uint64_t most_bytes_;
  std::string salt_;
  Fd wake_;
  mutable std::mutex mutex_;  // of everything below
  std::vector<Fd> arriving_;
  bool stop_ = false;
  std::map<std::string, Entry> entries_;  // by file name
  uint64_t bytes_ = 0, clock_ = 0, temporaries_ = 0;
  std::list<Connection> connections_;  // the thread's
  std::thread thread_;
};

}  // namespace bf::daemon
