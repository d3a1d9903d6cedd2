// Which devices a program sees, by CUDA_VISIBLE_DEVICES: each setting in a process of its own. Measured with one GPU on
// driver 580.159.04; with --two, what follows for two GPUs.
#include <sys/wait.h>
#include <unistd.h>

#include "driver.h"

namespace {

std::string uuid_of(CUdevice device) {
  CUuuid uuid;
  CHECK(cuDeviceGetUuid_v2(&uuid, device));
  char text[48];
  const auto* b = reinterpret_cast<const unsigned char*>(uuid.bytes);
  std::snprintf(text, sizeof text, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2], b[3],
                b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
  return text;
}

// In a child: the environment is read when the driver is initialised.
template <typename Body>
void in_child(Body body) {
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    body();
    std::fflush(stdout);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (status != 0) std::printf("the child ended with %d\n", status);
}

void look(const char* shown, const std::string& value, const std::string uuids[2]) {
  in_child([&] {
    setenv("CUDA_VISIBLE_DEVICES", value.c_str(), 1);
    int count = -1;
    const CUresult started = cuInit(0);
    std::printf("'%s': %s, %s", shown, name_of(started), name_of(cuDeviceGetCount(&count)));
    for (int device = 0; device < count; device++) std::printf(" %s", uuid_of(device) == uuids[0] ? "A" : uuid_of(device) == uuids[1] ? "B" : "?");
    std::printf("\n");
  });
}

}  // namespace

int main(int argc, char** argv) {
  const bool two = argc > 1 && std::string(argv[1]) == "--two";
  int pipes[2];
  if (pipe(pipes) != 0) return 1;
  in_child([&] {
    int count = 0;
    CHECK(cuInit(0));
    CHECK(cuDeviceGetCount(&count));
    const std::string all = count > two ? uuid_of(0) + (two ? uuid_of(1) : "") : "";
    if (write(pipes[1], all.data(), all.size()) != ssize_t(all.size())) _exit(1);
  });
  close(pipes[1]);
  char text[128] = "";
  const ssize_t got = read(pipes[0], text, sizeof text - 1);
  if (got <= 0) return std::printf("skipped: %s\n", two ? "one device" : "no device"), 77;
  const std::string all(text, size_t(got));
  const std::string uuids[2] = {all.substr(0, 40), two ? all.substr(40) : "none"};
  for (const char* value : {"0", "0,0", "7", "-1", "", "0,7", "0,x", "x", " 0", "0 ", "0 , 0", "00", "+0", "0x0", "0,,0", ",0", "0,", "GPU-",
                            "GPU-zz", "MIG-", "0garbage", "NoDevFiles", "none", "all", "0.5", "4294967296", "0,-1", "-1,0", "0;1", "gpu-"}) {
    look(value, value, uuids);
  }
  std::string upper = uuids[0];
  for (char& c : upper) c = char(toupper(c));
  look("UUID", uuids[0], uuids);
  look("UUID in capitals", upper, uuids);
  look("UUID without GPU-", uuids[0].substr(4), uuids);
  look("UUID and more", uuids[0] + "00", uuids);
  look("UUID twice", uuids[0] + "," + uuids[0], uuids);
  look("UUID,0", uuids[0] + ",0", uuids);
  if (two) {
    look("1,0", "1,0", uuids);
    look("1", "1", uuids);
    look("UUID of B, UUID of A", uuids[1] + "," + uuids[0], uuids);
  }
  for (const char* value : {"EAGER", "LAZY", "eager", "x", ""}) {
    in_child([&] {
      setenv("CUDA_MODULE_LOADING", value, 1);
      CUmoduleLoadingMode mode{};
      CHECK(cuInit(0));
      CHECK(cuModuleGetLoadingMode(&mode));
      std::printf("CUDA_MODULE_LOADING '%s': %d\n", value, int(mode));
    });
  }
  in_child([] {
    setenv("CUDA_LAUNCH_BLOCKING", "1", 1);
    CUmodule module;
    CUfunction fill;
    CUdeviceptr wild = 16;
    unsigned value = 1, count = 64;
    void* list[] = {&wild, &value, &count};
    use_device(0);
    CHECK(cuModuleLoadData(&module, kPtx));
    CHECK(cuModuleGetFunction(&fill, module, "fill"));
    std::printf("CUDA_LAUNCH_BLOCKING: the launch says %s\n", name_of(cuLaunchKernel(fill, 1, 1, 1, 64, 1, 1, 0, nullptr, list, nullptr)));
  });
}
