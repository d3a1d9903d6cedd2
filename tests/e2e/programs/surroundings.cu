// Standard input, environment, arguments and working directory reach the program as they are.
#include <unistd.h>

#include <iostream>
#include <string>

#include "e2e.h"

int main(int argc, char** argv) {
  void* memory;
  CHECK(cudaMalloc(&memory, 16));
  for (int i = 1; i < argc; i++) std::printf("argument %d: [%s]\n", i, argv[i]);
  std::string line;
  while (std::getline(std::cin, line)) std::printf("read [%s]\n", line.c_str());
  const char* value = std::getenv("BF_E2E_GREETING");
  std::printf("environment [%s]\n", value ? value : "unset");
  char directory[4096];
  std::printf("in %s\n", getcwd(directory, sizeof(directory)));
  std::fprintf(stderr, "to stderr\n");
  return 5;
}
