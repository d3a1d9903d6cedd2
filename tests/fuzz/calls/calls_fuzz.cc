// Every call decoder, in front of fake drivers and handlers that read all they are given and fill all they may fill.
// Half of the inputs are bodies as they are; the other half seed an exercise of one call, whose true body is then cut
// and damaged in many ways (tests/unit/api/exercise.h).
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "api/exercise_list.h"
#include "tests/unit/api/exercise.h"

namespace {

using namespace bf;

const DriverApi& fake_driver() {
  static const DriverApi* const api = [] {
    auto* made = new DriverApi;
    apitest::install_fakes(*made);
    return made;
  }();
  return *api;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 4) return 0;
  const auto& listed = apitest::kListed[(data[0] | data[1] << 8) % apitest::kListedCount];
  if (data[2] % 2) {
    uint64_t seed = 0;
    std::memcpy(&seed, data + 3, size - 3 < 8 ? size - 3 : 8);
    apitest::Exercise x(fake_driver(), seed, nullptr);
    x.name = listed.name;
    listed.run(x);
    if (testing::Test::HasFailure()) abort();
    return 0;
  }
  apitest::HostileDriver hostile;
  auto call = std::make_unique<apitest::FakeCall>(fake_driver());
  call->opcode = listed.opcode;
  call->flags = data[3];
  call->body = std::as_bytes(std::span(data + 4, size - 4));
  server::lookup(listed.opcode)->run(*call);
  return 0;
}
