// Layout: header (16 bytes), then entries back to back. An entry is a header of 64 bytes or more and a payload padded
// to
// 8. Measured on nvcc 13.0 output; the offsets below are the entry header's.
#include "proto/abi/fatbin.h"

#include <elf.h>

#include <algorithm>
#include <cstring>

namespace bf::abi {
namespace {

constexpr size_t kKind = 0, kHeaderBytes = 4, kPayloadBytes = 8, kCompressedBytes = 16, kArch = 28, kFlags = 40,
                 kUncompressedBytes = 56;
constexpr size_t kEntryHeaderBytes = 64;
constexpr size_t kElfHeaderBytes = sizeof(Elf64_Ehdr);

// Bytes [offset, offset + sizeof(T)) must be inside; callers check.
template <typename T>
T load(std::span<const std::byte> bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

Status invalid(const char* what) { return Status(StatusCode::kInvalid, what); }

// The driver takes any text; PTX starts with printable characters.
bool looks_like_text(const char* p) { return *p == '\n' || *p == '\r' || *p == '\t' || (*p >= ' ' && *p < 127); }

constexpr uint32_t kElfMagic = 0x464C457F;

// Byte by byte: text may end before the fourth.
bool starts_with(const std::byte* p, uint32_t magic) {
  for (int i = 0; i < 4; i++)
    if (p[i] != std::byte(magic >> (8 * i))) return false;
  return true;
}

bool within(uint64_t offset, uint64_t bytes, uint64_t total) { return offset <= total && bytes <= total - offset; }

Result<size_t> grow(size_t end, uint64_t offset, uint64_t bytes) {
  if (offset > limits::kImageBytes || bytes > limits::kImageBytes || offset + bytes > limits::kImageBytes)
    return invalid("the ELF image is larger than any image may be");
  return std::max<size_t>(end, offset + bytes);
}

}  // namespace

Result<size_t> elf_bytes(std::span<const std::byte> bytes) {
  if (bytes.size() < kElfHeaderBytes) return invalid("the ELF image is shorter than its header");
  const auto header = load<Elf64_Ehdr>(bytes, 0);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64)
    return invalid("the image is no 64-bit ELF file");
  if (header.e_shnum && header.e_shentsize != sizeof(Elf64_Shdr))
    return invalid("the ELF image has section headers of a wrong size");
  if (header.e_phnum && header.e_phentsize != sizeof(Elf64_Phdr))
    return invalid("the ELF image has program headers of a wrong size");
  Result<size_t> end = grow(kElfHeaderBytes, header.e_shoff, uint64_t(header.e_shnum) * sizeof(Elf64_Shdr));
  if (end.ok() && header.e_phnum) end = grow(*end, header.e_phoff, uint64_t(header.e_phnum) * sizeof(Elf64_Phdr));
  if (!end.ok()) return end;
  if (!within(header.e_shoff, uint64_t(header.e_shnum) * sizeof(Elf64_Shdr), bytes.size()))
    return invalid("the ELF image is shorter than its section headers say");
  for (size_t i = 0; i < header.e_shnum; i++) {
    const auto section = load<Elf64_Shdr>(bytes, header.e_shoff + i * sizeof(Elf64_Shdr));
    if (section.sh_type == SHT_NOBITS || section.sh_type == SHT_NULL) continue;
    end = grow(*end, section.sh_offset, section.sh_size);
    if (!end.ok()) return end;
  }
  return end;
}

Result<Image> image_at(const void* image) {
  if (!image) return invalid("the image is NULL");
  const auto* p = static_cast<const std::byte*>(image);
  if (starts_with(p, kFatbinWrapperMagic)) {
    FatbinWrapper wrapper;
    std::memcpy(&wrapper, p, sizeof(wrapper));
    if ((wrapper.version != 1 && wrapper.version != 2) || !wrapper.data)
      return invalid("the fatbin wrapper has an unknown version or no data");
    if (starts_with(static_cast<const std::byte*>(wrapper.data), kFatbinWrapperMagic))
      return invalid("a fatbin wrapper points to a fatbin wrapper");
    Result<Image> inner = image_at(wrapper.data);
    if (inner.ok()) inner->wrapped = true;
    return inner;
  }
  if (starts_with(p, kFatbinMagic)) {
    FatbinHeader header;
    std::memcpy(&header, p, sizeof(header));
    if (header.version != 1 || header.header_bytes != sizeof(header) ||
        header.entries_bytes > limits::kImageBytes - sizeof(header))
      return invalid("the fatbin header has an unknown version or size");
    return Image{ImageKind::kFatbin, false, {p, sizeof(header) + header.entries_bytes}};
  }
  if (starts_with(p, kElfMagic)) {
    Result<size_t> bytes = elf_bytes({p, limits::kImageBytes});
    if (!bytes.ok()) return bytes.status();
    return Image{ImageKind::kElf, false, {p, *bytes}};
  }
  if (!looks_like_text(reinterpret_cast<const char*>(p))) return invalid("the image is neither fatbin nor ELF nor PTX");
  const size_t length = strnlen(reinterpret_cast<const char*>(p), limits::kImageBytes);
  if (length == limits::kImageBytes) return invalid("the PTX text is larger than any image may be");
  return Image{ImageKind::kPtx, false, {p, length + 1}};
}

Result<Fatbin> Fatbin::parse(std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof(FatbinHeader)) return invalid("the fatbin is shorter than its header");
  const auto header = load<FatbinHeader>(bytes, 0);
  if (header.magic != kFatbinMagic) return invalid("the fatbin has a wrong magic number");
  if (header.version != 1 || header.header_bytes != sizeof(FatbinHeader))
    return invalid("the fatbin has an unknown version");
  if (header.entries_bytes > bytes.size() - sizeof(FatbinHeader))
    return invalid("the fatbin is shorter than its header says");
  Fatbin fatbin;
  fatbin.bytes_ = sizeof(FatbinHeader) + header.entries_bytes;
  auto rest = bytes.subspan(sizeof(FatbinHeader), header.entries_bytes);
  while (!rest.empty()) {
    if (rest.size() < kEntryHeaderBytes) return invalid("a fatbin entry is shorter than its header");
    const uint64_t header_bytes = load<uint32_t>(rest, kHeaderBytes);
    const uint64_t payload_bytes = load<uint64_t>(rest, kPayloadBytes);
    const uint64_t compressed_bytes = load<uint32_t>(rest, kCompressedBytes);
    if (header_bytes < kEntryHeaderBytes || header_bytes > rest.size())
      return invalid("a fatbin entry has a wrong header size");
    if (payload_bytes > rest.size() - header_bytes) return invalid("a fatbin entry is longer than the fatbin");
    if (compressed_bytes > payload_bytes)
      return invalid("a fatbin entry's compressed size is larger than what is stored");
    FatbinEntry entry;
    entry.kind = load<uint16_t>(rest, kKind);
    entry.arch = load<uint32_t>(rest, kArch);
    entry.flags = load<uint64_t>(rest, kFlags);
    entry.uncompressed_bytes = load<uint64_t>(rest, kUncompressedBytes);
    entry.whole = rest.first(header_bytes + payload_bytes);
    entry.payload = rest.subspan(header_bytes, compressed_bytes ? compressed_bytes : payload_bytes);
    fatbin.entries_.push_back(entry);
    if (fatbin.entries_.size() > kMaxEntries) return invalid("the fatbin has more entries than any may have");
    rest = rest.subspan(entry.whole.size());
  }
  return fatbin;
}

FatbinSelection select_entries(const Fatbin& fatbin, int major, int minor) {
  const std::pair<int, int> one{major, minor};
  return select_entries(fatbin, std::span(&one, 1));
}

FatbinSelection select_entries(const Fatbin& fatbin, std::span<const std::pair<int, int>> capabilities) {
  std::vector<bool> wanted(fatbin.entries().size());
  for (const auto& [major, minor] : capabilities) {
    const uint32_t arch = uint32_t(major * 10 + minor);
    auto fits = [&](const FatbinEntry& e) {
      if (e.flags & kEntryArchSpecific) return e.arch == arch;
      if (e.kind == kEntryPtx && !(e.flags & kEntryFamilySpecific)) return e.arch <= arch;
      return e.arch / 10 == arch / 10 && e.arch <= arch;
    };
    size_t best_ptx = wanted.size();
    for (size_t i = 0; i < wanted.size(); ++i) {
      const FatbinEntry& e = fatbin.entries()[i];
      if (!fits(e)) continue;
      if (e.kind == kEntryCubin) wanted[i] = true;
      if (e.kind == kEntryPtx && (best_ptx == wanted.size() || e.arch > fatbin.entries()[best_ptx].arch)) best_ptx = i;
    }
    if (best_ptx < wanted.size()) wanted[best_ptx] = true;
  }
  FatbinSelection selection;
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (!wanted[i]) continue;
    selection.parts.push_back(fatbin.entries()[i].whole);
    selection.header.entries_bytes += fatbin.entries()[i].whole.size();
  }
  return selection;
}

std::vector<std::byte> FatbinSelection::assemble() const {
  std::vector<std::byte> out(bytes());
  std::memcpy(out.data(), &header, sizeof(header));
  size_t offset = sizeof(header);
  for (const auto& part : parts) {
    std::memcpy(out.data() + offset, part.data(), part.size());
    offset += part.size();
  }
  return out;
}

}  // namespace bf::abi
