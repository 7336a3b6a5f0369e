// tests/model/decoder_suite.h - the forward pass of decoders on random weights: what it computes, held
// against tests/model/decoder_reference.h, what must not matter, and what it says of damage.
//
// One text for every device: what includes it defines forward_device(), rows_are_alone(), kLongRow (tokens of
// a row that goes through attention in chunks) and SKIP_WITHOUT_DEVICE() before.
#pragma once

#include <tuple>

#include "decoder_reference.h"
#include "decoder_testing.h"

namespace nibblecast {
namespace {

using testing::DecoderModel;
using testing::DecoderReference;
using testing::expect_error;
using testing::random_ids;
using testing::Rows;

template <class T>
std::unique_ptr<ForwardPass> make_pass(const DecoderModel& model, const Rows& rows) {
  return make_forward_pass<T>(model.model, rows, forward_device());
}

GqaSpec small_gqa() {
  return {.heads = 4, .kv_heads = 2, .width = 32, .rope = {.dims = 32}, .scale = 1 / std::sqrt(32.0f)};
}

// Widths of keys and values differ, and no two others are equal.
MlaSpec small_mla() {
  return {.heads = {.heads = 4, .key = 24, .shared = 16, .value = 32},
          .q_rank = 48,
          .kv_rank = 56,
          .rope = {.dims = 16, .pairing = RopePairing::kInterleaved, .place = RopePlace::kLast},
          .scale = 0.2f};
}

DecoderSpec small_spec(const MixerSpec& mixer, const std::variant<MlpSpec, MoeSpec>& ffn) {
  return {.hidden = 64, .vocab = 130, .layers = {{mixer, ffn}}};
}

MoeSpec small_moe() {
  return {.router = {.experts = 8, .top = 2, .score = RouterScore::kSoftmax}, .expert = {.width = 48}};
}

// A layer of each kind, with every mechanism that no other test has alone.
DecoderSpec mixed_spec() {
  GqaSpec first = small_gqa();
  first.rope = {.theta = 500000,
                .dims = 32,
                .scaling = Llama3Rope{.factor = 8, .low_factor = 1, .high_factor = 4, .original_length = 16}};
  first.qkv_bias = first.o_bias = true;
  GqaSpec second = small_gqa();
  second.rope = {.dims = 16, .pairing = RopePairing::kInterleaved, .scaling = LinearRope{2}};
  second.head_norms = HeadNorms::kPerHead;
  second.window = 20;
  second.sinks = true;
  GqaSpec third{.heads = 6, .kv_heads = 1, .width = 24, .rope = {.dims = 24}, .scale = 0.25f};
  third.rope.scaling = YarnRope{.yarn = {.factor = 4, .original_length = 32}};
  third.head_norms = HeadNorms::kAll;
  MoeSpec grouped = small_moe();
  grouped.router = {.experts = 8,
                    .top = 2,
                    .score = RouterScore::kSigmoid,
                    .groups = 4,
                    .top_groups = 2,
                    .renormalize = true,
                    .eps = 1e-20f,
                    .scale = 2.5f};
  grouped.choice_bias = true;
  grouped.shared = MlpSpec{.width = 80, .bias = true};
  MoeSpec plain = small_moe();
  plain.router.renormalize = false;
  plain.expert.activation.kind = ActivationKind::kGeluTanh;
  GqaSpec fourth = small_gqa();
  fourth.kv_heads = 4;
  fourth.rope = {};
  MlaSpec fifth = small_mla();
  fifth.rope.scaling =
      YarnRope{.yarn = {.factor = 4, .original_length = 32}, .mscale = 1, .mscale_all_dim = 0.7};
  MlaSpec sixth = small_mla();
  sixth.q_rank = 0;
  sixth.rope.pairing = RopePairing::kHalves;
  return {.hidden = 64,
          .vocab = 130,
          .norm = {.eps = 1e-5f},
          .layers = {{first, MlpSpec{.width = 96, .bias = true}},
                     {second, grouped},
                     {third, plain},
                     {fourth, MlpSpec{.width = 40, .activation = {.kind = ActivationKind::kRelu2}}},
                     {fifth, grouped},
                     {sixth, MlpSpec{.width = 96}}}};
}

DeltaNetSpec small_delta_net(DeltaNetInput input) {
  return {.shape = {.key_heads = 2, .value_heads = 4, .key_width = 24, .value_width = 40, .taps = 4},
          .input = input};
}

// As Qwen3.5's layers: delta nets of both kinds, gated attention, norms of 1 + weight, a gated shared expert.
DecoderSpec hybrid_spec() {
  GqaSpec gated = small_gqa();
  gated.rope = {.theta = 1e7, .dims = 8};
  gated.head_norms = HeadNorms::kPerHead;
  gated.output_gate = true;
  MoeSpec moe = small_moe();
  moe.router.renormalize = true;
  moe.shared = MlpSpec{.width = 40};
  moe.shared_gate = true;
  return {.hidden = 64,
          .vocab = 130,
          .norm = {.use = NormWeight::kPlusOne},
          .layers = {{small_delta_net(DeltaNetInput::kSplit), moe},
                     {gated, MlpSpec{.width = 96}},
                     {small_delta_net(DeltaNetInput::kByHead), MlpSpec{.width = 96}},
                     {gated, moe}}};
}

Rows short_rows() { return {random_ids(1, 1, 130), random_ids(70, 2, 130), {}, random_ids(33, 3, 130)}; }

// Norm of the difference over the norm. NaN where either has one.
double relative_error(std::span<const float> found, const testing::Vector& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += std::pow(double{found[i]} - expected[i], 2);
    norm += std::pow(expected[i], 2);
  }
  return std::sqrt(difference / norm);
}

template <class T>
void expect_reference(const DecoderModel& model, const Rows& rows, double tolerance) {
  DecoderReference reference(model);
  const testing::Matrix expected = reference.logits(rows);
  const auto pass = make_pass<T>(model, rows);
  const std::vector<LayerAmax> amax = model.run(*pass);
  testing::LogitsKeeper logits(expected.size(), model.spec().vocab);
  model.run_head(*pass, logits.sink());
  for (size_t token = 0; token < expected.size(); ++token) {
    const double error = relative_error(logits.rows(token), expected[token]);
    ASSERT_TRUE(error <= tolerance) << "token " << token << ": " << error;
  }
  for (size_t layer = 0; layer < amax.size(); ++layer) {
    EXPECT_EQ(amax[layer].tokens, reference.tokens[layer]);
    for (const auto& [tap, values] : amax[layer].taps) {
      testing::Vector known = reference.taps[layer][tap];
      known.resize(values.size());  // experts without tokens at the end
      const double error = relative_error(values, known);
      EXPECT_TRUE(error <= tolerance) << "layer " << layer << ", " << tap << ": " << error;
    }
  }
}

TEST(Decoder, MixedLayersGiveTheReferencesLogitsAndAmaxes) {
  SKIP_WITHOUT_DEVICE();
  expect_reference<float>(DecoderModel(mixed_spec()), short_rows(), 2e-5);
}

TEST(Decoder, HybridLayersGiveTheReferencesLogitsAndAmaxes) {
  SKIP_WITHOUT_DEVICE();
  expect_reference<float>(DecoderModel(hybrid_spec()), short_rows(), 2e-5);
  DecoderSpec dense = hybrid_spec();  // no routing flips
  for (DecoderLayer& layer : dense.layers) layer.ffn = MlpSpec{.width = 96};
  // Four layers, each with the error of the test below, and heads that nearly cancel before their norm.
  expect_reference<bf16>(DecoderModel(dense), short_rows(), 0.12);
}

// A delta net's state goes from chunk to chunk.
TEST(Decoder, ALongRowOfADeltaNetGoesInChunks) {
  SKIP_WITHOUT_DEVICE();
  DeltaNetSpec net = small_delta_net(DeltaNetInput::kSplit);
  net.shape = {.key_heads = 1, .value_heads = 4, .key_width = 8, .value_width = 8, .taps = 4};
  DecoderSpec spec = small_spec(small_gqa(), MlpSpec{.width = 32});
  spec.layers[0].mixer = net;
  const Rows rows = {random_ids(9, 1, 130), random_ids(kLongRow, 2, 130), random_ids(40, 3, 130)};
  expect_reference<float>(DecoderModel(spec), rows, 2e-5);
}

TEST(Decoder, TheHeadMayBeTheEmbedding) {
  SKIP_WITHOUT_DEVICE();
  expect_reference<float>(DecoderModel(small_spec(small_gqa(), MlpSpec{.width = 96}), true), short_rows(),
                          1e-5);
}

TEST(Decoder, Bf16IsNearTheReference) {
  SKIP_WITHOUT_DEVICE();
  expect_reference<bf16>(DecoderModel(small_spec(small_gqa(), MlpSpec{.width = 96})), short_rows(), 0.03);
}

TEST(Decoder, ALongRowGoesInChunks) {
  SKIP_WITHOUT_DEVICE();
  GqaSpec gqa{.heads = 3, .kv_heads = 1, .width = 16, .rope = {.dims = 16}, .scale = 0.25f};
  gqa.window = 300;
  DecoderSpec spec = small_spec(gqa, small_moe());
  spec.layers.push_back({gqa, MlpSpec{.width = 32}});
  const Rows rows = {random_ids(9, 1, 130), random_ids(kLongRow, 2, 130), random_ids(40, 3, 130)};
  expect_reference<float>(DecoderModel(spec), rows, 2e-5);
}

TEST(Decoder, ALongRowOfLatentAttentionGoesInChunks) {
  SKIP_WITHOUT_DEVICE();
  const DecoderModel model(small_spec(small_mla(), MlpSpec{.width = 32}));
  expect_reference<float>(model, {random_ids(9, 1, 130), random_ids(kLongRow, 2, 130)}, 2e-5);
}

// There an indexer would choose the keys.
TEST(Decoder, RefusesRowsLongerThanIndexTopk) {
  SKIP_WITHOUT_DEVICE();
  MlaSpec mla = small_mla();
  mla.most_keys = 40;
  const DecoderModel model(small_spec(mla, MlpSpec{.width = 32}));
  make_pass<float>(model, {random_ids(40, 1, 130)});
  expect_error(
      ErrorKind::kUnsupported, [&] { make_pass<float>(model, {random_ids(41, 1, 130)}); }, "index_topk",
      "at most 40", "41", "--calib-seq");
}

// K and V of attention are measured where the table asks for them.
TEST(Decoder, KeysAndValuesAreTaps) {
  SKIP_WITHOUT_DEVICE();
  DecoderModel model(mixed_spec());
  for (LayerTable& table : model.model.table.layers)
    for (const char* name : {"attn.k", "attn.v"}) table.taps.push_back({.name = name});
  expect_reference<float>(model, short_rows(), 2e-5);
}

// Dense weights and those that stream by, in every kind of container.
TEST(Decoder, TheStoredFormatDoesNotMatter) {
  SKIP_WITHOUT_DEVICE();
  MoeSpec moe = small_moe();
  moe.shared = MlpSpec{.width = 160};
  DecoderModel model(small_spec(small_gqa(), moe));
  using enum StoredFormat;
  const std::string layer = "model.layers.0.";
  const std::vector<std::tuple<std::string, StoredFormat, bool>> formats = {
      {"self_attn.q_proj", kFp8, true},          {"self_attn.k_proj", kFp8, false},
      {"self_attn.v_proj", kNvfp4, true},        {"mlp.shared_experts.up_proj", kFp8, true},
      {"mlp.experts.1.gate_proj", kNvfp4, true}, {"mlp.experts.1.down_proj", kFp8, false},
      {"mlp.experts.2.up_proj", kFp8, true}};
  for (const auto& [name, format, tiles] : formats) model.store(layer + name, format, tiles);
  DecoderModel wide = model;
  for (const auto& [name, format, tiles] : formats) wide.widen(layer + name);
  const auto expect_same = [&](const auto& one, const auto& other) {
    EXPECT_EQ(model.run(*one), wide.run(*other));
    EXPECT_EQ(model.run_head(*one), wide.run_head(*other));
  };
  expect_same(make_pass<float>(model, short_rows()), make_pass<float>(wide, short_rows()));
  expect_same(make_pass<bf16>(model, short_rows()), make_pass<bf16>(wide, short_rows()));
}

TEST(Decoder, NothingDependsOnHowBytesAreCut) {
  SKIP_WITHOUT_DEVICE();
  const DecoderModel model(mixed_spec());
  const auto one = make_pass<bf16>(model, short_rows()), other = make_pass<bf16>(model, short_rows());
  EXPECT_EQ(model.run(*one, 1 << 30), model.run(*other, 77));
  EXPECT_EQ(model.run_head(*one, {}, 1 << 30), model.run_head(*other, {}, 77));
}

template <class T>
void expect_rows_alone(const DecoderSpec& spec) {
  const DecoderModel model(spec);
  const Rows rows = short_rows();
  const auto together = make_pass<T>(model, rows);
  model.run(*together);
  std::vector<std::byte> streams(together->streams_bytes());
  together->get_streams(0, streams);
  const RowLosses losses = model.run_head(*together);
  size_t begin = 0;
  for (size_t row = 0; row < rows.size(); ++row) {
    const auto alone = make_pass<T>(model, {rows[row]});
    model.run(*alone);
    std::vector<std::byte> own(alone->streams_bytes());
    alone->get_streams(0, own);
    EXPECT_TRUE(std::equal(own.begin(), own.end(), streams.begin() + static_cast<ptrdiff_t>(begin))) << row;
    begin += own.size();
    EXPECT_EQ(model.run_head(*alone), RowLosses{losses[row]}) << row;
  }
}

TEST(Decoder, RowsDoNotDependOnEachOther) {
  SKIP_WITHOUT_DEVICE();
  if (!rows_are_alone()) GTEST_SKIP() << "this CPU's products depend on how many rows there are";
  for (const DecoderSpec& spec : {mixed_spec(), hybrid_spec()}) {
    expect_rows_alone<float>(spec);
    expect_rows_alone<bf16>(spec);
  }
}

TEST(Decoder, GoesOnWithTheStreamsOfALayer) {
  SKIP_WITHOUT_DEVICE();
  const DecoderModel model(mixed_spec());
  const auto whole = make_pass<bf16>(model, short_rows()), part = make_pass<bf16>(model, short_rows());
  model.embed(*whole);
  for (uint64_t layer = 0; layer < 2; ++layer) model.run_layer(*whole, layer);
  std::vector<std::byte> streams(whole->streams_bytes());
  whole->get_streams(0, streams);
  part->resume_at(2);
  part->set_streams(0, streams);
  for (uint64_t layer = 2; layer < model.layers(); ++layer)
    EXPECT_EQ(model.run_layer(*whole, layer), model.run_layer(*part, layer));
  EXPECT_EQ(model.run_head(*whole), model.run_head(*part));
}

// The module that reads what is not finite is named.
TEST(Decoder, RefusesWhatIsNotFinite) {
  SKIP_WITHOUT_DEVICE();
  const auto expect = [&](const std::string& spoiled, auto... parts) {
    DecoderModel model(mixed_spec());
    model.spoil(spoiled, std::numeric_limits<float>::quiet_NaN());
    const auto pass = make_pass<bf16>(model, short_rows());
    expect_error(
        ErrorKind::kBadInput, [&] { model.run(*pass); }, parts...);
  };
  expect("model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.q_proj", "not finite");
  expect("model.layers.1.self_attn.k_proj.weight", "model.layers.1.self_attn.k_proj", "not finite");
  expect("model.layers.1.mlp.gate.weight", "model.layers.1.mlp.gate", "scores an expert NaN");
  expect("model.layers.1.mlp.shared_experts.down_proj.weight", "model.layers.1.mlp.gate", "residual streams");
  expect("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj", "not finite");
}

TEST(Decoder, RefusesIdsOutsideOfTheVocabulary) {
  SKIP_WITHOUT_DEVICE();
  const DecoderModel model(small_spec(small_gqa(), MlpSpec{.width = 96}));
  expect_error(
      ErrorKind::kBadInput,
      [&] {
        make_pass<float>(model, {{1, 130}});
      },
      "token id", "0 to 129");
}

TEST(Decoder, RefusesWeightsOfAnotherShape) {
  SKIP_WITHOUT_DEVICE();
  DecoderModel model(small_spec(small_gqa(), MlpSpec{.width = 96}));
  const auto pass = make_pass<float>(model, {{1, 2}});
  model.embed(*pass);
  model.take(*pass, 0);
  pass->begin_layer();
  const Bf16View wrong{model.bytes("model.layers.0.mlp.up_proj.weight").data(), 64, 96};
  expect_error(
      ErrorKind::kBadInput,
      [&] {
        pass->expert(0, {wrong, wrong, wrong}, nullptr);
      },
      "gate_proj", "[96, 64]", "[64, 96]");
}

}  // namespace
}  // namespace nibblecast
