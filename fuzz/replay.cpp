// Drives a fuzz target without libFuzzer, so that every build can run it: each seed as it is, then mutated
// by a fixed generator, which makes a failure repeat itself.
//
//   fuzz_x_replay RUNS SEED_FOLDER
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size);

namespace {

using Random = std::mt19937_64;

std::vector<std::string> read_seeds(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> seeds;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return seeds;
}

void run(const std::string& input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

// One small damage: a flipped bit, a byte that JSON cares about, a cut, or a piece copied or taken out.
void damage(std::string& input, Random& random) {
  constexpr std::string_view kTelling = "{}[]:,\"\\-.0123456789e \0\xff";
  const size_t at = random() % (input.size() + 1);
  const size_t length = std::min<size_t>(random() % 16, input.size() - at);
  switch (random() % 5) {
    case 0:
      if (at < input.size()) input[at] = static_cast<char>(input[at] ^ (1 << random() % 8));
      break;
    case 1:
      input.insert(at, 1, kTelling[random() % kTelling.size()]);
      break;
    case 2:
      input.resize(at);
      break;
    case 3:
      input.erase(at, length);
      break;
    case 4:
      input.insert(random() % (input.size() + 1), input.substr(at, length));
      break;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return std::fputs("usage: RUNS SEED_FOLDER\n", stderr), 2;
  const std::vector<std::string> seeds = read_seeds(argv[2]);
  if (seeds.empty()) return std::fputs("no seeds\n", stderr), 2;
  for (const std::string& seed : seeds) run(seed);
  Random random(1);
  const long runs = std::atol(argv[1]);
  for (long i = 0; i < runs; ++i) {
    std::string input = seeds[static_cast<size_t>(i) % seeds.size()];
    for (uint64_t count = 1 + random() % 3; count > 0; --count) damage(input, random);
    run(input);
  }
  std::printf("%zu seeds, %ld mutations\n", seeds.size(), runs);
}
