#include "transport/rdma_verbs.h"

#include <dlfcn.h>

namespace bf::transport::rdma {
namespace {

Status not_here(const std::string& why) {
  return {StatusCode::kUnavailable,
          "the RDMA libraries cannot be used on this host (" + why + "): install libibverbs1, librdmacm1 and ibverbs-providers"};
}

std::string loader_error() {
  const char* text = dlerror();
  return text ? text : "unknown error";
}

struct Loaded {
  Verbs verbs;
  Status status;
};

Loaded load() {
  Loaded loaded;
  void* verbs = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
  void* manager = verbs ? dlopen("librdmacm.so.1", RTLD_NOW | RTLD_LOCAL) : nullptr;
  if (!verbs || !manager) {
    loaded.status = not_here(loader_error());
    return loaded;
  }
  const char* missing = nullptr;
#define BF_VERBS_LOAD(name) \
  if (!(loaded.verbs.name = reinterpret_cast<decltype(loaded.verbs.name)>(dlsym(verbs, #name)))) missing = #name;
#define BF_RDMACM_LOAD(name) \
  if (!(loaded.verbs.name = reinterpret_cast<decltype(loaded.verbs.name)>(dlsym(manager, #name)))) missing = #name;
  BF_VERBS_FUNCTIONS(BF_VERBS_LOAD)
  BF_RDMACM_FUNCTIONS(BF_RDMACM_LOAD)
#undef BF_VERBS_LOAD
#undef BF_RDMACM_LOAD
  if (missing) {
    loaded.status = not_here(std::string("they lack ") + missing);
    return loaded;
  }
  loaded.verbs.ibv_reg_dmabuf_mr = reinterpret_cast<decltype(&::ibv_reg_dmabuf_mr)>(dlsym(verbs, "ibv_reg_dmabuf_mr"));
  auto is_initialized = reinterpret_cast<decltype(&::ibv_is_fork_initialized)>(dlsym(verbs, "ibv_is_fork_initialized"));
  loaded.verbs.forks_copy = is_initialized && is_initialized() == IBV_FORK_UNNEEDED;
  // Not where the kernel copies: there it would take all that is registered away from children (measured, rdma-core 44).
  // Refused if the program itself registered memory before; our own rings stay out of children in any case.
  if (!loaded.verbs.forks_copy) loaded.verbs.ibv_fork_init();
  return loaded;
}

Loaded& loaded() {
  static auto* once = new Loaded(load());
  return *once;
}

}  // namespace

Result<const Verbs*> verbs() {
  if (!loaded().status.ok()) return loaded().status;
  return &loaded().verbs;
}

const Verbs& loaded_verbs() { return loaded().verbs; }

void replace_verbs(const Verbs& verbs) { loaded() = {verbs, {}}; }

}  // namespace bf::transport::rdma
