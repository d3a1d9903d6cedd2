// Runs an LLVMFuzzerTestOneInput target without libFuzzer, with any compiler: it takes libFuzzer's main options, starts
// from the inputs it is given, mutates them for a bounded number of runs or seconds, and writes the input that broke
// the target to crash-HASH. There is no coverage feedback: what it finds, it finds by knowing the kind of input -
// lengths, varints and small integers near their limits, repeated, moved and cut pieces.
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" __attribute__((weak)) int LLVMFuzzerInitialize(int* argc, char*** argv);
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace {

using Bytes = std::vector<uint8_t>;

struct Options {
  uint64_t runs = 100'000;
  uint64_t seconds = 0;  // 0: no limit
  uint64_t seed = 1;
  size_t max_bytes = 4096;
};

// What the target is looking at, for the report of a crash. Never destroyed: a leak is reported after exit handlers ran.
Bytes& current = *new Bytes;

// Async-signal-safe, because it runs while the process dies.
void save_current() {
  uint64_t hash = 0xcbf29ce484222325;
  for (uint8_t byte : current) hash = (hash ^ byte) * 0x100000001b3;
  char name[] = "crash-0000000000000000";
  for (int i = 0; i < 16; i++) name[6 + i] = "0123456789abcdef"[(hash >> (60 - 4 * i)) & 15];
  int fd = ::open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (fd < 0 || ::write(fd, current.data(), current.size()) < 0) return;
  ::close(fd);
  const char text[] = "\nthe input was written to ";
  (void)!::write(2, text, sizeof(text) - 1);
  (void)!::write(2, name, sizeof(name) - 1);
  (void)!::write(2, "\n", 1);
}

void on_signal(int number) {
  save_current();
  ::signal(number, SIG_DFL);
  ::raise(number);
}

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  // One to five changes of a seed, or a fresh random input now and then.
  Bytes next(const std::vector<Bytes>& seeds, size_t max_bytes) {
    Bytes input;
    if (seeds.empty() || below(20) == 0) {
      input.resize(below(std::min<size_t>(max_bytes, 256) + 1));
      for (auto& byte : input) byte = uint8_t(random_());
    } else {
      input = seeds[below(seeds.size())];
    }
    for (size_t changes = 1 + below(5); changes > 0; changes--) change(input, seeds);
    if (input.size() > max_bytes) input.resize(max_bytes);
    return input;
  }

 private:
  size_t below(size_t limit) { return limit == 0 ? 0 : size_t(random_() % limit); }

  uint64_t interesting() {
    static constexpr uint64_t kBase[] = {0,          1,           16,         0x7f,     0x80,       0xff,
                                         0x100,      0xffff,      0x10000,    0x100000, 0x7fffffff, 0x80000000,
                                         0xffffffff, 0x100000000, ~0ull >> 1, ~0ull};
    return kBase[below(std::size(kBase))] + below(3) - 1;
  }

  void change(Bytes& input, const std::vector<Bytes>& seeds) {
    size_t at = below(input.size() + 1), bytes = std::min(below(below(64) + 2), input.size() - at);
    auto place = input.begin() + ptrdiff_t(at);
    switch (below(9)) {
      case 0:  // one bit
        if (at < input.size()) input[at] ^= uint8_t(1u << below(8));
        break;
      case 1:  // one byte
        if (at < input.size()) input[at] = uint8_t(random_());
        break;
      case 2:  // gone
        input.erase(place, place + ptrdiff_t(bytes));
        break;
      case 3:  // twice
      {
        Bytes piece(place, place + ptrdiff_t(bytes));
        input.insert(place, piece.begin(), piece.end());
        break;
      }
      case 4:  // random bytes inserted
      {
        Bytes piece(1 + below(16));
        for (auto& byte : piece) byte = uint8_t(random_());
        input.insert(place, piece.begin(), piece.end());
        break;
      }
      case 5:  // a fixed-width integer near a limit
      {
        uint64_t value = interesting();
        size_t width = size_t(1) << below(4);
        for (size_t i = 0; i < width && at + i < input.size(); i++) input[at + i] = uint8_t(value >> (8 * i));
        break;
      }
      case 6:  // a varint near a limit, in place of one byte
      {
        Bytes varint;
        uint64_t value = interesting();
        for (; value >= 0x80; value >>= 7) varint.push_back(uint8_t(value) | 0x80);
        varint.push_back(uint8_t(value));
        if (at < input.size()) place = input.erase(place);
        input.insert(place, varint.begin(), varint.end());
        break;
      }
      case 7:  // the end is missing
        input.resize(at);
        break;
      case 8:  // a piece of another seed
        if (!seeds.empty()) {
          const Bytes& other = seeds[below(seeds.size())];
          size_t from = below(other.size() + 1), count = below(other.size() - from + 1);
          input.insert(place, other.begin() + ptrdiff_t(from), other.begin() + ptrdiff_t(from + count));
        }
        break;
    }
  }

  std::mt19937_64 random_;
};

void read_inputs(const std::string& path, std::vector<Bytes>& inputs) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    std::fprintf(stderr, "cannot read %s\n", path.c_str());
    std::exit(2);
  }
  if (!S_ISDIR(info.st_mode)) {
    std::ifstream file(path, std::ios::binary);
    inputs.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    return;
  }
  std::vector<std::string> names;
  DIR* folder = ::opendir(path.c_str());
  while (dirent* entry = folder ? ::readdir(folder) : nullptr) {
    if (entry->d_name[0] != '.') names.push_back(path + "/" + entry->d_name);
  }
  if (folder) ::closedir(folder);
  std::sort(names.begin(), names.end());  // the same seed makes the same run everywhere
  for (const auto& name : names) read_inputs(name, inputs);
}

void run(const Bytes& input) {
  current = input;
  // A copy of exactly this size, so that a read past the end is seen.
  Bytes exact(input.begin(), input.end());
  exact.shrink_to_fit();
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

bool take_option(const char* argument, const char* name, uint64_t& value) {
  size_t length = std::strlen(name);
  if (std::strncmp(argument, name, length) != 0 || argument[length] != '=') return false;
  value = std::strtoull(argument + length + 1, nullptr, 10);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (LLVMFuzzerInitialize) LLVMFuzzerInitialize(&argc, &argv);
  Options options;
  std::vector<Bytes> seeds;
  for (int i = 1; i < argc; i++) {
    uint64_t max_len = 0;
    if (take_option(argv[i], "-runs", options.runs) || take_option(argv[i], "-max_total_time", options.seconds) ||
        take_option(argv[i], "-seed", options.seed))
      continue;
    if (take_option(argv[i], "-max_len", max_len)) {
      options.max_bytes = max_len;
    } else if (argv[i][0] == '-') {
      std::fprintf(stderr,
                   "usage: %s [-runs=N] [-max_total_time=SECONDS] [-seed=N] [-max_len=BYTES] [FILE or FOLDER ...]\n",
                   argv[0]);
      return 2;
    } else {
      read_inputs(argv[i], seeds);
    }
  }
  if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(save_current);
  ::signal(SIGABRT, on_signal);

  for (const Bytes& seed : seeds) {
    options.max_bytes = std::max(options.max_bytes, seed.size());
    run(seed);
  }
  run({});
  Mutator mutator(options.seed);
  const auto start = std::chrono::steady_clock::now();
  auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  uint64_t done = 0;
  while (done < options.runs && (options.seconds == 0 || done % 64 != 0 || seconds() < double(options.seconds))) {
    run(mutator.next(seeds, options.max_bytes));
    done++;
  }
  std::printf("%llu inputs from %zu seeds in %.1f s, none broke the target\n", static_cast<unsigned long long>(done),
              seeds.size(), seconds());
}
