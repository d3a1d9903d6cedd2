// A program that carries its own protobuf and exports its own C++ library symbols, loaded together with the driver:
// what the driver library brings must not mix with them.
#include <dlfcn.h>
#include <google/protobuf/struct.pb.h>

#include <cstdio>
#include <stdexcept>
#include <string>

// A malicious twin of a function every C++ library contains: whoever calls this one was bound to the wrong library.
namespace std {
__attribute__((visibility("default"), noinline)) void __throw_out_of_range_fmt(const char*, ...) {
  throw std::runtime_error("the program's own");
}
}  // namespace std

int main() {
  google::protobuf::Struct message;
  (*message.mutable_fields())["before"].set_number_value(1);
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  if (!driver) {
    std::printf("%s\n", dlerror());
    return 1;
  }
  auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  auto count = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDeviceGetCount"));
  int devices = 0;
  int initialised = init(0), counted = count(&devices);
  std::printf("init %d, count %d, devices %d\n", initialised, counted, devices > 0);
  (*message.mutable_fields())["after"].set_string_value("text");
  google::protobuf::Struct copy;
  std::printf("protobuf works: %d\n", copy.ParseFromString(message.SerializeAsString()) && copy.fields().size() == 2);
  try {
    std::printf("%c\n", std::string("abc").at(7));
  } catch (const std::exception& error) {
    std::printf("caught: %s\n", error.what());
  }
  const char* leaked[] = {
      "_ZN6google8protobuf11MessageLite15ParseFromStringERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE",
      "_ZNSt6thread20hardware_concurrencyEv", "_ZN2bf8log_lineENS_8LogLevelESt17basic_string_viewIcSt11char_traitsIcEE",
      "ZSTD_decompress", "LZ4_decompress_safe"};
  for (const char* name : leaked) {
    Dl_info info;
    void* address = dlsym(driver, name);
    bool ours = address && dladdr(address, &info) && std::string(info.dli_fname).find("libcuda") != std::string::npos;
    std::printf("%.40s leaks from the driver: %d\n", name, ours);
  }
}
