// Fatbins and ELF images from anybody: parsed, selected from for several GPUs, put together again, decompressed.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "proto/abi/fatbin_decompress.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bf::abi;
  const auto bytes = std::as_bytes(std::span(data, size));
  (void)elf_bytes(bytes);
  // A generator without feedback rarely finds the magic: give it the header.
  std::vector<std::byte> framed(sizeof(FatbinHeader) + size);
  FatbinHeader header;
  header.entries_bytes = size;
  std::memcpy(framed.data(), &header, sizeof(header));
  if (size) std::memcpy(framed.data() + sizeof(header), data, size);
  for (std::span<const std::byte> input : {bytes, std::span<const std::byte>(framed)}) {
    auto fatbin = Fatbin::parse(input);
    if (!fatbin.ok()) continue;
    for (int arch : {50, 75, 86, 90, 103, 120}) {
      const auto selection = select_entries(*fatbin, arch / 10, arch % 10);
      const auto smaller = selection.assemble();
      auto again = Fatbin::parse(smaller);
      if (!again.ok() || again->entries().size() != selection.parts.size()) abort();
    }
    for (const FatbinEntry& entry : fatbin->entries()) (void)decompress(entry, 1 << 20);
  }
  return 0;
}
