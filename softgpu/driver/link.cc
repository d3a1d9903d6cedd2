#include "softgpu/driver/driver.h"
#include "softgpu/driver/module.h"

namespace bf::softgpu {
namespace {

struct LinkState {
  CUlinkState handle = nullptr;
  std::unique_ptr<JitLog> log;
  std::vector<std::string> units;
  std::string output;
};
using LinkRegistry = Registry<CUlinkState, LinkState, ObjectKind::kLinkState>;

LinkRegistry& links() {
  static LinkRegistry* registry = new LinkRegistry;
  return *registry;
}

}  // namespace

BF_API CUresult cuLinkCreate_v2(unsigned int count, CUjit_option* options, void** values, CUlinkState* out) {
  BF_ENTER();
  if (!out) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context;
  BF_TRY(current_context(&context));
  auto state = std::make_shared<LinkState>();
  state->log = std::make_unique<JitLog>(count, options, values);
  BF_TRY(state->log->status());
  *out = links().add(std::move(state));
  return CUDA_SUCCESS;
}

BF_API CUresult cuLinkAddData_v2(CUlinkState handle, CUjitInputType type, void* data, size_t bytes, const char*,
                                 unsigned int, CUjit_option*, void**) {
  BF_ENTER();
  auto state = links().find(handle);
  if (!state) return CUDA_ERROR_INVALID_HANDLE;
  if (!data || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  std::string message;
  std::vector<std::string> units;
  if (type == CU_JIT_INPUT_PTX) {
    std::string text((const char*)data, bytes);
    units.push_back(text.substr(0, text.find('\0')));
    if (units.back().empty()) return state->log->finish(CUDA_ERROR_INVALID_IMAGE, "there is no PTX");
  } else if (type == CU_JIT_INPUT_FATBINARY) {
    CUresult result = ptx_units(data, FatbinForm::kAny, &units, &message);
    if (result != CUDA_SUCCESS) return state->log->finish(result, message);
  } else {
    return state->log->finish(CUDA_ERROR_NO_BINARY_FOR_GPU, "only PTX and fatbins with PTX can be linked");
  }
  // Every unit must be sound on its own, but for what others define.
  for (const std::string& unit : units) {
    ptx::Source source{unit, ""};
    auto checked = ptx::Module::load({&source, 1}, {.allow_undefined = true});
    if (!checked.ok()) return state->log->finish(CUDA_ERROR_INVALID_PTX, checked.status().message());
    state->units.push_back(unit);
  }
  return CUDA_SUCCESS;
}

BF_API CUresult cuLinkAddFile_v2(CUlinkState handle, CUjitInputType type, const char* path, unsigned int count,
                                 CUjit_option* options, void** values) {
  BF_ENTER();
  if (!path) return CUDA_ERROR_INVALID_VALUE;
  std::string bytes;
  BF_TRY(read_file(path, &bytes));
  return cuLinkAddData_v2(handle, type, bytes.data(), bytes.size(), path, count, options, values);
}

BF_API CUresult cuLinkComplete(CUlinkState handle, void** image, size_t* bytes) {
  BF_ENTER();
  auto state = links().find(handle);
  if (!state) return CUDA_ERROR_INVALID_HANDLE;
  if (!image) return CUDA_ERROR_INVALID_VALUE;
  std::shared_ptr<ptx::Module> program;
  std::string message;
  CUresult result = compile(state->units, &program, &message);
  if (result != CUDA_SUCCESS) return state->log->finish(result, message);
  state->output = join_units(state->units);
  *image = state->output.data();
  if (bytes) *bytes = state->output.size() + 1;  // with its NUL
  return state->log->finish(CUDA_SUCCESS, {});
}

BF_API CUresult cuLinkDestroy(CUlinkState handle) {
  BF_ENTER();
  return links().remove(handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

}  // namespace bf::softgpu
