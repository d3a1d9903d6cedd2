// Linking on the server. The inputs travel as images; logs and option values come back into the program's own arrays, which
// it keeps until the link is destroyed.
#include "api/remote.h"
#include "client/contexts.h"
#include "client/functions.h"
#include "client/images.h"
#include "client/jit.h"

namespace bf::client {

CUresult handle_cuLinkCreate_v2(unsigned int numOptions, CUjit_option* options, void** optionValues, CUlinkState* stateOut) noexcept {
  if (!stateOut) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  auto jit = std::make_shared<JitCall>();
  if (CUresult result = jit->read(numOptions, options, optionValues); result != CUDA_SUCCESS) return result;
  const std::string encoded = jit->encoded();
  CUlinkState made = nullptr;
  CUresult result = remote_cuLinkCreate_v2(0, nullptr, nullptr, &made, std::as_bytes(std::span(encoded)));
  if (result != CUDA_SUCCESS) return result;
  state().links.find(value_of(made))->options = std::move(jit);
  *stateOut = made;
  return CUDA_SUCCESS;
}

CUresult handle_cuLinkAddData_v2(CUlinkState link, CUjitInputType type, void* data, size_t size, const char* name,
                                 unsigned int numOptions, CUjit_option* options, void** optionValues) noexcept {
  Link* object = state().links.find(value_of(link));
  if (!object) return CUDA_ERROR_INVALID_HANDLE;
  if (!data || size == 0 || unsigned(type) >= CU_JIT_NUM_INPUT_TYPES) return CUDA_ERROR_INVALID_VALUE;
  JitCall jit;
  if (CUresult result = jit.read(numOptions, options, optionValues); result != CUDA_SUCCESS) return result;
  Sha256 hash;
  const std::span<const std::byte> input{static_cast<const std::byte*>(data), size};
  if (CUresult result = send_bytes(input, &hash); result != CUDA_SUCCESS) return result;
  const std::string encoded = jit.encoded();
  std::span<const std::byte> jit_out;
  CUresult result = remote_cuLinkAddData_v2(link, type, nullptr, 0, name, 0, nullptr, nullptr, hash,
                                            std::as_bytes(std::span(encoded)), jit_out);
  object->options->write_back(jit_out);
  return result;
}

CUresult handle_cuLinkAddFile_v2(CUlinkState link, CUjitInputType type, const char* path, unsigned int numOptions,
                                 CUjit_option* options, void** optionValues) noexcept {
  if (!path) return CUDA_ERROR_INVALID_VALUE;
  std::vector<char> file;
  if (CUresult result = read_image_file(path, &file); result != CUDA_SUCCESS) return result;
  if (type != CU_JIT_INPUT_PTX) file.pop_back();
  return handle_cuLinkAddData_v2(link, type, file.data(), file.size(), path, numOptions, options, optionValues);
}

CUresult handle_cuLinkComplete(CUlinkState link, void** cubinOut, size_t* sizeOut) noexcept {
  Link* object = state().links.find(value_of(link));
  if (!object) return CUDA_ERROR_INVALID_HANDLE;
  if (!cubinOut) return CUDA_ERROR_INVALID_VALUE;
  size_t bytes = 0;
  std::span<const std::byte> jit_out;
  CUresult result = remote_cuLinkComplete(link, nullptr, &bytes, jit_out);
  object->options->write_back(jit_out);
  if (result != CUDA_SUCCESS) return result;
  if (bytes > limits::kImageBytes) return malformed_reply("cuLinkComplete");
  std::vector<std::byte> image;
  image.reserve(bytes);
  while (image.size() < bytes) {
    std::span<const std::byte> slice;
    if (result = remote_bfLinkedImage(value_of(link), image.size(), slice); result != CUDA_SUCCESS) return result;
    if (slice.empty() || slice.size() > bytes - image.size()) return malformed_reply("bfLinkedImage");
    image.insert(image.end(), slice.begin(), slice.end());
  }
  object->image = std::move(image);
  *cubinOut = object->image.data();
  if (sizeOut) *sizeOut = bytes;
  return CUDA_SUCCESS;
}

CUresult handle_cuLinkDestroy(CUlinkState link) noexcept {
  Link* object = state().links.find(value_of(link));
  if (!object) return CUDA_ERROR_INVALID_HANDLE;
  const std::vector<std::byte> image = std::move(object->image);
  return remote_cuLinkDestroy(link);
}

}  // namespace bf::client
