// What modules, libraries, kernels and functions have in common.
#pragma once

#include <optional>

#include "client/state.h"

namespace bf::client {

// FILE_NOT_FOUND if it cannot be read. A zero byte follows the contents: PTX is text.
CUresult read_image_file(const char* path, std::vector<char>* image);

// False if the facts cannot be decoded.
bool set_facts(Function& function, std::span<const std::byte> facts);

// The functions of an enumeration of `module`, whose handle is `owner`; nothing if the reply is malformed.
std::optional<std::vector<uint64_t>> adopt_functions(std::span<const std::byte> handles, std::span<const std::byte> facts,
                                                     HandleTable<Function, HandleKind::kFunction>& table, Module& module,
                                                     uint64_t owner);
std::optional<std::vector<uint64_t>> adopt_functions(std::span<const std::byte> handles, std::span<const std::byte> facts,
                                                     HandleTable<Function, HandleKind::kKernel>& table, Module& library,
                                                     uint64_t owner);

// A module's functions, a library's kernels. keep_by_name gives the value that was there first, if two threads race.
uint64_t find_by_name(Module& module, const char* name);
uint64_t keep_by_name(Module& module, const char* name, uint64_t value);

// A variable of the module becomes a known range: of the device, or a managed one, which this process gets memory for.
CUresult keep_global(Module& module, CUdeviceptr address, size_t bytes, bool managed);
std::vector<uint64_t> take_globals(Module& module);
void forget_globals(const std::vector<uint64_t>& addresses);

// What a launch of `f` goes by: for a kernel its function in the current context, if that no longer follows it. Null if there is
// no such code.
Function* launched(CUfunction f);

// The function of a kernel in the current context: made on the first question, then cached.
CUresult function_of_kernel(CUkernel kernel, CUfunction* function);

// Blocks of `threads` threads that fit on a multiprocessor; answers are cached.
CUresult occupancy(int* blocks, CUfunction function, int threads, size_t dynamic_bytes, unsigned flags);

}  // namespace bf::client
