// Calibration of one full-width DeepSeek-V4-Pro layer, random weights: seconds and TFLOP/s of its parts, and
// the rate of oneDNN's own product on the same shapes with packed BF16 weights and as many threads.
//
//   calibration_bench [rows] [tokens a row] [compress ratio: 4 or 128] [threads]     (16 512 4, all)

#include <omp.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <random>
#include <thread>

#include "base/parallel.h"
#include "model/deepseek_v4.h"
#include "model/deepseek_v4_tensors.h"
#include "model/presets.h"
#include "model/random_layer.h"
#include "ops/attention.h"
#include "ops/hyper_connection.h"
#include "ops/linear.h"

namespace nibblecast {
namespace {

using testing::random_layer;
using testing::RandomLayer;

constexpr size_t kDistinctExperts = 24;

double seconds(const std::function<void()>& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// With NIBBLECAST_BENCH_CPU_TIME set, CPU seconds of the process over its threads: for a machine that others
// use.
double part_seconds(size_t threads, const std::function<void()>& f) {
  if (std::getenv("NIBBLECAST_BENCH_CPU_TIME") == nullptr) return seconds(f);
  const std::clock_t begin = std::clock();
  f();
  return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC / static_cast<double>(threads);
}

// Best of some runs of oneDNN's own product with packed weights, on `threads` threads; FLOP/s.
double packed_rate(size_t m, size_t n, size_t k, size_t threads) {
  using dnnl::memory;
  omp_set_num_threads(static_cast<int>(threads));
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  using dim = memory::dim;
  const dim rows = static_cast<dim>(m), cols = static_cast<dim>(n), depth = static_cast<dim>(k);
  constexpr auto kType = memory::data_type::bf16;
  const dnnl::matmul::primitive_desc descriptor(
      dnnl::matmul::desc({{rows, depth}, kType, memory::format_tag::ab},
                         {{depth, cols}, kType, memory::format_tag::any},
                         {{rows, cols}, kType, memory::format_tag::ab}),
      engine);
  memory x(descriptor.src_desc(), engine), w(descriptor.weights_desc(), engine),
      y(descriptor.dst_desc(), engine);
  std::memset(x.get_data_handle(), 0, descriptor.src_desc().get_size());
  std::memset(w.get_data_handle(), 0, descriptor.weights_desc().get_size());
  const dnnl::matmul product(descriptor);
  double best = INFINITY;
  for (int run = 0; run < 8; ++run) {
    best = std::min(best, part_seconds(threads, [&] {
                      product.execute(stream, {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, y}});
                      stream.wait();
                    }));
  }
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) / best;
}

// Peak resident memory of the process so far.
uint64_t peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

struct Part {
  std::string name;
  double seconds = 0, flop = 0, ideal_seconds = 0;  // ideal: at oneDNN's own rate
};

void print(const Part& part) {
  std::printf("%-34s %8.3f s %9.3f TFLOP %7.3f TFLOP/s", part.name.c_str(), part.seconds, part.flop / 1e12,
              part.flop / part.seconds / 1e12);
  if (part.ideal_seconds > 0) {
    std::printf("   oneDNN packed %7.3f TFLOP/s   share %5.1f %%", part.flop / part.ideal_seconds / 1e12,
                100 * part.ideal_seconds / part.seconds);
  }
  std::printf("\n");
  std::fflush(stdout);
}

class Bench {
 public:
  Bench(const DeepseekV4Config& config, size_t rows, size_t length, size_t threads)
      : config_(config),
        rows_(rows),
        length_(length),
        tokens_(rows * length),
        threads_(threads),
        layer_(random_layer(config, 0, kDistinctExperts)) {}

  void run() {
    std::printf("DeepSeek-V4-Pro width, ratio %u, %zu rows of %zu tokens, %zu threads\n",
                config_.compress_ratios[0], rows_, length_, threads_);
    run_layer();
    std::printf("Parts by themselves, on the same shapes:\n");
    run_linears();
    run_attention_core();
    run_hyper_connections();
    run_dequantize();
  }

 private:
  void run_layer() {
    std::vector<std::vector<int32_t>> ids(rows_);
    for (std::vector<int32_t>& row : ids) {
      for (size_t i = 0; i < length_; ++i)
        row.push_back(static_cast<int32_t>(layer_.generator() % config_.vocab_size));
    }
    const uint64_t before = peak_bytes();
    DeepseekV4Forward<bf16> forward(config_, ids);
    forward.embed(0, config_.vocab_size,
                  layer_.values(Dtype::kBF16, config_.vocab_size * config_.hidden_size, config_.hidden_size));
    Part begin{"begin_layer (attention, router)"}, experts{"routed experts"},
        end{"end_layer (shared expert)"};
    begin.seconds = part_seconds(threads_, [&] { forward.begin_layer(0, layer_.dense); });
    std::vector<double> tokens_of(config_.n_routed_experts);
    for (const int32_t expert : forward.chosen_experts()) ++tokens_of[static_cast<size_t>(expert)];
    for (uint64_t expert = 0; expert < config_.n_routed_experts; ++expert) {
      experts.seconds +=
          part_seconds(threads_, [&] { forward.expert(expert, layer_.experts[expert % kDistinctExperts]); });
    }
    end.seconds = part_seconds(threads_, [&] { forward.end_layer(); });
    std::printf(
        "memory: grew by %.0f MB, bounded by %.0f MB\n", static_cast<double>(peak_bytes() - before) / 1e6,
        static_cast<double>(DeepseekV4Forward<bf16>::memory_bytes(config_, tokens_, length_, threads_)) /
            1e6);
    account(begin, experts, end, tokens_of);
    Part all{"layer", begin.seconds + experts.seconds + end.seconds, begin.flop + experts.flop + end.flop,
             begin.ideal_seconds + experts.ideal_seconds + end.ideal_seconds};
    for (const Part& part : {begin, experts, end, all}) print(part);
    std::printf("tokens an expert: least %.0f, most %.0f\n",
                *std::min_element(tokens_of.begin(), tokens_of.end()),
                *std::max_element(tokens_of.begin(), tokens_of.end()));
  }

  // Products of the linears only; what else a part does costs time without counting.
  void account(Part& begin, Part& experts, Part& end, const std::vector<double>& tokens_of) {
    for (const ModelTensor& tensor : layer_tensors(config_, 0)) {
      if (tensor.shape.size() != 2 || tensor.name.find("hc_") != std::string::npos ||
          tensor.name.find("ape") != std::string::npos || tensor.storage == Storage::kExpert) {
        continue;
      }
      if (tensor.name.find("indexer") != std::string::npos && length_ / 4 <= config_.index_topk) continue;
      Part& part = tensor.name.find("shared") != std::string::npos ? end : begin;
      add_product(part, static_cast<double>(tokens_), tensor.shape[0], tensor.shape[1]);
    }
    for (const double tokens : tokens_of) {
      for (int i = 0; i < 2; ++i)
        add_product(experts, tokens, config_.moe_intermediate_size, config_.hidden_size);
      add_product(experts, tokens, config_.hidden_size, config_.moe_intermediate_size);
    }
  }

  void add_product(Part& part, double tokens, size_t n, size_t k) {
    // oneDNN's rate for about as many rows as come at once.
    const size_t m = tokens >= 1024 ? 1024 : std::max<size_t>(16, static_cast<size_t>(tokens + 15) / 16 * 16);
    const auto key = std::tuple(m, n, k);
    if (!rates_.contains(key)) rates_[key] = packed_rate(m, n, k, threads_);
    const double flop = 2 * tokens * static_cast<double>(n) * static_cast<double>(k);
    part.flop += flop;
    part.ideal_seconds += flop / rates_[key];
  }

  void run_linears() {
    for (const auto& [name, module] :
         {std::pair("wq_b", "attn.wq_b"), std::pair("wo_b", "attn.wo_b"), std::pair("wq_a", "attn.wq_a")}) {
      const StoredTensor& codes = layer_.dense.at(std::string("layers.0.") + module + ".weight");
      const Fp8BlockView view{
          .codes = reinterpret_cast<const uint8_t*>(codes.bytes.data()),
          .scales = layer_.dense.at(std::string("layers.0.") + module + ".scale").bytes.data(),
          .scale_type = ScaleType::kE8M0,
          .rows = codes.shape[0],
          .cols = codes.shape[1]};
      const size_t tokens = 2048;
      std::vector<bf16> x(tokens * view.cols), y(tokens * view.rows);
      Part part{std::string("linear ") + name + ", 2048 tokens"};
      part.seconds = part_seconds(threads_, [&] { linear(x.data(), tokens, view, y.data()); });
      add_product(part, static_cast<double>(tokens), view.rows, view.cols);
      print(part);
    }
    for (const size_t tokens : {16, 64, 128, 256}) {
      const StoredExpert& expert = layer_.experts[0];
      std::vector<bf16> x(tokens * cols_of(expert.w1)), y(tokens * rows_of(expert.w1));
      Part part{"linear expert w1, " + std::to_string(tokens) + " tokens"};
      for (size_t i = 0; i < kDistinctExperts; ++i) {
        part.seconds +=
            part_seconds(threads_, [&] { linear(x.data(), tokens, layer_.experts[i].w1, y.data()); });
        add_product(part, static_cast<double>(tokens), rows_of(expert.w1), cols_of(expert.w1));
      }
      print(part);
    }
  }

  void run_attention_core() {
    const size_t heads = config_.num_attention_heads / config_.o_groups, width = config_.head_dim;
    const size_t ratio = config_.compress_ratios[0], queries = std::max<size_t>(1, kTileRows / heads);
    std::vector<bf16> raw(length_ * width), entries(length_ / ratio * width), q(length_ * heads * width);
    std::vector<float> sinks(heads);
    const AttentionKeys<bf16> keys{.head_dim = width,
                                   .raw = raw.data(),
                                   .length = length_,
                                   .window = config_.sliding_window,
                                   .entries = entries.data(),
                                   .entry_count = length_ / ratio,
                                   .ratio = ratio};
    Part part{"attention core, all heads"};
    const double once = part_seconds(threads_, [&] {
      parallel_for((length_ + queries - 1) / queries, [&](size_t block) {
        const size_t first = block * queries;
        attend(keys, first, std::min(queries, length_ - first), heads, sinks.data(),
               q.data() + first * heads * width);
      });
    });
    part.seconds = once * static_cast<double>(rows_ * config_.o_groups);
    double seen = 0;
    for (size_t t = 0; t < length_; ++t) {
      seen += static_cast<double>(std::min<size_t>(t + 1, config_.sliding_window) + (t + 1) / ratio);
    }
    part.flop = 4 * seen * static_cast<double>(width * config_.num_attention_heads * rows_);
    print(part);
  }

  void run_hyper_connections() {
    const size_t n = config_.hc_mult, width = config_.hidden_size, tokens = 1024;
    const size_t outputs = (2 + n) * n;
    HyperConnection hyper{.streams = n,
                          .width = width,
                          .sinkhorn_iterations = config_.hc_sinkhorn_iters,
                          .eps = 1e-6f,
                          .norm_eps = 1e-6f,
                          .fn = std::vector<float>(outputs * n * width),
                          .base = std::vector<float>(outputs),
                          .scale = std::vector<float>(3)};
    std::vector<bf16> streams(tokens * n * width), x(tokens * width);
    std::vector<StreamMix> mixes(tokens);
    const double scale = 2 * static_cast<double>(tokens_) / static_cast<double>(tokens);
    Part mix{"mix streams, twice a layer"}, spread{"spread to streams, twice a layer"};
    mix.seconds = scale * part_seconds(threads_, [&] {
                    parallel_for(tokens / kHyperRows, [&](size_t block) {
                      const size_t at = block * kHyperRows;
                      mix_streams(hyper, streams.data() + at * n * width, kHyperRows, x.data() + at * width,
                                  mixes.data() + at);
                    });
                  });
    spread.seconds = scale * part_seconds(threads_, [&] {
                       parallel_for(tokens, [&](size_t token) {
                         spread_to_streams(mixes[token], x.data() + token * width, n, width,
                                           streams.data() + token * n * width);
                       });
                     });
    mix.flop = 4 * static_cast<double>(tokens_ * outputs * n * width);
    spread.flop = 4 * static_cast<double>(tokens_ * (n + 1) * n * width);
    print(mix);
    print(spread);
  }

  void run_dequantize() {
    Part part{"dequantize all experts"};
    const double experts = static_cast<double>(config_.n_routed_experts);
    for (const WeightView& weight : {WeightView(layer_.experts[0].w1), WeightView(layer_.experts[0].w2)}) {
      const size_t cols = weight_cols(weight);
      const double once = part_seconds(threads_, [&] {
        parallel_for(weight_rows(weight) / kPanel, [&](size_t panel) {
          thread_local std::vector<bf16> out;
          out.resize(kPanel * cols);
          read_weight(weight, panel * kPanel, kPanel, out.data());
        });
      });
      part.seconds += once * experts * (weight_cols(weight) == config_.hidden_size ? 2 : 1);
    }
    print(part);
  }

  const DeepseekV4Config config_;
  const size_t rows_, length_, tokens_, threads_;
  RandomLayer layer_;
  std::map<std::tuple<size_t, size_t, size_t>, double> rates_;
};

size_t argument(int argc, char** argv, int index, size_t otherwise) {
  return argc > index ? std::strtoull(argv[index], nullptr, 10) : otherwise;
}

}  // namespace
}  // namespace nibblecast

int main(int argc, char** argv) {
  using namespace nibblecast;
  DeepseekV4Config config = DeepseekV4Config::parse(preset_config("v4-pro"), "v4-pro");
  config.num_hidden_layers = 1;
  config.num_hash_layers = 0;
  config.vocab_size = 4096;
  config.compress_ratios = {static_cast<uint32_t>(argument(argc, argv, 3, 4))};
  const size_t threads = argument(argc, argv, 4, std::thread::hardware_concurrency());
  const ThreadLimit limit(threads);
  Bench(config, argument(argc, argv, 1, 16), argument(argc, argv, 2, 512), threads).run();
}
