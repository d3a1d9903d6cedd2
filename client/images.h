// Code images on their way to the worker: sized by their format, reduced to what the GPU can run, named by SHA-256, and
// sent once. The calls that load code only carry the name.
#pragma once

#include "base/sha256.h"
#include "client/state.h"

namespace bf::client {

enum class Loader { kModule, kLibrary };  // a fatbin wrapper is an image for the latter only

// Makes sure the worker has the image; gives its name. INVALID_IMAGE for what is no image.
CUresult send_image(const void* image, Loader loader, Sha256* name);
// The same for bytes of any form: what a link takes.
CUresult send_bytes(std::span<const std::byte> bytes, Sha256* name);

}  // namespace bf::client
