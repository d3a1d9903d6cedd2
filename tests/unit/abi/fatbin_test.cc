#include "proto/abi/fatbin.h"

#include <elf.h>
#include <gtest/gtest.h>
#include <lz4.h>
#include <zstd.h>

#include <cstring>
#include <string>

#include "proto/abi/fatbin_decompress.h"

namespace bf::abi {
namespace {

template <typename T>
void put(std::vector<std::byte>& to, size_t offset, T value) {
  std::memcpy(to.data() + offset, &value, sizeof(value));
}

std::vector<std::byte> bytes_of(const std::string& text) {
  const auto* p = reinterpret_cast<const std::byte*>(text.data());
  return {p, p + text.size()};
}

struct MadeEntry {
  uint16_t kind;
  uint32_t arch;
  uint64_t flags = 0;
  std::vector<std::byte> payload = bytes_of("payload!");
  uint64_t uncompressed = 0;
  uint32_t header = 64;
};

std::vector<std::byte> make_fatbin(const std::vector<MadeEntry>& entries) {
  std::vector<std::byte> out(sizeof(FatbinHeader));
  for (const MadeEntry& e : entries) {
    const size_t padded = (e.payload.size() + 7) / 8 * 8, start = out.size();
    out.resize(start + e.header + padded);
    put<uint16_t>(out, start, e.kind);
    put<uint16_t>(out, start + 2, 0x0101);
    put<uint32_t>(out, start + 4, e.header);
    put<uint64_t>(out, start + 8, padded);
    put<uint32_t>(out, start + 16, e.uncompressed ? uint32_t(e.payload.size()) : 0);
    put<uint32_t>(out, start + 28, e.arch);
    put<uint64_t>(out, start + 40, e.flags);
    put<uint64_t>(out, start + 56, e.uncompressed);
    std::copy(e.payload.begin(), e.payload.end(), out.begin() + start + e.header);
  }
  FatbinHeader header;
  header.entries_bytes = out.size() - sizeof(header);
  std::memcpy(out.data(), &header, sizeof(header));
  return out;
}

std::vector<uint32_t> archs(const FatbinSelection& selection) {
  const auto bytes = selection.assemble();
  auto again = Fatbin::parse(bytes);
  EXPECT_TRUE(again.ok()) << again.status().message();
  std::vector<uint32_t> out;
  if (again.ok())
    for (const auto& e : again->entries()) out.push_back(e.kind * 1000 + e.arch);
  return out;
}

TEST(Fatbin, SelectsWhatRunsOnTheGpu) {
  const auto fat = make_fatbin({{kEntryCubin, 75},
                                {kEntryCubin, 80},
                                {kEntryCubin, 86},
                                {kEntryCubin, 90},
                                {kEntryCubin, 90, kEntryArchSpecific},
                                {kEntryCubin, 100, kEntryFamilySpecific},
                                {kEntryPtx, 75},
                                {kEntryPtx, 90},
                                {kEntryPtx, 90, kEntryArchSpecific},
                                {kEntryPtx, 120},
                                {kEntryLtoIr, 90}});
  auto parsed = Fatbin::parse(fat);
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed->entries().size(), 11u);
  using Archs = std::vector<uint32_t>;
  EXPECT_EQ(archs(select_entries(*parsed, 9, 0)), (Archs{2090, 2090, 1090}));
  EXPECT_EQ(archs(select_entries(*parsed, 8, 6)), (Archs{2080, 2086, 1075}));
  EXPECT_EQ(archs(select_entries(*parsed, 8, 0)), (Archs{2080, 1075}));
  EXPECT_EQ(archs(select_entries(*parsed, 10, 3)), (Archs{2100, 1090}));
  EXPECT_EQ(archs(select_entries(*parsed, 12, 1)), (Archs{1120}));
  EXPECT_TRUE(select_entries(*parsed, 5, 0).empty());
  EXPECT_EQ(select_entries(*parsed, 9, 0).assemble().size(), select_entries(*parsed, 9, 0).bytes());
}

TEST(Fatbin, RejectsDamage) {
  const auto good = make_fatbin({{kEntryCubin, 90}, {kEntryPtx, 90}});
  ASSERT_TRUE(Fatbin::parse(good).ok());
  for (size_t n = 0; n < good.size(); n++) EXPECT_FALSE(Fatbin::parse(std::span(good).first(n)).ok()) << n;
  auto damaged = [&](size_t offset, auto value) {
    auto copy = good;
    put(copy, offset, value);
    return Fatbin::parse(copy).ok();
  };
  EXPECT_FALSE(damaged(0, uint32_t(0x1EE55A01)));  // old magic
  EXPECT_FALSE(damaged(4, uint16_t(2)));           // version
  EXPECT_FALSE(damaged(8, uint64_t(1) << 60));     // total
  EXPECT_FALSE(damaged(16 + 4, uint32_t(8)));      // entry header too small
  EXPECT_FALSE(damaged(16 + 4, uint32_t(0xfffffff0)));
  EXPECT_FALSE(damaged(16 + 8, UINT64_MAX - 63));  // payload size that overflows
  EXPECT_FALSE(damaged(16 + 16, uint32_t(9)));     // compressed size beyond what is stored
}

TEST(Fatbin, Decompresses) {
  const std::string text(5000, 'p');
  std::vector<std::byte> zstd(ZSTD_compressBound(text.size()));
  zstd.resize(ZSTD_compress(zstd.data(), zstd.size(), text.data(), text.size(), 3));
  std::vector<std::byte> lz4(size_t(LZ4_compressBound(int(text.size()))));
  lz4.resize(size_t(
      LZ4_compress_default(text.data(), reinterpret_cast<char*>(lz4.data()), int(text.size()), int(lz4.size()))));
  const auto fat = make_fatbin({{kEntryPtx, 90, kEntryZstd, zstd, text.size(), 72},
                                {kEntryPtx, 90, kEntryLz4, lz4, text.size()},
                                {kEntryCubin, 90}});
  auto parsed = Fatbin::parse(fat);
  ASSERT_TRUE(parsed.ok());
  for (int i = 0; i < 2; i++) {
    auto out = decompress(parsed->entries()[i]);
    ASSERT_TRUE(out.ok()) << out.status().message();
    EXPECT_EQ(*out, bytes_of(text));
  }
  EXPECT_EQ(decompress(parsed->entries()[2]).value(), bytes_of("payload!"));
  EXPECT_EQ(decompress(parsed->entries()[0], 4999).status().code(), StatusCode::kExhausted);

  for (auto [flags, payload] : {std::pair(kEntryZstd, zstd), std::pair(kEntryLz4, lz4)}) {
    payload[payload.size() / 2] ^= std::byte(0xff);
    for (uint64_t size : {uint64_t(text.size()) + 1, uint64_t(10), uint64_t(1) << 40}) {
      const auto bad = make_fatbin({{kEntryPtx, 90, uint64_t(flags), payload, size}});
      auto fatbin = Fatbin::parse(bad);
      ASSERT_TRUE(fatbin.ok());
      EXPECT_FALSE(decompress(fatbin->entries()[0]).ok());
    }
  }
}

std::vector<std::byte> make_elf() {
  std::vector<std::byte> out(sizeof(Elf64_Ehdr) + 100 + 2 * sizeof(Elf64_Shdr));
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_shoff = sizeof(Elf64_Ehdr) + 100;
  header.e_shnum = 2;
  header.e_shentsize = sizeof(Elf64_Shdr);
  std::memcpy(out.data(), &header, sizeof(header));
  Elf64_Shdr section{};
  section.sh_type = SHT_PROGBITS;
  section.sh_offset = sizeof(Elf64_Ehdr);
  section.sh_size = 100;
  std::memcpy(out.data() + header.e_shoff + sizeof(section), &section, sizeof(section));
  return out;
}

TEST(Image, IsSizedFromABarePointer) {
  auto fat = make_fatbin({{kEntryCubin, 90}});
  const size_t size = fat.size();
  fat.resize(size + 100);
  auto image = image_at(fat.data());
  ASSERT_TRUE(image.ok());
  EXPECT_TRUE(image->kind == ImageKind::kFatbin && !image->wrapped && image->bytes.size() == size);

  FatbinWrapper wrapper{kFatbinWrapperMagic, 1, fat.data(), nullptr};
  image = image_at(&wrapper);
  ASSERT_TRUE(image.ok());
  EXPECT_TRUE(image->kind == ImageKind::kFatbin && image->wrapped && image->bytes.data() == fat.data());

  auto elf = make_elf();
  const size_t elf_size = elf.size();
  elf.resize(elf_size + 64);
  image = image_at(elf.data());
  ASSERT_TRUE(image.ok());
  EXPECT_TRUE(image->kind == ImageKind::kElf && image->bytes.size() == elf_size);

  image = image_at("// PTX\n.version 9.0\n");
  ASSERT_TRUE(image.ok());
  EXPECT_TRUE(image->kind == ImageKind::kPtx && image->bytes.size() == 21);
  image = image_at("P");
  ASSERT_TRUE(image.ok());
  EXPECT_EQ(image->kind, ImageKind::kPtx);
}

TEST(Image, InvalidImagesAreRefused) {
  FatbinWrapper wrapper{kFatbinWrapperMagic, 3, &wrapper, nullptr};
  EXPECT_FALSE(image_at(&wrapper).ok());
  wrapper = {kFatbinWrapperMagic, 1, nullptr, nullptr};
  EXPECT_FALSE(image_at(&wrapper).ok());
  wrapper = {kFatbinWrapperMagic, 1, &wrapper, nullptr};
  EXPECT_FALSE(image_at(&wrapper).ok());
  EXPECT_FALSE(image_at(nullptr).ok());
  EXPECT_FALSE(image_at("").ok());
  EXPECT_FALSE(image_at("\x01\x02\x03").ok());
  auto elf = make_elf();
  put<uint16_t>(elf, offsetof(Elf64_Ehdr, e_shentsize), 8);
  EXPECT_FALSE(elf_bytes(elf).ok());
  elf = make_elf();
  put<uint64_t>(elf, offsetof(Elf64_Ehdr, e_shoff), UINT64_MAX - 8);
  EXPECT_FALSE(elf_bytes(elf).ok());
}

}  // namespace
}  // namespace bf::abi
