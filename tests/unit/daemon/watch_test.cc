// When a server takes itself, or a GPU, out of offering.
#include <gtest/gtest.h>

#include "server/daemon/watch.h"

namespace bf::daemon {
namespace {

Vitals good() {
  return {.memory_free_mib = 8000, .memory_mib = 64'000, .disk_free_mib = 900, .disk = "/var/lib/backfield", .certificate_expires = 1'800'000'000, .now = 1'790'000'000};
}

TEST(Watch, AServerIsFitOrSaysWhyNot) {
  EXPECT_EQ(unfit(good()), "");
  Vitals v = good();
  v.memory_free_mib = 300;
  EXPECT_NE(unfit(v).find("only 300 MiB of its main memory"), std::string::npos);
  v = good();
  v.memory_mib = 2000, v.memory_free_mib = 300;
  EXPECT_EQ(unfit(v), "") << "a small machine has little";
  v = good();
  v.disk_free_mib = 3;
  EXPECT_NE(unfit(v).find("3 MiB are left in /var/lib/backfield"), std::string::npos);
  v.disk.clear();
  EXPECT_EQ(unfit(v), "") << "nothing is kept";
  v = good();
  v.now = v.certificate_expires;
  EXPECT_NE(unfit(v).find("certificate has expired"), std::string::npos);
  v.certificate_expires = 0;
  EXPECT_EQ(unfit(v), "");
  v = good();
  v.now = 1000;
  EXPECT_NE(unfit(v).find("clock is years behind"), std::string::npos);
}

TEST(Watch, AGpuIsFitOrSaysWhyNot) {
  EXPECT_EQ(unfit(Monitor::Reading{}), "");
  EXPECT_NE(unfit(Monitor::Reading{.lost = true}).find("fell off the bus"), std::string::npos);
  EXPECT_NE(unfit(Monitor::Reading{.uncorrected_errors = 3}).find("3 uncorrected"), std::string::npos);
  EXPECT_NE(unfit(Monitor::Reading{.remapping_failed = true}).find("replace the card"), std::string::npos);
}

TEST(Watch, OnlyGraveXidsCount) {
  auto off = grave_xid("4,1234,5678,-;NVRM: Xid (PCI:0000:3B:00): 79, pid=1234, name=python, GPU has fallen off the bus.");
  ASSERT_TRUE(off);
  EXPECT_EQ(off->pci, "0000:3b:00");
  EXPECT_EQ(off->number, 79u);
  EXPECT_TRUE(grave_xid("NVRM: Xid (PCI:0000:01:00): 48, an uncorrectable double bit error"));
  EXPECT_FALSE(grave_xid("NVRM: Xid (PCI:0000:01:00): 31, a program's own page fault"));
  EXPECT_FALSE(grave_xid("NVRM: Xid (PCI:0000:01:00): 13, a program's own exception"));
  EXPECT_FALSE(grave_xid("NVRM: Xid (PCI:0000:01:00"));
  EXPECT_FALSE(grave_xid("someone says NVRM: Xid"));
}

}  // namespace
}  // namespace bf::daemon
