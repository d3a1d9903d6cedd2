#include "server/daemon/shared_state.h"

namespace bf::daemon {

void LocalState::apply(Change change, Done done) {
  struct Apply {
    Store& store;
    const std::string& state_dir;
    Status operator()(const Token& token) { return store.put(token); }
    Status operator()(const RemoveToken& token) { return store.remove_token(token.name); }
    Status operator()(const PutLimit& put) { return store.put(put.scope, put.limit); }
    Status operator()(const RemoveLimit& limit) { return store.remove_limit(limit.scope); }
    Status operator()(const Configuration& all) { return adopt(all, store, state_dir); }
  };
  done(std::visit(Apply{store_, state_dir_}, change));
}

}  // namespace bf::daemon
