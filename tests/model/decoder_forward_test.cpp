#include <fstream>
#include <sstream>

#include "base/parallel.h"
#include "model/forward_pass.h"
#include "ops/matmul.h"
#include "sanitizers.h"

namespace nibblecast {
namespace {
ForwardDevice forward_device() { return {}; }
bool rows_are_alone() { return rows_stand_alone<float>() && rows_stand_alone<bf16>(); }
constexpr size_t kLongRow = 4300;
}  // namespace
}  // namespace nibblecast
#define SKIP_WITHOUT_DEVICE() static_assert(true)
#include "decoder_oracle_suite.h"
#include "decoder_suite.h"

namespace nibblecast {
namespace {

// A line of /proc/self/status, in bytes.
uint64_t process_bytes(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with(name + ":")) continue;
    uint64_t kib = 0;
    std::istringstream(line.substr(name.size() + 1)) >> kib;
    return kib * 1024;
  }
  return 0;
}

// Many rows and a long one; the largest buffers are those of the residual stream.
TEST(DecoderMemory, IsAtMostWhatAPlanSays) {
  SKIP_WITH_SANITIZERS();
  std::ofstream clear("/proc/self/clear_refs");
  const GqaSpec gqa{.heads = 8, .kv_heads = 4, .width = 64, .rope = {.dims = 64}, .scale = 0.125f};
  DecoderSpec spec = small_spec(gqa, MlpSpec{.width = 768});
  spec.hidden = 512;
  spec.vocab = 1500;
  MoeSpec moe = small_moe();
  moe.expert.width = 512;
  moe.shared = MlpSpec{.width = 256};
  spec.layers.push_back({gqa, moe});
  const DecoderModel model(spec);
  Rows rows = {random_ids(3000, 1, spec.vocab)};
  uint64_t tokens = 3000;
  for (unsigned row = 0; row < 60; ++row, tokens += 50) rows.push_back(random_ids(50, row, spec.vocab));
  constexpr size_t kThreads = 2;
  const ThreadLimit limit(kThreads);
  model.run(*make_pass<bf16>(model, {rows[1]}));  // loads code, makes kernels
  if (!(clear << "5" << std::flush)) GTEST_SKIP() << "the peak of memory cannot be reset here";
  const uint64_t before = process_bytes("VmRSS");
  const auto pass = make_pass<bf16>(model, rows);
  model.run(*pass);
  model.run_head(*pass);
  const uint64_t took = process_bytes("VmHWM") - before;
  // The tensors handed in are kept, of one layer.
  uint64_t handed_in = 0;
  for (const WeightModule& module : model.model.table.layers[1].modules)
    if (!module.streams()) handed_in += 2 * module.shape[0] * module.shape[1];
  const uint64_t planned = forward_memory_bytes<bf16>(model.model, tokens, 3000, kThreads);
  EXPECT_LE(took, planned + handed_in);
  EXPECT_GE(took, planned / 2);  // it says something
}

}  // namespace
}  // namespace nibblecast
