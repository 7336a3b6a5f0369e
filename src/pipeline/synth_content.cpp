#include "pipeline/synth_content.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <string_view>

#include "formats/bf16.h"

namespace nibblecast {
namespace {

static_assert(std::endian::native == std::endian::little, "words are stored as they lie in memory");

// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014) as a function of
// the counter: random access, and no state to carry from thread to thread.
uint64_t random64(uint64_t key, uint64_t index) {
  uint64_t x = key + (index + 1) * 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// FNV-1a of the name, mixed with the seed.
uint64_t key_of(std::string_view name, uint64_t seed) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return random64(hash, seed);
}

// Every kind makes 8 bytes from one counter. `begin` and the end of `to` may cut a word.
template <class WordAt>
void fill_words(uint64_t begin, std::span<std::byte> to, const WordAt& word_at) {
  uint64_t index = begin / 8;
  size_t done = 0;
  const auto partial = [&](size_t skip, size_t count) {
    const uint64_t word = word_at(index++);
    std::memcpy(to.data() + done, reinterpret_cast<const std::byte*>(&word) + skip, count);
    done += count;
  };
  if (begin % 8 != 0) partial(begin % 8, std::min<size_t>(8 - begin % 8, to.size()));
  for (; to.size() - done >= 8; done += 8) {
    const uint64_t word = word_at(index++);
    std::memcpy(to.data() + done, &word, 8);
  }
  if (done < to.size()) partial(0, to.size() - done);
}

// ---- element formats ----

uint64_t bf16_word(uint64_t random, float center, float half_width) {
  uint64_t word = 0;
  for (int lane = 0; lane < 4; ++lane) {
    const float unit = static_cast<float>(static_cast<int16_t>(random >> (16 * lane))) * 0x1p-15f;
    word |= uint64_t{to_bf16(center + half_width * unit).bits} << (16 * lane);
  }
  return word;
}

uint64_t f32_word(uint64_t random, float center, float half_width) {
  uint64_t word = 0;
  for (int lane = 0; lane < 2; ++lane) {
    const float unit = static_cast<float>(static_cast<int32_t>(random >> (32 * lane))) * 0x1p-31f;
    word |= uint64_t{std::bit_cast<uint32_t>(center + half_width * unit)} << (32 * lane);
  }
  return word;
}

// A random byte to an E4M3 code: uniform over (-256, 256) to three bits. Each lower binade is half as likely,
// down to 2^4; below, one code in 16 is subnormal or a zero of either sign. Never NaN.
constexpr std::array<uint8_t, 256> make_e4m3_codes() {
  std::array<uint8_t, 256> codes{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    const unsigned binade = (byte >> 3) & 15;
    const unsigned exponent = binade == 0 ? 0 : 14 - static_cast<unsigned>(std::countr_zero(binade));
    codes[byte] = static_cast<uint8_t>((byte & 0x87) | (exponent << 3));
  }
  return codes;
}
constexpr std::array<uint8_t, 256> kE4m3Codes = make_e4m3_codes();
constexpr double kE4m3Rms = 147.8;   // 256 / sqrt(3)
constexpr double kE2m1Rms = 2.926;   // of 16 equally likely nibbles: sqrt(68.5 / 8)
constexpr double kScaleRms = 1.152;  // of 2^d, d = -2, -1, 0, 1 equally likely

uint64_t e4m3_word(uint64_t random) {
  uint64_t word = 0;
  for (int lane = 0; lane < 8; ++lane) {
    word |= uint64_t{kE4m3Codes[(random >> (8 * lane)) & 255]} << (8 * lane);
  }
  return word;
}

// Token t goes to experts t*k ... t*k + k - 1, modulo their number: distinct, and each as often as any other.
uint64_t routed_expert(uint64_t index, uint64_t key, uint64_t experts) {
  return (key % experts + index) % experts;
}

// ---- magnitudes ----

// The byte of the power of two nearest to `scale`, less the two steps that the variation goes below it.
// By frexp and not by log2, whose last bit may depend on the machine.
uint8_t least_scale_byte(double scale) {
  int exponent = 0;
  const double mantissa = std::frexp(scale, &exponent);
  const int nearest = mantissa * mantissa < 0.5 ? exponent - 1 : exponent;
  return static_cast<uint8_t>(std::clamp(127 + nearest - 2, 1, 250));
}

// rms of the output for an input of rms 1.
double gain_of(std::string_view name) {
  if (name == "head.weight") return 2;                // some tokens clearly more likely than others
  if (name.ends_with("ffn.gate.weight")) return 1.5;  // routing that depends on the token, not on the bias
  return 1;
}

struct Uniform {
  double center = 0, half_width = 0;
};

Uniform uniform_of(const ModelTensor& tensor) {
  const std::string_view name = tensor.name;
  const auto matrix = [&](double gain) {
    return Uniform{0, gain * std::sqrt(3.0 / static_cast<double>(tensor.shape[1]))};
  };
  if (name == "embed.weight") return {0, std::sqrt(3.0)};  // rms 1
  if (tensor.storage == Storage::kBF16)
    return tensor.shape.size() == 1 ? Uniform{1, 0.25} : matrix(gain_of(name));
  if (name.ends_with("_fn")) return matrix(0.5);  // gates that stay off their ends
  if (name.ends_with("_scale")) return {1, 0.25};
  if (name.ends_with("attn_sink")) return {0, 1};
  if (name.ends_with("gate.bias")) return {0, 0.05};
  return {0, 0.5};  // ape and *_base
}

constexpr uint64_t kZeroBlockPeriod = 4096;

}  // namespace

SynthContent::SynthContent(const DeepseekV4Config& config, const ModelTensor& tensor, const Tensor& stored,
                           uint64_t seed)
    : key_(key_of(stored.name, seed)) {
  const bool is_linear = tensor.storage == Storage::kFp8Block || tensor.storage == Storage::kExpert;
  const bool is_mxfp4 = tensor.storage == Storage::kExpert && config.expert_dtype != "fp8";
  if (is_linear && stored.dtype == Dtype::kF32) {  // a Base release's scales
    kind_ = Kind::kF32;
    center_ = static_cast<float>(1 / (kE4m3Rms * std::sqrt(static_cast<double>(tensor.shape[1]))));
    half_width_ = center_ / 2;
  } else if (is_linear && stored.dtype == Dtype::kF8E8M0) {
    kind_ = Kind::kE8M0;
    const double rms = (is_mxfp4 ? kE2m1Rms : kE4m3Rms) * kScaleRms;
    least_scale_ = least_scale_byte(1 / (rms * std::sqrt(static_cast<double>(tensor.shape[1]))));
  } else if (is_linear) {
    kind_ = is_mxfp4 ? Kind::kE2M1 : Kind::kE4M3;
  } else if (tensor.storage == Storage::kI64) {
    kind_ = Kind::kRouting;
    experts_ = config.n_routed_experts;
  } else {
    kind_ = tensor.storage == Storage::kBF16 ? Kind::kBF16 : Kind::kF32;
    const Uniform uniform = uniform_of(tensor);
    center_ = static_cast<float>(uniform.center);
    half_width_ = static_cast<float>(uniform.half_width);
  }
  if (is_mxfp4) {
    zero_block_key_ = key_of(tensor.name, seed);  // of the module: weight and scale agree
    zero_block_bytes_ = kind_ == Kind::kE8M0 ? 1 : 16;
  }
}

// As uniform_of() has it of DeepSeek-V4's.
SynthContent::SynthContent(const WeightModule& module, bool is_head, const Tensor& stored, uint64_t seed)
    : key_(key_of(stored.name, seed)) {
  const bool is_looked_up = module.kind == ModuleKind::kEmbedding && !is_head;
  const double gain = is_head ? 2 : module.kind == ModuleKind::kRouter ? 1.5 : 1;
  const double fan_in = is_looked_up ? 1 : static_cast<double>(module.shape[1]);
  set_uniform(stored.dtype, 0, gain * std::sqrt(3.0 / fan_in));
}

SynthContent::SynthContent(const PlainTensor& plain, double norm, const Tensor& stored, uint64_t seed)
    : key_(key_of(stored.name, seed)) {
  switch (plain.id.role) {
    case Role::kInputNorm:
    case Role::kFfnNorm:
    case Role::kQNorm:
    case Role::kKNorm:
    case Role::kFinalNorm:
      set_uniform(stored.dtype, norm, 0.25);
      return;
    case Role::kOutNorm:
      set_uniform(stored.dtype, 1, 0.25);
      return;
    case Role::kFilter:
      set_uniform(stored.dtype, 0, std::sqrt(3.0 / static_cast<double>(plain.shape.back())));
      return;
    case Role::kDecayLog:  // states that last some tens of tokens
      set_uniform(stored.dtype, -0.5, 0.5);
      return;
    case Role::kStepBias:
      set_uniform(stored.dtype, -2, 1);
      return;
    case Role::kSinks:
      set_uniform(stored.dtype, 0, 1);
      return;
    default:  // biases
      set_uniform(stored.dtype, 0, 0.05);
  }
}

void SynthContent::set_uniform(Dtype dtype, double center, double half_width) {
  kind_ = dtype == Dtype::kBF16 ? Kind::kBF16 : Kind::kF32;
  center_ = static_cast<float>(center);
  half_width_ = static_cast<float>(half_width);
}

void SynthContent::fill(uint64_t begin, std::span<std::byte> to) const {
  const auto fill_with = [&](const auto& word_of_random) {
    fill_words(begin, to, [&](uint64_t index) { return word_of_random(random64(key_, index)); });
  };
  switch (kind_) {
    case Kind::kBF16:
      fill_with([&](uint64_t random) { return bf16_word(random, center_, half_width_); });
      break;
    case Kind::kF32:
      fill_with([&](uint64_t random) { return f32_word(random, center_, half_width_); });
      break;
    case Kind::kE4M3:
      fill_with(e4m3_word);
      break;
    case Kind::kE2M1:
      fill_with([](uint64_t random) { return random; });
      break;
    case Kind::kE8M0:
      fill_with([&](uint64_t random) {
        return (random & 0x0303030303030303u) + least_scale_ * uint64_t{0x0101010101010101u};
      });
      break;
    case Kind::kRouting:
      fill_words(begin, to, [&](uint64_t index) { return routed_expert(index, key_, experts_); });
      break;
  }
  if (zero_block_bytes_ != 0) clear_zero_blocks(begin, to);
}

void SynthContent::clear_zero_blocks(uint64_t begin, std::span<std::byte> to) const {
  const uint64_t end = begin + to.size();
  const uint64_t period = kZeroBlockPeriod * zero_block_bytes_;
  for (uint64_t group = begin / period; group * period < end; ++group) {
    const uint64_t block = group * kZeroBlockPeriod + random64(zero_block_key_, group) % kZeroBlockPeriod;
    const uint64_t first = std::max(begin, block * zero_block_bytes_);
    const uint64_t last = std::min(end, (block + 1) * zero_block_bytes_);
    if (first < last) std::memset(to.data() + (first - begin), 0, last - first);
  }
}

}  // namespace nibblecast
