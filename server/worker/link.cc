// Linking: the client sends the inputs as images; what the linker makes goes back in slices. The driver writes its logs
// into buffers that belong to the link from beginning to end.
#include <map>

#include "server/worker/jit.h"
#include "server/worker/links.h"
#include "server/worker/session.h"

namespace bf::server {

struct Link {
  JitArguments options;
  std::vector<std::unique_ptr<JitArguments>> input_options;
  std::span<const std::byte> image;  // the driver's, until the link is destroyed
};

Links::Links() = default;
Links::~Links() = default;

std::shared_ptr<Link> Links::find(CUlinkState state) const {
  std::lock_guard guard(mutex_);
  const auto found = links_.find(state);
  return found == links_.end() ? nullptr : found->second;
}

void Links::add(CUlinkState state, std::shared_ptr<Link> link) {
  std::lock_guard guard(mutex_);
  links_[state] = std::move(link);
}

void Links::remove(CUlinkState state) {
  std::lock_guard guard(mutex_);
  links_.erase(state);
}

CUresult handle_cuLinkCreate_v2(Call& call, unsigned int, CUjit_option*, void**, CUlinkState* stateOut,
                                std::span<const std::byte> jit) {
  auto link = std::make_shared<Link>();
  if (!link->options.decode(jit)) {
    session_of(call).violation(call, "malformed JIT options");
    return CUDA_ERROR_INVALID_VALUE;
  }
  const CUresult result = call.driver.cuLinkCreate_v2(link->options.count(), link->options.options(), link->options.values(), stateOut);
  if (result == CUDA_SUCCESS) session_of(call).links.add(*stateOut, std::move(link));
  return result;
}

CUresult handle_cuLinkAddData_v2(Call& call, CUlinkState state, CUjitInputType type, void*, size_t, const char* name,
                                 unsigned int, CUjit_option*, void**, std::span<const std::byte> hash,
                                 std::span<const std::byte> jit, std::span<const std::byte>& jit_out) {
  Session& session = session_of(call);
  const auto link = session.links.find(state);
  if (!link) return CUDA_ERROR_INVALID_HANDLE;
  auto options = std::make_unique<JitArguments>();
  if (!options->decode(jit)) {
    session.violation(call, "malformed JIT options");
    return CUDA_ERROR_INVALID_VALUE;
  }
  const auto image = session.images.find(hash);
  if (!image || !loadable(*image)) return CUDA_ERROR_INVALID_IMAGE;
  // Behind an image stands one zero byte; PTX counts it.
  const size_t bytes = image->size() - (type == CU_JIT_INPUT_PTX ? 0 : 1);
  const CUresult result = call.driver.cuLinkAddData_v2(state, type, const_cast<std::byte*>(image->data()), bytes, name,
                                                       options->count(), options->options(), options->values());
  link->input_options.push_back(std::move(options));
  jit_out = keep(call, link->options.result());
  return result;
}

CUresult handle_cuLinkComplete(Call& call, CUlinkState state, void**, size_t* sizeOut, std::span<const std::byte>& jit_out) {
  const auto link = session_of(call).links.find(state);
  if (!link) return CUDA_ERROR_INVALID_HANDLE;
  void* image = nullptr;
  size_t bytes = 0;
  const CUresult result = call.driver.cuLinkComplete(state, &image, &bytes);
  if (result == CUDA_SUCCESS) link->image = {static_cast<const std::byte*>(image), bytes};
  if (sizeOut) *sizeOut = link->image.size();
  jit_out = keep(call, link->options.result());
  return result;
}

CUresult handle_bfLinkedImage(Call& call, uint64_t state, uint64_t offset) {
  uint64_t real = 0;
  if (!call.resolve(HandleKind::kLinkState, state, real)) return CUDA_ERROR_INVALID_HANDLE;
  const auto link = session_of(call).links.find(CUlinkState(real));
  if (!link || offset > link->image.size()) return CUDA_ERROR_INVALID_VALUE;
  const auto rest = link->image.subspan(offset);
  call.reply_payload = rest.first(std::min(rest.size(), limits::kInlineBytes));
  return CUDA_SUCCESS;
}

CUresult handle_cuLinkDestroy(Call& call, CUlinkState state) {
  const auto link = session_of(call).links.find(state);  // until the driver has given up the buffers
  const CUresult result = call.driver.cuLinkDestroy(state);
  if (result == CUDA_SUCCESS) session_of(call).links.remove(state);
  return result;
}

}  // namespace bf::server
