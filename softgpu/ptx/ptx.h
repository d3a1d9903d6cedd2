// The PTX engine of the software GPU: PTX text in, results in host memory out.
//
// A *Module* is parsed, checked and lowered PTX, one or several translation units linked together; it is immutable and
// knows no addresses. An *Image* is a module whose variables have been given storage. A launch runs one kernel of an
// image to its end, on the calling thread and some helpers. Device addresses of global and constant memory are real
// host addresses; the shared, local and parameter windows of the generic address space lie above 2^48, where no host
// memory is. Everything that can be wrong with PTX text is found by Module::load and named there; everything that a
// running kernel can do wrong is a LaunchOutcome. No kernel, however wrong, touches memory that MemoryRange answers do
// not cover.
//
// The engine needs a processor with AVX2, FMA and F16C; Module::load says so where one is missing.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace bf::ptx {

struct Dim3 {
  uint32_t x = 1, y = 1, z = 1;
  uint64_t count() const { return uint64_t(x) * y * z; }
};

// ---------------------------------------------------------------------------------------------------------- modules

struct KernelParam {
  uint32_t offset = 0;
  uint32_t bytes = 0;
  uint32_t alignment = 1;
};

struct KernelInfo {
  std::string name;
  uint32_t index = 0;  // position in Module::kernels()
  std::vector<KernelParam> params;
  uint32_t param_bytes = 0;          // end of the last parameter
  uint32_t static_shared_bytes = 0;  // of the kernel and all it may call
  uint32_t local_bytes = 0;          // per thread, without the frames of called functions
  uint32_t registers = 0;            // estimate of what ptxas would need, 16..255
  uint32_t max_threads = 1024;       // product of .maxntid or .reqntid; 1024 if the kernel says nothing
  Dim3 required_block{0, 0, 0};      // .reqntid, or zeros
  Dim3 required_cluster{0, 0, 0};    // .reqnctapercluster, or zeros
  uint32_t min_blocks = 0;           // .minnctapersm
  uint32_t const_bytes = 0;          // .const variables of the module
  int ptx_version = 0;               // 90 for ".version 9.0"
  int target = 0;                    // 80 for ".target sm_80"
};

enum class VariableSpace : uint8_t { kGlobal, kConst };

struct Variable {
  std::string name;
  VariableSpace space = VariableSpace::kGlobal;
  uint64_t bytes = 0;
  uint32_t alignment = 1;
  bool visible = false;  // may be looked up by name (cuModuleGetGlobal); static variables need storage all the same
  bool managed = false;  // .attribute(.managed)
};

struct Source {
  std::string_view ptx;   // a terminating NUL, if any, ends the text
  std::string_view name;  // for messages; may be empty
};

struct LoadOptions {
  bool allow_undefined = false;  // accept extern symbols that no unit defines: to check one unit before it is linked.
                                 // Such a module cannot be instantiated.
};

class Image;
struct Program;  // the lowered form; private to the engine

class Module : public std::enable_shared_from_this<Module> {
 public:
  // Parses, checks and links translation units. A failure is kInvalid, for a person, and names the culprit:
  // "unsupported instruction 'wgmma.mma_async' at line 123 in kernel foo". PTX for any target sm_50..sm_121 is
  // accepted; whether it suits the device is for the caller to judge (KernelInfo::target, target()).
  static Result<std::shared_ptr<Module>> load(std::span<const Source> units, const LoadOptions& options = {});
  static Result<std::shared_ptr<Module>> load(std::string_view ptx, const LoadOptions& options = {});
  ~Module();

  std::span<const KernelInfo> kernels() const;
  const KernelInfo* find_kernel(std::string_view name) const;  // nullptr: none
  std::span<const Variable> variables() const;
  int ptx_version() const;
  int target() const;
  uint32_t const_bytes() const;

  // addresses[i] is the storage of variables()[i]: aligned host memory of that size, writable now. Writes all initial
  // values there (zeros where the PTX gives none) and resolves addresses of variables and functions in code and data.
  // The storage must live as long as the image is launched from.
  Result<std::shared_ptr<Image>> instantiate(std::span<const uint64_t> addresses) const;

 private:
  friend class Image;
  friend struct LaunchAccess;
  explicit Module(std::unique_ptr<Program> program);
  std::unique_ptr<Program> program_;
};

class Image {
 public:
  ~Image();
  const Module& module() const { return *module_; }

 private:
  friend class Module;
  friend struct LaunchAccess;
  Image();
  std::shared_ptr<const Module> module_;
  struct State;
  std::unique_ptr<State> state_;
};

// ---------------------------------------------------------------------------------------------------------- launches

struct Grid {
  Dim3 grid;
  Dim3 block;
  Dim3 cluster;                       // only {1,1,1} is supported
  uint32_t dynamic_shared_bytes = 0;  // static + dynamic must fit 227 KiB or the launch fails with kInvalidLaunch
  bool cooperative = false;           // all blocks resident at once, scheduled fairly; the caller has checked occupancy
};

// One allocation as a kernel may see it: [begin, end). end == begin: nothing there.
struct MemoryRange {
  uint64_t begin = 0;
  uint64_t end = 0;
  bool writable = true;
};

struct ThreadPosition {
  Dim3 block{0, 0, 0};
  Dim3 thread{0, 0, 0};
};

struct AssertFailure {
  std::string message, file, function;
  uint32_t line = 0;
  ThreadPosition where;
};

enum class Geometry : uint8_t { k1D, k2D, k3D, k1DLayered, k2DLayered, kCube, kCubeLayered };
enum class TexelType : uint8_t { kF32, kS32, kU32, kF16 };  // what the instruction returns per component, as 32 bits
enum class TextureOp : uint8_t { kFetch, kFetchLevel, kFetchGradient, kGather };

// One thread's `tex` or `tld4`.
struct TextureRequest {
  uint64_t texture = 0;  // CUtexObject
  TextureOp op = TextureOp::kFetch;
  Geometry geometry = Geometry::k2D;
  TexelType type = TexelType::kF32;
  bool integer_coordinates = false;   // .s32: texel indices in `index`, else `coordinate`
  std::array<float, 3> coordinate{};  // x y z
  std::array<int32_t, 3> index{};     // x y z
  uint32_t layer = 0;                 // of layered geometries
  float level = 0;                    // kFetchLevel (for integer coordinates: the integer level)
  std::array<float, 3> ddx{}, ddy{};  // kFetchGradient
  uint8_t component = 0;              // kGather: r g b a
};

enum class SurfaceClamp : uint8_t { kTrap, kClamp, kZero };

// One thread's `suld.b` or `sust.b`: unformatted bytes, x counted in bytes.
struct SurfaceRequest {
  uint64_t surface = 0;  // CUsurfObject
  Geometry geometry = Geometry::k2D;
  SurfaceClamp clamp = SurfaceClamp::kTrap;
  int32_t x_bytes = 0, y = 0, z = 0;
  uint32_t layer = 0;
  uint32_t bytes = 0;  // 1..16
};

// A simple heap for in-kernel malloc/free. The driver keeps one per context over device memory that its find_memory()
// covers; thread-safe.
class DeviceHeap {
 public:
  DeviceHeap(uint64_t base, uint64_t bytes);
  ~DeviceHeap();
  DeviceHeap(const DeviceHeap&) = delete;
  DeviceHeap& operator=(const DeviceHeap&) = delete;
  uint64_t allocate(uint64_t bytes);  // 16-byte aligned; 0 when full
  bool release(uint64_t address);     // false: not an address that allocate() gave out

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// What a launch needs from its surroundings. All methods may be called from several threads at once, never after
// launch() returned.
class LaunchEnvironment {
 public:
  virtual ~LaunchEnvironment() = default;

  // The allocation that holds `address`, or an empty range. The engine keeps answers for the duration of the launch.
  virtual MemoryRange find_memory(uint64_t address) = 0;
  // Text of a device printf, formatted; one call per printf call.
  virtual void print(std::string_view text) { (void)text; }
  // A device assert failed. Called once per failing thread; the launch then ends with kAssert.
  virtual void assertion_failed(const AssertFailure& failure) { (void)failure; }
  // Textures and surfaces; false: no such object (ends the launch with kIllegalAddress).
  virtual bool fetch_texture(const TextureRequest& request, uint32_t (&texel)[4]) {
    (void)request, (void)texel;
    return false;
  }
  virtual bool read_surface(const SurfaceRequest& request, void* data) {
    (void)request, (void)data;
    return false;
  }
  virtual bool write_surface(const SurfaceRequest& request, const void* data) {
    (void)request, (void)data;
    return false;
  }
  // txq/suq: width, height, depth in texels; 0 where unknown.
  virtual uint32_t query_texture(uint64_t object, int axis) {
    (void)object, (void)axis;
    return 0;
  }

  const std::atomic<bool>* abort = nullptr;  // polled about every millisecond; true ends the launch with kAborted
  DeviceHeap* heap = nullptr;                // nullptr: device malloc returns NULL
  unsigned threads = 0;                      // threads that run blocks, the caller included; 0: one per processor
  uint32_t multiprocessors = 132;            // %nsmid; blocks are spread over that many %smid
  uint32_t resident_blocks = 1024;           // ordinary launches keep at most so many started, unfinished blocks
  uint32_t stack_bytes = 1024;               // CU_LIMIT_STACK_SIZE: what recursion may use per thread
  uint64_t grid_id = 1;                      // %gridid
};

enum class LaunchCode : uint8_t {
  kOk = 0,
  kIllegalAddress,         // CUDA_ERROR_ILLEGAL_ADDRESS
  kMisalignedAddress,      // CUDA_ERROR_MISALIGNED_ADDRESS
  kInvalidAddressSpace,    // CUDA_ERROR_INVALID_ADDRESS_SPACE
  kInvalidProgramCounter,  // CUDA_ERROR_INVALID_PC: indirect call to no function
  kIllegalInstruction,     // CUDA_ERROR_ILLEGAL_INSTRUCTION
  kTrap,                   // CUDA_ERROR_LAUNCH_FAILED ("unspecified launch failure"), as GPUs report trap
  kAssert,                 // CUDA_ERROR_ASSERT
  kStackOverflow,          // CUDA_ERROR_LAUNCH_FAILED / HARDWARE_STACK_ERROR
  kInvalidLaunch,          // CUDA_ERROR_INVALID_VALUE: the grid does not suit the kernel; nothing ran
  kDeadlock,               // every thread waits at a barrier that cannot complete; a GPU would hang
  kAborted,                // the abort flag was set
};

struct LaunchOutcome {
  LaunchCode code = LaunchCode::kOk;
  std::string message;        // for logs: "kernel foo line 12: st.global.u32 to 0x... (4 bytes): no allocation there"
  uint64_t address = 0;       // of the access, where there is one
  ThreadPosition where;       // of the first failing thread
  uint64_t instructions = 0;  // thread instructions executed (approximate), for statistics
  bool ok() const { return code == LaunchCode::kOk; }
};

// Runs kernels()[kernel.index] of `image` to its end. `params` holds the parameters at KernelParam::offset; too few
// bytes are kInvalidLaunch. Blocks the caller; launches of one image may run at the same time.
LaunchOutcome launch(const Image& image, const KernelInfo& kernel, const Grid& grid, std::span<const uint8_t> params,
                     LaunchEnvironment& environment);

}  // namespace bf::ptx
