// Any bytes as an output's nibblecast.json, for the two that rely on it: convert, which lays tensors out as
// the release that it records had them, and verify --checksums.
#include "checkpoint/safetensors.h"
#include "faults/memory_files.h"
#include "fuzzing.h"
#include "pipeline/verify_checksums.h"
#include "plan/convert.h"

namespace nibblecast {
namespace {

using fuzzing::put_file;
using fuzzing::require;

// One expert's weight of 16 rows and 32 columns.
const std::string& shard() {
  static const std::string bytes = [] {
    const std::string module = "layers.0.ffn.experts.0.w1.";
    const std::vector<Tensor> tensors = {
        {.name = module + "weight", .dtype = Dtype::kU8, .shape = {16, 16}, .offset = 0, .size_bytes = 256},
        {.name = module + "weight_scale",
         .dtype = Dtype::kF8E4M3,
         .shape = {16, 2},
         .offset = 256,
         .size_bytes = 32},
        {.name = module + "weight_scale_2",
         .dtype = Dtype::kF32,
         .shape = {},
         .offset = 288,
         .size_bytes = 4},
        {.name = module + "input_scale", .dtype = Dtype::kF32, .shape = {}, .offset = 292, .size_bytes = 4}};
    return write_safetensors_header(tensors, {}) + std::string(288, '\x38') +
           std::string("\0\0\x80?\0\0\x80?", 8);
  }();
  return bytes;
}

void put_output(FileSystem& files, std::string_view record) {
  put_file(files, "/o/model.safetensors", shard());
  put_file(files, "/o/config.json", "{}");
  put_file(files, "/o/nibblecast.json", record);
}

// A record that says something else of the release must not change what the plan covers.
void try_convert(std::string_view record) {
  testing::MemoryFiles files;
  put_output(files, record);
  const Plan plan = make_convert_plan(Checkpoint::open("/o", files));
  require(plan.tensors.size() == 2 && plan.shards.size() == 1);
  for (const PlannedTensor& tensor : plan.tensors) require(tensor.out.end() <= plan.shards[0].size_bytes);
}

void try_checksums(std::string_view record) {
  testing::MemoryFiles files;
  put_output(files, record);
  const ChecksumReport report = verify_checksums(files, "/o", {});
  require(!report.ok() || report.tensors == 4);
}

}  // namespace
}  // namespace nibblecast

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace nibblecast;
  const std::string_view text = fuzzing::text_of(bytes, size);
  fuzzing::refused_or([&] { try_convert(text); });
  fuzzing::refused_or([&] { try_checksums(text); });
  return 0;
}
