// GoogleTest's main, and the far end for the tests that kill it.
#include <gtest/gtest.h>

#include <cstring>

#include "tests/contract/link_pair.h"

int main(int argc, char** argv) {
  if (argc > 1 && strcmp(argv[1], "--peer") == 0) return bf::transport::test::peer_main(argc, argv);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
