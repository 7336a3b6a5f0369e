// How near the memory-bound ops come to the rate at which the device copies its own memory, at the sizes of
// DeepSeek-V4-Pro. Bytes are what must be read and written once; times are medians between events.
//
//   ops_cuda_bench [tokens = 65536]
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "base/cuda.h"
#include "base/cuda_devices.h"
#include "ops/amax_cuda.h"
#include "ops/hyper_connection_cuda.h"
#include "ops/rmsnorm_cuda.h"
#include "ops/router_cuda.h"
#include "ops/rows_cuda.h"
#include "ops/swiglu_cuda.h"

namespace {

using namespace nibblecast;

constexpr size_t kWidth = 7168, kStreams = 4, kOutputs = (2 + kStreams) * kStreams, kExperts = 384, kTop = 6;
constexpr size_t kInner = 3072, kBatch = 1024, kHeadDim = 512, kRotated = 64, kQueryRank = 1536;

// Random, because what zeros take differs.
template <class T>
DeviceArray<T> random_array(size_t count) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<T> piece(std::min<size_t>(count, 1 << 20));
  for (T& value : piece) value = from_float<T>(normal(generator));
  DeviceArray<T> array(count);
  CudaStream stream;
  for (size_t at = 0; at < count; at += piece.size())
    copy_async(stream, array.data() + at, piece.data(), std::min(piece.size(), count - at) * sizeof(T));
  stream.synchronize();
  return array;
}

DeviceArray<uint32_t> ascending(size_t count) {
  std::vector<uint32_t> values(count);
  std::iota(values.begin(), values.end(), 0u);
  return to_device(std::span<const uint32_t>(values));
}

class Table {
 public:
  // `rate`: of the copy that stands first; 0 for that itself.
  double add(const std::string& name, double bytes, double rate, const std::function<void()>& launch) {
    std::vector<double> seconds;
    for (int run = 0; run < 25; ++run) {
      CudaEvent begin(CudaEvent::Timing::kOn), end(CudaEvent::Timing::kOn);
      begin.record(stream);
      launch();
      end.record(stream);
      end.synchronize();
      if (run >= 5) seconds.push_back(end.seconds_since(begin));
    }
    std::sort(seconds.begin(), seconds.end());
    const double median = seconds[seconds.size() / 2], found = bytes / median;
    fmt::print("{:<34} {:9.3f} ms {:8.0f} GB/s {:5.0f} %\n", name, median * 1e3, found / 1e9,
               100 * (rate == 0 ? 1 : found / rate));
    return found;
  }
  CudaStream stream;
};

template <class T>
void time_type(size_t tokens, const std::string& type) {
  Table table;
  CudaStream& stream = table.stream;
  const double size = sizeof(T), n = static_cast<double>(tokens), row = n * kWidth;
  const DeviceArray<uint32_t> seen = ascending(2);
  DeviceAmax first = seen.data(), second = seen.data() + 1;
  const auto streams = random_array<T>(tokens * kStreams * kWidth);
  const auto x = random_array<T>(tokens * kWidth), y = random_array<T>(tokens * kWidth);
  const auto sums = random_array<float>(tokens * kWidth), more_sums = random_array<float>(tokens * kWidth);
  const auto norm = random_array<float>(kWidth), base = random_array<float>(kOutputs);
  const auto products = random_array<float>(kStreams * tokens * kFnParts<T> * kOutputs);
  const DeviceArray<StreamMix> mixes(tokens);
  const DeviceArray<uint32_t> order = ascending(tokens);

  const double copy = table.add("copy of " + type, 2 * size * row * kStreams / 2, 0, [&] {
    copy_async(stream, streams.data(), streams.data() + tokens * kStreams * kWidth / 2,
               tokens * kStreams * kWidth / 2 * sizeof(T));
  });
  table.add("amax", size * row * kStreams, copy,
            [&] { amax_cuda(stream, streams.data(), tokens * kStreams * kWidth, first); });
  table.add("rmsnorm 7168", 2 * size * row, copy,
            [&] { rmsnorm_cuda(stream, x.data(), tokens, kWidth, norm.data(), 1e-6f, y.data(), first); });
  table.add("rmsnorm 1536 of sums", (4 + size) * n * kQueryRank, copy, [&] {
    rmsnorm_cuda(stream, sums.data(), tokens, kQueryRank, norm.data(), 1e-6f, y.data(), first);
  });
  const DeviceRope rope(Rope(rope_frequencies(10000, kRotated, std::nullopt), tokens));
  table.add("norm_and_turn 512 of sums", (4 + size) * n * kHeadDim, copy, [&] {
    norm_and_turn_cuda(stream, sums.data(), tokens, kHeadDim, norm.data(), 1e-6f, rope.view(), order.data(),
                       y.data());
  });
  CudaProducts multiplier;
  const size_t outputs = kFnParts<T> * kOutputs, group = std::min<size_t>(tokens, 8192);
  const auto fn = random_array<T>(kStreams * kWidth * outputs);
  table.add("product with fn, groups of 8192", size * row * kStreams + 4 * n * kStreams * outputs, copy, [&] {
    for (size_t begin = 0; begin + group <= tokens; begin += group)
      multiplier.multiply(stream, fn_product(group, kStreams, kWidth, outputs),
                          streams.data() + begin * kStreams * kWidth, fn.data(),
                          products.data() + begin * kStreams * outputs);
  });
  const HyperConnectionView connection{kStreams, kWidth, 20, 1e-6f, 1e-6f, base.data(), norm.data()};
  table.add("mix_streams", size * row * (kStreams + 1), copy, [&] {
    mix_streams_cuda(stream, connection, streams.data(), tokens, products.data(), norm.data(), x.data(),
                     mixes.data(), first);
  });
  table.add("merge_streams", size * row * (kStreams + 1), copy, [&] {
    merge_streams_cuda(stream, connection, streams.data(), tokens, products.data(), norm.data(), x.data());
  });
  table.add("spread_to_streams", size * row * (2 * kStreams + 1), copy, [&] {
    spread_to_streams_cuda(stream, mixes.data(), x.data(), tokens, kStreams, kWidth, streams.data(), first);
  });
  const DeviceArray<int32_t> chosen(tokens * kTop);
  const DeviceArray<float> weights(tokens * kTop);
  const DeviceArray<RouterFaults> faults(1);
  table.add("route", n * (4.0 * kExperts + 8.0 * kTop), copy, [&] {
    route_cuda(stream, {kExperts, kTop, 2.5f, norm.data(), nullptr}, sums.data(), nullptr, tokens,
               chosen.data(), weights.data(), faults.data());
  });
  const size_t batches = tokens / kBatch;
  table.add("swiglu, batches of 1024", n * kInner * (8 + size), copy, [&] {
    for (size_t batch = 0; batch < batches; ++batch)
      swiglu_cuda(stream, sums.data() + batch * kBatch * 2 * kInner, kBatch, kInner, 10, norm.data(),
                  y.data() + batch * kBatch * kInner, first, second);
  });
  table.add("gather_rows, batches of 1024", 2 * size * row, copy, [&] {
    for (size_t batch = 0; batch < batches; ++batch)
      gather_rows_cuda(stream, x.data(), kWidth, order.data() + batch * kBatch, kBatch,
                       y.data() + batch * kBatch * kWidth, first);
  });
  table.add("scatter_add_rows, batches of 1024", 12 * row, copy, [&] {
    for (size_t batch = 0; batch < batches; ++batch)
      scatter_add_rows_cuda(stream, sums.data() + batch * kBatch * kWidth, kWidth,
                            order.data() + batch * kBatch, kBatch, more_sums.data());
  });
  table.add("round", (4 + size) * row, copy,
            [&] { round_cuda(stream, sums.data(), tokens * kWidth, y.data()); });
  const auto embedding = random_array<bf16>(tokens * kWidth);
  const auto* ids = reinterpret_cast<const int32_t*>(order.data());
  table.add("embed", (2 + size * kStreams) * row, copy, [&] {
    embed_cuda(stream, embedding.data(), 0, tokens, ids, tokens, kStreams, kWidth, streams.data(), first);
  });
}

}  // namespace

int main(int argc, char** argv) {
  const size_t tokens = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 65536;
  const CudaDevices found = find_cuda_devices();
  if (found.usable.empty()) {
    fmt::print(stderr, "{}\n", found.absence);
    return 1;
  }
  use_cuda_device(found.usable[0].ordinal);
  fmt::print("{}, {} tokens\n", cuda_device_text(), tokens);
  time_type<bf16>(tokens, "BF16");
  time_type<float>(tokens, "FP32");
}
