// Serves a folder as the model OWNER/NAME of an imitated Hub until its standard input ends, for
// tools/check_hub.py: prints the endpoint's address.
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <limits>

#include "remote/hub_server.h"

int main(int count, char** words) {
  if (count < 4 || count > 6) {
    std::fprintf(stderr, "usage: serve_hub FOLDER OWNER/NAME TOKEN [DELAY_SECONDS BYTES_PER_SECOND]\n");
    return 2;
  }
  nibblecast::testing::HubServer hub(words[1], words[2]);
  hub.token = words[3];
  hub.is_counting = false;
  if (count == 6)
    hub.set_line({.delay_seconds = std::atof(words[4]), .bytes_per_second = std::atof(words[5])});
  std::printf("%s\n", hub.endpoint().c_str());
  std::fflush(stdout);
  std::cin.ignore(std::numeric_limits<std::streamsize>::max());
  return 0;
}
