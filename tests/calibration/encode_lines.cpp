// encode_lines TOKENIZER.JSON TEXTS.JSONL: the ids of each line's "text", with special tokens, one JSON array
// a line. For tools/check_tokenizer.py.
#include <cstdio>
#include <fstream>
#include <iostream>

#include "base/json.h"
#include "calibration/tokenizer.h"

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::fprintf(stderr, "usage: encode_lines TOKENIZER.JSON TEXTS.JSONL\n");
    return 2;
  }
  const auto tokenizer = nibblecast::Tokenizer::load(nibblecast::system_files(), argv[1]);
  std::ifstream lines(argv[2]);
  std::string line;
  while (std::getline(lines, line)) {
    const nibblecast::Json json = nibblecast::parse_json(line, argv[2]);
    std::cout << nibblecast::Json(tokenizer.encode(json.at("text").get<std::string>())).dump() << '\n';
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
