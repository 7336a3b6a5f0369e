#include "cuda_testing.h"
#include "model/device_memory.h"
#include "model/forward_pass.h"

namespace nibblecast {
namespace {

ForwardDevice forward_device() {
  ForwardDevice device;
  device.cuda = find_cuda_devices().usable.at(0).ordinal;
  return device;
}
// cuBLASLt may take another algorithm for another number of rows.
bool rows_are_alone() { return false; }
constexpr size_t kLongRow = 8400;

}  // namespace
}  // namespace nibblecast
#define SKIP_WITHOUT_DEVICE() SKIP_WITHOUT_CUDA()
#include "decoder_oracle_suite.h"
#include "decoder_suite.h"

namespace nibblecast {
namespace {

struct Result {
  std::vector<std::byte> streams;
  std::vector<LayerAmax> amax;
  RowLosses losses;
  bool operator==(const Result&) const = default;
};

template <class T>
Result run(const DecoderModel& model, const Rows& rows, uint64_t memory_bytes) {
  ForwardDevice device = forward_device();
  device.memory_bytes = memory_bytes;
  const auto pass = make_forward_pass<T>(model.model, rows, device);
  Result result;
  result.amax = model.run(*pass);
  result.streams.resize(pass->streams_bytes());
  pass->get_streams(0, result.streams);
  result.losses = model.run_head(*pass);
  return result;
}

// With two slots for MLPs and, without experts, the residual stream in host memory.
template <class T>
uint64_t least_memory(const DecoderModel& model, const Rows& rows) {
  CudaWorkload workload{.rows = rows.size()};
  for (const auto& row : rows) {
    workload.tokens += row.size();
    workload.longest_row = std::max<uint64_t>(workload.longest_row, row.size());
  }
  return forward_device_memory<T>(model.model, workload, 0, ~uint64_t{0}).least_bytes;
}

template <class T>
void expect_same_bytes(const DecoderModel& model, const Rows& rows) {
  const Result first = run<T>(model, rows, 0);
  EXPECT_TRUE(first == run<T>(model, rows, 0));
  EXPECT_TRUE(first == run<T>(model, rows, least_memory<T>(model, rows)));
}

// Several groups of rows, one of them a single long row, rows of one token and of none.
TEST(DecoderCuda, BytesDoNotDependOnMemoryOrRun) {
  SKIP_WITHOUT_CUDA();
  Rows rows;
  unsigned seed = 0;
  for (const size_t length : {1, 700, 0, 513, 9500, 1200, 3, 2000, 127})
    rows.push_back(random_ids(length, ++seed, 130));
  expect_same_bytes<bf16>(DecoderModel(small_spec(small_gqa(), MlpSpec{.width = 96})), rows);
  expect_same_bytes<bf16>(DecoderModel(mixed_spec()), rows);
  expect_same_bytes<bf16>(DecoderModel(hybrid_spec()), rows);
  expect_same_bytes<float>(DecoderModel(mixed_spec()), short_rows());
}

TEST(DecoderCuda, RefusesWhatDoesNotFit) {
  SKIP_WITHOUT_CUDA();
  const DecoderModel model(mixed_spec());
  expect_error(
      ErrorKind::kRefused, [&] { run<bf16>(model, short_rows(), 1 << 20); }, "GPU's memory");
}

}  // namespace
}  // namespace nibblecast
