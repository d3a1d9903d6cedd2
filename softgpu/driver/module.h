// Code: modules (one program in one context), libraries (one program, instantiated in a context when first used there),
// their functions and kernels. A CUkernel is accepted wherever a CUfunction is: it means the function of the current
// context.
#pragma once

#include <array>
#include <atomic>
#include <climits>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/limits.h"
#include "softgpu/driver/context.h"
#include "softgpu/ptx/ptx.h"

namespace bf::softgpu {

// What cuFuncSetAttribute and cuKernelSetAttribute can change. Kernels hold one set per device; their functions follow it in what
// they were not given themselves (580.159.04).
struct FunctionSettings {
  static constexpr int kFollows = INT_MIN;
  std::atomic<int> max_dynamic_shared;
  std::atomic<int> carveout;
  std::shared_ptr<const FunctionSettings> kernel;

  FunctionSettings(int max_dynamic_shared, int carveout) : max_dynamic_shared(max_dynamic_shared), carveout(carveout) {}
  explicit FunctionSettings(std::shared_ptr<const FunctionSettings> kernel)
      : max_dynamic_shared(kFollows), carveout(kFollows), kernel(std::move(kernel)) {}
  int get(std::atomic<int> FunctionSettings::*which) const {
    const int own = this->*which;
    return own == kFollows ? kernel->get(which) : own;
  }
};

struct Module;
struct Function {
  CUfunction handle = nullptr;
  ContextRef context;
  std::shared_ptr<Module> module;
  const ptx::KernelInfo* info = nullptr;
  std::shared_ptr<FunctionSettings> settings;
  CUkernel kernel = nullptr;  // the kernel it came from, if any
  std::atomic<bool> loaded{false};  // false: only enumerated so far
};
using FunctionRef = std::shared_ptr<Function>;

struct Library;
struct Module {
  CUmodule handle = nullptr;
  ContextRef context;
  std::shared_ptr<ptx::Module> program;
  std::shared_ptr<ptx::Image> image;
  std::vector<uint64_t> addresses;    // of program->variables()
  std::vector<CUfunction> functions;  // of program->kernels(); made with the module, ends with it
  CUlibrary library = nullptr;        // it is an instance of
};
using ModuleRef = std::shared_ptr<Module>;

struct Kernel {
  CUkernel handle = nullptr;
  std::shared_ptr<Library> library;
  const ptx::KernelInfo* info = nullptr;
  std::array<std::shared_ptr<FunctionSettings>, limits::kDevices> settings;  // by device
};

struct Library {
  CUlibrary handle = nullptr;
  std::shared_ptr<ptx::Module> program;
  std::vector<CUkernel> kernels;  // of program->kernels()
  std::mutex mutex;
  std::map<uint64_t, ModuleRef> instances;       // by context id
  std::map<std::string, AllocationRef> managed;  // managed variables: one storage for all contexts
};

using ModuleRegistry = Registry<CUmodule, Module, ObjectKind::kModule>;
using FunctionRegistry = Registry<CUfunction, Function, ObjectKind::kFunction>;
using LibraryRegistry = Registry<CUlibrary, Library, ObjectKind::kLibrary>;
using KernelRegistry = Registry<CUkernel, Kernel, ObjectKind::kKernel>;
ModuleRegistry& modules();
FunctionRegistry& functions();
LibraryRegistry& libraries();
KernelRegistry& kernels();

// Which pointers a loader accepts as a fatbin: its wrapper, its header, or either.
enum class FatbinForm { kHeader, kWrapper, kAny };
// PTX units found in an image (PTX text or a fatbin), each to be linked with the others; `message` says what is wrong.
CUresult ptx_units(const void* image, FatbinForm form, std::vector<std::string>* units, std::string* message);
// The cuLinkComplete form of several units: text that ptx_units takes apart again.
std::string join_units(const std::vector<std::string>& units);

// Options of cuModuleLoadDataEx, cuLinkCreate and cuLibraryLoadData that have an effect here: the log buffers.
class JitLog {
 public:
  JitLog(unsigned count, const CUjit_option* options, void** values);
  CUresult status() const { return status_; }
  // Fills the error buffer and sets both sizes; returns `code`.
  CUresult finish(CUresult code, const std::string& message);

 private:
  CUresult status_ = CUDA_SUCCESS;
  char *info_ = nullptr, *error_ = nullptr;
  size_t info_bytes_ = 0, error_bytes_ = 0;
  void **info_slot_ = nullptr, **error_slot_ = nullptr;
};

// Parses units; CUDA_ERROR_INVALID_PTX with the engine's message otherwise.
CUresult compile(const std::vector<std::string>& units, std::shared_ptr<ptx::Module>* program, std::string* message);
CUresult load_module(const ContextRef& context, const void* image, FatbinForm form, ModuleRef* module,
                     std::string* message);
CUresult instantiate(const ContextRef& context, std::shared_ptr<ptx::Module> program, Library* library,
                     ModuleRef* module);
// Ends a module: its functions and its variables. The caller has taken it from the registry and synchronised.
void drop_module(Module& module);
void drop_library_instances(Context& context);
CUresult read_file(const char* path, std::string* bytes);

// The function that a CUfunction or CUkernel means in `context`. 400: no such handle.
CUresult find_function(CUfunction handle, const ContextRef& context, FunctionRef* function);
// The same in the current context, which must be usable.
CUresult find_function(CUfunction handle, FunctionRef* function);
CUresult function_attribute(const ptx::KernelInfo& info, const FunctionSettings& settings,
                            CUfunction_attribute attribute, int* value);
CUresult set_function_attribute(const ptx::KernelInfo& info, FunctionSettings& settings, CUfunction_attribute attribute,
                                int value);

}  // namespace bf::softgpu
