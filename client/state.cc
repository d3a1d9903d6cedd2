#include "client/state.h"

#include <pthread.h>

namespace bf::client {

namespace {

constinit thread_local ThreadState* t_thread __attribute__((tls_model("initial-exec"))) = nullptr;

// The program may still call CUDA from later destructors of the thread: it then gets a new state, and this runs again.
void end_thread(void* thread) {
  auto* ended = static_cast<ThreadState*>(thread);
  t_thread = nullptr;
  if (ended->lane && Session::get()) Session::get()->release_lane(ended->lane);
  delete ended;
}

}  // namespace

ThreadState* find_thread() { return t_thread; }

ThreadState& this_thread() {
  if (t_thread) [[likely]] return *t_thread;
  static pthread_key_t key = [] {
    pthread_key_t made;
    BF_CHECK(pthread_key_create(&made, end_thread) == 0);
    return made;
  }();
  t_thread = new ThreadState;
  pthread_setspecific(key, t_thread);
  return *t_thread;
}

State& state() {
  static State* const made = new State;
  return *made;
}

namespace {

template <size_t... kKind>
void fill(std::array<std::unique_ptr<HandleMakerBase>, sizeof...(kKind)>& makers, std::index_sequence<kKind...>) {
  ((makers[kKind] = std::make_unique<HandleTable<Nothing, HandleKind(kKind)>>()), ...);
}

}  // namespace

State::State() {
  fill(others, std::make_index_sequence<size_t(HandleKind::kCount)>());
}

HandleMakerBase* State::maker(HandleKind kind) {
  switch (kind) {
    case HandleKind::kContext: return &contexts;
    case HandleKind::kStream: return &streams;
    case HandleKind::kEvent: return &events;
    case HandleKind::kModule: return &modules;
    case HandleKind::kLibrary: return &libraries;
    case HandleKind::kFunction: return &functions;
    case HandleKind::kKernel: return &kernels;
    case HandleKind::kGraph: return &graphs;
    case HandleKind::kGraphNode: return &graph_nodes;
    case HandleKind::kGraphExec: return &graph_execs;
    case HandleKind::kUserObject: return &user_objects;
    case HandleKind::kLinkState: return &links;
    case HandleKind::kGreenContext: return &green_contexts;
    default: return kind > HandleKind::kNone && kind < HandleKind::kCount ? others[size_t(kind)].get() : nullptr;
  }
}

bool Function::changeable(CUfunction_attribute which) {
  switch (which) {
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH:
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
    case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
      return true;
    default:
      return false;
  }
}

void Function::set(const FunctionFacts& facts) {
  kernel = facts.kernel;
  name = facts.name;
  parameters = facts.parameters;
  parameters_known = facts.parameters_known;
  for (const ParameterInfo& parameter : parameters) {
    parameter_bytes = std::max(parameter_bytes, parameter.offset + parameter.size);
  }
  while (kernel && device_snapshot(int(attributes.size()))) attributes.push_back(std::make_shared<Attributes>());
  for (auto [attribute, value] : facts.attributes) {
    if (attribute < 0 || attribute >= CU_FUNC_ATTRIBUTE_MAX) continue;
    const auto which = CUfunction_attribute(attribute);
    for (auto& of_device : attributes) {
      if (!of_device->followed || !changeable(which)) of_device->set(which, int(value));
    }
  }
}

CUresult need_context(Context** context) {
  ThreadState* thread = find_thread();
  if (!thread || thread->contexts.empty()) {
    return Callbacks::inside() ? CUDA_ERROR_NOT_PERMITTED : CUDA_ERROR_INVALID_CONTEXT;
  }
  Context* current = state().contexts.find(thread->contexts.back());
  if (!current || !current->alive()) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  if (CUresult sticky = Session::get()->sticky(); sticky != CUDA_SUCCESS) [[unlikely]] return sticky;
  if (context) *context = current;
  return CUDA_SUCCESS;
}

}  // namespace bf::client
