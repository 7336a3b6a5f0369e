// Calibration of one full-width DeepSeek-V4-Pro layer, random weights: seconds and TFLOP/s of its parts, and
// the rate of oneDNN's own product on the same shapes with packed BF16 weights and as many threads.
//
//   calibration_bench [rows] [tokens a row] [compress ratio: 4 or 128] [threads]     (16 512 4, all)

#include <fmt/format.h>
#include <omp.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <map>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <random>
#include <thread>

#include "base/parallel.h"
#include "model/families/deepseek_v4/forward.h"
#include "model/families/deepseek_v4/tensors.h"
#include "model/family.h"
#include "model/random_layer.h"
#include "ops/attention.h"
#include "ops/hyper_connection.h"
#include "ops/linear.h"

namespace nibblecast {
namespace {

using testing::random_layer;
using testing::RandomLayer;

constexpr size_t kDistinctExperts = 24;
constexpr uint64_t kHeadVocabulary = 8 * kHeadRows;

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

// oneDNN's own products of one shape with packed weights, timed between our own parts, so that what else the
// machine does slows both.
class PackedProduct {
 public:
  PackedProduct(size_t m, size_t n, size_t k, size_t threads)
      : threads_(threads),
        engine_(dnnl::engine::kind::cpu, 0),
        stream_(engine_),
        descriptor_(dnnl::matmul::desc(matrix(m, k, Tag::ab), matrix(k, n, Tag::any), matrix(m, n, Tag::ab)),
                    engine_),
        product_(descriptor_),
        x_(descriptor_.src_desc(), engine_),
        w_(descriptor_.weights_desc(), engine_),
        y_(descriptor_.dst_desc(), engine_),
        flop_(2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k)) {
    std::memset(x_.get_data_handle(), 0, descriptor_.src_desc().get_size());
    std::memset(w_.get_data_handle(), 0, descriptor_.weights_desc().get_size());
    sample();
    samples_.clear();  // the first makes the kernel
  }

  void sample() {
    omp_set_num_threads(static_cast<int>(threads_));
    samples_.push_back(part_seconds(threads_, [&] {
      product_.execute(stream_, {{DNNL_ARG_SRC, x_}, {DNNL_ARG_WEIGHTS, w_}, {DNNL_ARG_DST, y_}});
      stream_.wait();
    }));
  }
  // FLOP/s by the median.
  double rate() {
    std::nth_element(samples_.begin(), samples_.begin() + samples_.size() / 2, samples_.end());
    return flop_ / samples_[samples_.size() / 2];
  }

 private:
  using Tag = dnnl::memory::format_tag;
  static dnnl::memory::desc matrix(size_t rows, size_t cols, Tag tag) {
    using dim = dnnl::memory::dim;
    return {{static_cast<dim>(rows), static_cast<dim>(cols)}, dnnl::memory::data_type::bf16, tag};
  }

  size_t threads_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::matmul::primitive_desc descriptor_;
  dnnl::matmul product_;
  dnnl::memory x_, w_, y_;
  double flop_;
  std::vector<double> samples_;
};

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
    run_head();
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
    DeepseekV4Forward<bf16> forward(config_, ids);
    forward.embed(0, config_.vocab_size,
                  layer_.values(Dtype::kBF16, config_.vocab_size * config_.hidden_size, config_.hidden_size));
    Part begin{"begin_layer (attention, router)"}, experts{"routed experts"},
        end{"end_layer (shared expert)"};
    sample_dense(false, 4);
    const uint64_t before = peak_bytes();
    begin.seconds = part_seconds(threads_, [&] { forward.begin_layer(0, layer_.dense); });
    const uint64_t attention_bytes = peak_bytes() - before;
    sample_dense(false, 4);
    std::vector<double> tokens_of(config_.n_routed_experts);
    for (const int32_t expert : forward.chosen_experts()) ++tokens_of[static_cast<size_t>(expert)];
    for (uint64_t expert = 0; expert < config_.n_routed_experts; ++expert) {
      experts.seconds +=
          part_seconds(threads_, [&] { forward.expert(expert, layer_.experts[expert % kDistinctExperts]); });
      for (const auto& [n, k] : expert_products()) product(tokens_of[expert], n, k).sample();
    }
    sample_dense(true, 4);
    end.seconds = part_seconds(threads_, [&] { forward.end_layer(); });
    sample_dense(true, 4);
    account(begin, experts, end, tokens_of);
    Part all{"layer", begin.seconds + experts.seconds + end.seconds, begin.flop + experts.flop + end.flop,
             begin.ideal_seconds + experts.ideal_seconds + end.ideal_seconds};
    for (const Part& part : {begin, experts, end, all}) print(part);
    std::printf("tokens an expert: least %.0f, most %.0f\n",
                *std::min_element(tokens_of.begin(), tokens_of.end()),
                *std::max_element(tokens_of.begin(), tokens_of.end()));
    std::printf(
        "memory: %.0f MB by the end of attention, bounded by %.0f MB\n",
        static_cast<double>(attention_bytes + forward.streams().size_bytes()) / 1e6,
        static_cast<double>(DeepseekV4Forward<bf16>::memory_bytes(config_, tokens_, length_, threads_)) /
            1e6);
  }

  // The perplexity's cost, which grows with the vocabulary: over a part of it.
  void run_head() {
    DeepseekV4Config config = config_;
    config.vocab_size = kHeadVocabulary;
    const std::vector<std::vector<int32_t>> ids(rows_, std::vector<int32_t>(length_, 1));
    DeepseekV4Forward<bf16> forward(config, ids);
    std::ranges::fill(forward.resume_at(config.num_hidden_layers), to_bf16(0.5f));
    const RandomLayer head = testing::random_head(config);
    Part part{fmt::format("head, {} of {} rows", config.vocab_size, config_.vocab_size)};
    const auto sample = [&] {
      product(static_cast<double>(tokens_), kHeadRows, config.hidden_size).sample();
    };
    for (int i = 0; i < 4; ++i) sample();
    part.seconds = part_seconds(threads_, [&] { testing::run_head(forward, head, 16 << 20); });
    for (int i = 0; i < 4; ++i) sample();
    const double tokens = static_cast<double>(tokens_);
    for (size_t row = 0; row < config.vocab_size; row += kHeadRows)
      add_product(part, tokens, kHeadRows, config.hidden_size);
    print(part);
  }

  // Shapes [n, k] of the dense products; of the shared expert, or of all else.
  std::vector<std::pair<size_t, size_t>> dense_products(bool shared) const {
    std::vector<std::pair<size_t, size_t>> shapes;
    for (const ModelTensor& tensor : layer_tensors(config_, 0)) {
      if (tensor.shape.size() != 2 || tensor.name.find("hc_") != std::string::npos ||
          tensor.name.find("ape") != std::string::npos || tensor.storage == Storage::kExpert) {
        continue;
      }
      if (tensor.name.find("indexer") != std::string::npos && length_ / 4 <= config_.index_topk) continue;
      if ((tensor.name.find("shared") != std::string::npos) == shared) {
        shapes.emplace_back(tensor.shape[0], tensor.shape[1]);
      }
    }
    return shapes;
  }

  std::array<std::pair<size_t, size_t>, 2> expert_products() const {
    return {{{config_.moe_intermediate_size, config_.hidden_size},
             {config_.hidden_size, config_.moe_intermediate_size}}};
  }

  void sample_dense(bool shared, int times) {
    for (const auto& [n, k] : dense_products(shared)) {
      for (int i = 0; i < times; ++i) product(static_cast<double>(tokens_), n, k).sample();
    }
  }

  // Products of the linears only; what else a part does costs time without counting.
  void account(Part& begin, Part& experts, Part& end, const std::vector<double>& tokens_of) {
    const double tokens = static_cast<double>(tokens_);
    for (const auto& [n, k] : dense_products(false)) add_product(begin, tokens, n, k);
    for (const auto& [n, k] : dense_products(true)) add_product(end, tokens, n, k);
    const auto [up, down] = expert_products();
    for (const double own : tokens_of) {
      for (const auto& [n, k] : {up, up, down}) add_product(experts, own, n, k);
    }
  }

  // For about as many rows as come at once.
  PackedProduct& product(double tokens, size_t n, size_t k) {
    const size_t step = tokens > 48 ? 64 : 16, most = 1024;
    const size_t m =
        std::min(most, (std::max<size_t>(1, static_cast<size_t>(tokens)) + step - 1) / step * step);
    std::unique_ptr<PackedProduct>& own = products_[{m, n, k}];
    if (own == nullptr) own = std::make_unique<PackedProduct>(m, n, k, threads_);
    return *own;
  }

  void add_product(Part& part, double tokens, size_t n, size_t k) {
    const double flop = 2 * tokens * static_cast<double>(n) * static_cast<double>(k);
    part.flop += flop;
    part.ideal_seconds += flop / product(tokens, n, k).rate();
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
      product(static_cast<double>(tokens), view.rows, view.cols).sample();
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
        product(static_cast<double>(tokens), rows_of(expert.w1), cols_of(expert.w1)).sample();
        add_product(part, static_cast<double>(tokens), rows_of(expert.w1), cols_of(expert.w1));
      }
      print(part);
    }
  }

  void run_attention_core() {
    const size_t heads = config_.num_attention_heads / config_.o_groups, width = config_.head_dim;
    const size_t ratio = config_.compress_ratios[0], queries = std::max<size_t>(1, kTileRows / heads);
    const std::vector<bf16> values(length_ * width);
    const KeyPanels<bf16> raw(values.data(), length_, width), entries(values.data(), length_ / ratio, width);
    std::vector<bf16> q(length_ * heads * width);
    std::vector<float> sinks(heads);
    const AttentionKeys<bf16> keys{
        .raw = &raw, .window = config_.sliding_window, .entries = &entries, .ratio = ratio};
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
    std::vector<float> mixed(tokens * width);
    std::vector<StreamMix> mixes(tokens);
    const double scale = 2 * static_cast<double>(tokens_) / static_cast<double>(tokens);
    Part mix{"mix streams, twice a layer"}, spread{"spread to streams, twice a layer"};
    mix.seconds = scale * part_seconds(threads_, [&] {
                    parallel_for(tokens / kHyperRows, [&](size_t block) {
                      const size_t at = block * kHyperRows;
                      mix_streams(hyper, streams.data() + at * n * width, kHyperRows,
                                  mixed.data() + at * width, mixes.data() + at);
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
  std::map<std::tuple<size_t, size_t, size_t>, std::unique_ptr<PackedProduct>> products_;
};

size_t argument(int argc, char** argv, int index, size_t otherwise) {
  return argc > index ? std::strtoull(argv[index], nullptr, 10) : otherwise;
}

}  // namespace
}  // namespace nibblecast

int main(int argc, char** argv) {
  using namespace nibblecast;
  // oneDNN's idle threads would spin on while our own part runs. Their library reads this when it is loaded.
  if (setenv("OMP_WAIT_POLICY", "passive", 0) == 0 && std::getenv("NIBBLECAST_BENCH_STARTED") == nullptr) {
    setenv("NIBBLECAST_BENCH_STARTED", "1", 1);
    execv("/proc/self/exe", argv);
  }
  DeepseekV4Config config = DeepseekV4Config::parse(preset_config("v4-pro"), "v4-pro");
  config.num_hidden_layers = 1;
  config.num_hash_layers = 0;
  config.vocab_size = 4096;
  config.compress_ratios = {static_cast<uint32_t>(argument(argc, argv, 3, 4))};
  const size_t threads = argument(argc, argv, 4, std::thread::hardware_concurrency());
  const ThreadLimit limit(threads);
  Bench(config, argument(argc, argv, 1, 16), argument(argc, argv, 2, 512), threads).run();
}
