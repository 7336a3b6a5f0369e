#include "pipeline/verify.h"

#include <gmock/gmock.h>

#include <cstring>
#include <fstream>
#include <limits>

#include "base/parallel.h"
#include "checkpoint/manifest.h"
#include "checkpoint/safetensors.h"
#include "pipeline/problem_list.h"
#include "pipeline_testing.h"

namespace nibblecast {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::run_job;
using testing::TemporaryFolder;

constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kRequantized = "layers.0.ffn.experts.1.w2.weight";  // one block outside the window
constexpr const char* kZeroBlock = "layers.0.ffn.experts.2.w1.weight";    // its first block has E8M0 byte 0
constexpr const char* kKnown = "layers.1.ffn.experts.3.w1.weight";        // begins with the bytes 80 21

std::string text_of(const fs::path& path) { return read_text(system_files(), path, 1 << 30); }

// A new file in its place: what stood there may be linked from elsewhere.
void write_file(const fs::path& path, const std::string& text) {
  fs::remove(path);
  std::ofstream file(path, std::ios::binary);
  file << text;
  ASSERT_TRUE(file.good()) << path;
}

void truncate_file(const fs::path& path, size_t size_bytes) {
  write_file(path, text_of(path).substr(0, size_bytes));
}

// Calls edit(bytes) with the whole of a tensor's bytes and writes them back.
template <class F>
void edit_tensor(const fs::path& folder, const std::string& name, const F& edit) {
  const Checkpoint checkpoint = Checkpoint::open(folder, system_files());
  const Tensor& tensor = checkpoint.at(name);
  const fs::path shard = folder / checkpoint.shards()[tensor.shard].name;
  std::string file = text_of(shard);
  edit(std::span(reinterpret_cast<uint8_t*>(file.data()) + tensor.offset, tensor.size_bytes));
  write_file(shard, file);
}

void flip(const fs::path& folder, const std::string& tensor, size_t at, uint8_t bits) {
  edit_tensor(folder, tensor, [&](std::span<uint8_t> bytes) { bytes[at] ^= bits; });
}
void set_byte(const fs::path& folder, const std::string& tensor, size_t at, uint8_t value) {
  edit_tensor(folder, tensor, [&](std::span<uint8_t> bytes) { bytes[at] = value; });
}
void set_float(const fs::path& folder, const std::string& tensor, float value) {
  edit_tensor(folder, tensor,
              [&](std::span<uint8_t> bytes) { std::memcpy(bytes.data(), &value, sizeof value); });
}
float get_float(const fs::path& folder, const std::string& tensor) {
  float value = 0;
  edit_tensor(folder, tensor,
              [&](std::span<uint8_t> bytes) { std::memcpy(&value, bytes.data(), sizeof value); });
  return value;
}
void swap_tensors(const fs::path& folder, const std::string& a, const std::string& b) {
  std::vector<uint8_t> bytes_of_a, bytes_of_b;
  const auto assign = [](std::vector<uint8_t>& to) {
    return [&to](std::span<uint8_t> bytes) { to.assign(bytes.begin(), bytes.end()); };
  };
  edit_tensor(folder, a, assign(bytes_of_a));
  edit_tensor(folder, b, assign(bytes_of_b));
  ASSERT_NE(bytes_of_a, bytes_of_b);
  edit_tensor(folder, a, [&](std::span<uint8_t> bytes) { std::ranges::copy(bytes_of_b, bytes.begin()); });
  edit_tensor(folder, b, [&](std::span<uint8_t> bytes) { std::ranges::copy(bytes_of_a, bytes.begin()); });
}

template <class F>
void edit_json(const fs::path& folder, const char* name, const F& edit) {
  Json document = parse_json(text_of(folder / name), name);
  edit(document);
  write_file(folder / name, document.dump(2));
}

std::string shard_of(const fs::path& folder, const std::string& tensor) {
  const Checkpoint checkpoint = Checkpoint::open(folder, system_files());
  return checkpoint.shards()[checkpoint.at(tensor).shard].name;
}

struct Stored {
  Tensor tensor;
  std::string bytes;
};

// Packs the shard that holds `near` anew after edit(its tensors), and the index after it.
template <class F>
void repack(const fs::path& folder, const std::string& near, const F& edit) {
  Checkpoint checkpoint = Checkpoint::open(folder, system_files());
  const uint32_t shard = checkpoint.at(near).shard;
  const std::string file = text_of(folder / checkpoint.shards()[shard].name);
  std::vector<Stored> stored;
  std::map<std::string, std::string> weight_map;
  uint64_t data_bytes = 0;
  for (const Tensor& tensor : checkpoint.tensors()) {
    if (tensor.shard == shard) {
      stored.push_back({tensor, file.substr(tensor.offset, tensor.size_bytes)});
      continue;
    }
    weight_map[tensor.name] = checkpoint.shards()[tensor.shard].name;
    data_bytes += tensor.size_bytes;
  }
  edit(stored);
  std::vector<Tensor> tensors;
  std::string data;
  for (Stored& one : stored) {
    one.tensor.offset = data.size();
    one.tensor.size_bytes = one.bytes.size();
    data += one.bytes;
    tensors.push_back(one.tensor);
    weight_map[one.tensor.name] = checkpoint.shards()[shard].name;
  }
  write_file(folder / checkpoint.shards()[shard].name, write_safetensors_header(tensors, {}) + data);
  write_file(folder / kIndex,
             output_index(checkpoint.index_metadata(), weight_map, data_bytes + data.size()).dump());
}

template <class F>
void change_header(const fs::path& folder, const std::string& name, const F& change) {
  repack(folder, name, [&](std::vector<Stored>& stored) {
    for (Stored& one : stored) {
      if (one.tensor.name == name) change(one);
    }
  });
}
void remove_tensor(const fs::path& folder, const std::string& name) {
  repack(folder, name, [&](std::vector<Stored>& stored) {
    std::erase_if(stored, [&](const Stored& one) { return one.tensor.name == name; });
  });
}

VerifyReport verify_outputs(const fs::path& source, const fs::path& output,
                            const VerifyOptions& options = {}) {
  return verify(Checkpoint::open(source, system_files()), output, system_files(), options);
}

// A source with blocks of every kind, and two outputs of it: policy `layer` with kept signs, `expert` with
// cleared ones.
class VerifyTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    made_ = new TemporaryFolder();
    testing::make_tiny_source(source());
    const auto scale_name = [](std::string weight) { return weight.substr(0, weight.size() - 6) + "scale"; };
    set_byte(source(), scale_name(kRequantized), 3, 60);
    set_byte(source(), kRequantized, 3 * 16, 0x57);
    set_byte(source(), scale_name(kZeroBlock), 0, 0);
    edit_tensor(source(), kZeroBlock,
                [](std::span<uint8_t> bytes) { std::fill_n(bytes.begin(), 16, uint8_t{0}); });
    set_byte(source(), kKnown, 0, 0x80);
    set_byte(source(), kKnown, 1, 0x21);
    make("layer", {});
    make("expert", {.input_scale = InputScalePolicy::kExpert, .negative_zero = NegativeZero::kModelOpt});
  }
  static void TearDownTestSuite() {
    delete made_;
    made_ = nullptr;
  }

  static fs::path source() { return made_->path() / "source"; }
  // A copy to break; of links, since direct reads of freshly copied files wait for the disk.
  fs::path output(const char* name = "layer") const {
    const fs::path copy = work_.path() / name;
    fs::copy(made_->path() / name, copy, fs::copy_options::recursive | fs::copy_options::create_hard_links);
    return copy;
  }

 private:
  static void make(const char* name, const QuantizeOptions& options) {
    const Checkpoint in = Checkpoint::open(source(), system_files());
    const Plan plan = make_plan(in, options);
    run_job(in, plan, Activations::from_rows(testing::tiny_rows(plan.model->vocabulary.size), "test"),
            made_->path() / name);
  }

  static TemporaryFolder* made_;
  TemporaryFolder work_;
};
TemporaryFolder* VerifyTest::made_ = nullptr;

TEST_F(VerifyTest, PassesWhatTheRunWrote) {
  for (const char* name : {"layer", "expert"}) {
    const VerifyReport report = verify_outputs(source(), output(name));
    EXPECT_THAT(report.problems, IsEmpty()) << name;
    EXPECT_EQ(report.tensors, make_plan(Checkpoint::open(source(), system_files()), {}).tensors.size());
    EXPECT_EQ(report.blocks, 5u * 8 * 3 * 256 * 128 / 32);
    EXPECT_EQ(report.requantized_blocks, 1u);
    EXPECT_EQ(report.identical_blocks, report.blocks - 1);
    EXPECT_GT(report.kept_bytes, 1'000'000u);
    EXPECT_THAT(report.notes, Contains(HasSubstr(std::string(kRequantized) +
                                                 ": 1 of 1024 blocks lie outside the cast's window "
                                                 "and were requantized; all of their values became 0")));
  }
}

TEST_F(VerifyTest, AcceptsEitherSignOfZeroWithoutRecordButNotBoth) {
  for (const char* name : {"layer", "expert"}) {
    const fs::path folder = output(name);
    fs::remove(folder / "nibblecast.json");
    EXPECT_THAT(verify_outputs(source(), folder).problems, IsEmpty()) << name;
    flip(folder, kKnown, 0, 0x80);
    EXPECT_THAT(verify_outputs(source(), folder).problems, ElementsAre(HasSubstr(kKnown))) << name;
    flip(folder, kKnown, 0, 0x88);  // the other zero of the byte has no sign in the source
    EXPECT_THAT(verify_outputs(source(), folder).problems, ElementsAre(HasSubstr(kKnown))) << name;
  }
}

TEST_F(VerifyTest, LayoutDoesNotMatter) {
  const fs::path folder = output();
  repack(folder, kKnown, [](std::vector<Stored>& stored) { std::ranges::reverse(stored); });
  change_header(folder, "layers.1.ffn.experts.3.w1.input_scale", [](Stored& one) { one.tensor.shape = {1}; });
  EXPECT_THAT(verify_outputs(source(), folder).problems, IsEmpty());
}

TEST_F(VerifyTest, ReportDoesNotDependOnThreadsOrMemory) {
  const fs::path folder = output();
  for (const char* tensor : {"embed.weight", "head.weight", kKnown, kZeroBlock, kRequantized}) {
    edit_tensor(folder, tensor, [](std::span<uint8_t> bytes) {
      for (size_t at = 1; at < bytes.size(); at += 100) bytes[at] ^= 0x21;
    });
  }
  const VerifyReport usual = verify_outputs(source(), folder);
  const ThreadLimit one(1);
  const VerifyReport small = verify_outputs(source(), folder, {.memory_bytes = 1});
  EXPECT_EQ(usual.problems, small.problems);
  EXPECT_EQ(usual.notes, small.notes);
  EXPECT_EQ(usual.problems.size(), 5u);
}

TEST_F(VerifyTest, ReportsProgress) {
  Progress last;
  uint64_t before = 0;
  verify_outputs(source(), output(), {.progress = [&](const Progress& progress) {
                   EXPECT_GE(progress.bytes_done, before);
                   before = progress.bytes_done;
                   last = progress;
                 }});
  EXPECT_GT(last.bytes, 0u);
  EXPECT_EQ(last.bytes_done, last.bytes);
}

TEST_F(VerifyTest, OtherEnginesBreachesAreNotes) {
  const fs::path folder = output();
  edit_json(folder, "config.json",
            [](Json& config) { config["quantization_config"]["kv_cache_quant_algo"] = "FP8"; });
  const auto breach = Contains(HasSubstr("sglang: quantization_config.kv_cache_quant_algo"));
  EXPECT_THAT(verify_outputs(source(), folder).problems, breach);
  const VerifyReport report = verify_outputs(source(), folder, {.engines = std::set{Engine::kVllm}});
  EXPECT_THAT(report.problems, ::testing::Not(breach));
  EXPECT_THAT(report.notes, breach);
  // Without a choice, those that were chosen when it was made.
  edit_json(folder, "nibblecast.json", [](Json& run) { run["options"]["engines"] = {"vllm"}; });
  EXPECT_THAT(verify_outputs(source(), folder).problems, ::testing::Not(breach));
  edit_json(folder, "nibblecast.json", [](Json& run) { run["options"]["engines"] = {"vllm", "llama"}; });
  EXPECT_THAT(verify_outputs(source(), folder).problems, Contains(HasSubstr("options.engines is unknown")));
}

TEST_F(VerifyTest, NoFolderIsAnError) {
  testing::expect_error(
      ErrorKind::kBadInput, [&] { verify_outputs(source(), source() / "absent"); }, "no such folder");
}

struct Mutation {
  const char* name;
  std::function<void(const fs::path&)> apply;
  std::vector<std::string> named;  // for each of them, a problem line that holds it
  const char* output = "layer";
  bool nothing_else = false;  // every line holds one of them
};

void PrintTo(const Mutation& mutation, std::ostream* out) { *out << mutation.name; }

class VerifyBroken : public VerifyTest, public ::testing::WithParamInterface<Mutation> {};

TEST_P(VerifyBroken, NamesWhatIsWrong) {
  const fs::path folder = output(GetParam().output);
  GetParam().apply(folder);
  const VerifyReport report = verify_outputs(source(), folder);
  EXPECT_FALSE(report.ok());
  for (const std::string& part : GetParam().named) EXPECT_THAT(report.problems, Contains(HasSubstr(part)));
  if (!GetParam().nothing_else) return;
  for (const std::string& line : report.problems) {
    EXPECT_TRUE(std::ranges::any_of(GetParam().named, [&](const std::string& part) {
      return line.find(part) != std::string::npos;
    })) << line;
  }
}

// One change, and the only thing reported.
Mutation only(const char* name, std::function<void(const fs::path&)> apply, std::vector<std::string> named,
              const char* output = "layer") {
  return {name, std::move(apply), std::move(named), output, true};
}

constexpr const char* kGate = "layers.1.ffn.experts.3.w1";
constexpr const char* kUp = "layers.1.ffn.experts.3.w3";
std::string gate(const char* suffix) { return std::string(kGate) + suffix; }
std::string up(const char* suffix) { return std::string(kUp) + suffix; }

INSTANTIATE_TEST_SUITE_P(
    Blocks, VerifyBroken,
    ::testing::Values(
        only("nibble", [](const fs::path& f) { flip(f, kKnown, 1, 0x10); },
             {"w1.weight: in 1 of 1024 blocks a value is not the source's; first at row 0, column 3"}),
        only("sign", [](const fs::path& f) { flip(f, kKnown, 1, 0x08); }, {"row 0, column 2"}),
        only("zero_loses_sign", [](const fs::path& f) { flip(f, kKnown, 0, 0x80); },
             {"w1.weight: in 1 of 1024 blocks a zero has the wrong sign; first at row 0, column 1: expected "
              "-0, found 0"}),
        only("zero_gets_sign", [](const fs::path& f) { flip(f, kKnown, 0, 0x08); },
             {"column 0: expected 0, found -0"}),
        only(
            "zero_keeps_sign", [](const fs::path& f) { flip(f, kKnown, 0, 0x80); },
            {"column 1: expected 0, found -0"}, "expert"),
        only("last_nibble", [](const fs::path& f) { flip(f, gate(".weight"), 128 * 128 - 1, 0x10); },
             {"row 127, column 255"}),
        only("requantized_nibble", [](const fs::path& f) { flip(f, kRequantized, 3 * 16, 0x01); },
             {std::string(kRequantized) + ": in 1 of 1024 blocks a requantized value"}),
        only("scale", [](const fs::path& f) { flip(f, gate(".weight_scale"), 7, 0x08); },
             {"w1.weight_scale: in 1 of 1024 blocks the scale is not"}),
        only("scale_of_zeros",
             [](const fs::path& f) { flip(f, "layers.0.ffn.experts.2.w1.weight_scale", 1, 0x02); },
             {"layers.0.ffn.experts.2.w1.weight_scale: in 1 of 1024"}),
        only("scale_nan", [](const fs::path& f) { set_byte(f, gate(".weight_scale"), 7, 0x7f); },
             {"w1.weight_scale: in 1 of 1024 blocks the scale is NaN"}),
        only("scale_negative_nan", [](const fs::path& f) { set_byte(f, gate(".weight_scale"), 7, 0xff); },
             {"w1.weight_scale: in 1 of 1024 blocks the scale is NaN"}),
        only("scale_negative", [](const fs::path& f) { flip(f, gate(".weight_scale"), 7, 0x80); },
             {"w1.weight_scale: in 1 of 1024 blocks the scale is negative"}),
        only("experts_swapped",
             [](const fs::path& f) {
               swap_tensors(f, gate(".weight_scale"), "layers.1.ffn.experts.4.w1.weight_scale");
             },
             {gate(".weight_scale"), "layers.1.ffn.experts.4.w1.weight_scale"})),
    [](const auto& mutation) { return mutation.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Scalars, VerifyBroken,
    ::testing::Values(
        only("scale_2_of_one",
             [](const fs::path& f) {
               set_float(f, gate(".weight_scale_2"), 2 * get_float(f, gate(".weight_scale_2")));
             },
             {gate(".weight_scale_2"), gate(".weight: in 1024 of 1024")}),
        only("scale_2_of_both",
             [](const fs::path& f) {
               for (const std::string& name : {gate(".weight_scale_2"), up(".weight_scale_2")}) {
                 set_float(f, name, 2 * get_float(f, name));
               }
             },
             {gate(".weight_scale_2: must be"), up(".weight_scale_2: must be"), gate(".weight: in 10"),
              up(".weight: in 10")}),
        only("scale_2_nan",
             [](const fs::path& f) {
               set_float(f, gate(".weight_scale_2"), std::numeric_limits<float>::quiet_NaN());
             },
             {gate(".weight_scale_2: must be positive and finite"), gate(".weight_scale_2"),
              gate(".weight: in ")}),
        only("input_scale_of_one", [](const fs::path& f) { set_float(f, up(".input_scale"), 0.5f); },
             {gate(".input_scale"), up(".input_scale: must be")}),
        only("input_scale_of_both",
             [](const fs::path& f) {
               set_float(f, gate(".input_scale"), 0.5f);
               set_float(f, up(".input_scale"), 0.5f);
             },
             {gate(".input_scale: must be"), up(".input_scale: must be")}),
        Mutation{"input_scale_without_amax",
                 [](const fs::path& f) {
                   fs::remove(f / "calibration" / "amax.safetensors");
                   set_float(f, "layers.2.ffn.experts.0.w2.input_scale", 0.5f);
                 },
                 {"layers.2.ffn.experts.0.w2.input_scale: must be"},
                 "layer",
                 true},
        only("input_scale_zero", [](const fs::path& f) { set_float(f, gate(".input_scale"), 0); },
             {gate(".input_scale: must be positive and finite; found 0"), gate(".input_scale")}),
        only("input_scale_negative",
             [](const fs::path& f) {
               set_float(f, gate(".input_scale"), -get_float(f, gate(".input_scale")));
             },
             {gate(".input_scale: must be positive"), gate(".input_scale")}),
        only("input_scale_nan",
             [](const fs::path& f) {
               set_float(f, gate(".input_scale"), std::numeric_limits<float>::quiet_NaN());
             },
             {gate(".input_scale: must be positive and finite; found nan"), gate(".input_scale")}),
        only("input_scale_infinite",
             [](const fs::path& f) {
               set_float(f, gate(".input_scale"), std::numeric_limits<float>::infinity());
             },
             {gate(".input_scale: must be positive and finite; found inf"), gate(".input_scale")}),
        only("input_scale_missing", [](const fs::path& f) { remove_tensor(f, gate(".input_scale")); },
             {gate(".input_scale: is missing"), "vllm: " + gate(".input_scale"),
              "sglang: " + gate(".input_scale")}),
        only(
            "input_scales_swapped",
            [](const fs::path& f) {
              swap_tensors(f, "layers.1.ffn.experts.3.w2.input_scale",
                           "layers.1.ffn.experts.5.w2.input_scale");
            },
            {"layers.1.ffn.experts.3.w2.input_scale", "layers.1.ffn.experts.5.w2.input_scale"}, "expert")),
    [](const auto& mutation) { return mutation.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Tensors, VerifyBroken,
    ::testing::Values(
        only(
            "kept_byte", [](const fs::path& f) { flip(f, "layers.2.attn.wq_a.weight", 1000, 0x10); },
            {"layers.2.attn.wq_a.weight: 1 of 32768 bytes differ from the source's, the first at byte 1000"}),
        only("draft_byte", [](const fs::path& f) { flip(f, "mtp.0.ffn.experts.7.w2.scale", 5, 1); },
             {"mtp.0.ffn.experts.7.w2.scale: 1 of"}),
        only("norm_byte", [](const fs::path& f) { flip(f, "norm.weight", 0, 1); }, {"norm.weight: 1 of"}),
        only("extra",
             [](const fs::path& f) {
               repack(f, gate(".weight"), [](std::vector<Stored>& stored) {
                 stored.push_back({{.name = "layers.1.extra", .dtype = Dtype::kU8, .shape = {3}}, "abc"});
               });
             },
             {"layers.1.extra: is in"}),
        only("left_scale",
             [](const fs::path& f) {
               repack(f, gate(".weight"), [](std::vector<Stored>& stored) {
                 stored.push_back({{.name = gate(".scale"), .dtype = Dtype::kF8E8M0, .shape = {3}}, "abc"});
               });
             },
             {gate(".scale: is in"), "vllm: " + gate(".scale must be absent")}),
        only("missing", [](const fs::path& f) { remove_tensor(f, "layers.3.attn.wkv.scale"); },
             {"layers.3.attn.wkv.scale: is missing"}),
        only("i8",
             [](const fs::path& f) {
               change_header(f, kKnown, [](Stored& one) { one.tensor.dtype = Dtype::kI8; });
             },
             {std::string(kKnown) + ": must be U8 [128, 128]; found I8 [128, 128]"}),
        only("shape",
             [](const fs::path& f) {
               change_header(f, kKnown, [](Stored& one) { one.tensor.shape = {64, 256}; });
             },
             {std::string(kKnown) + ": must be U8 [128, 128]; found U8 [64, 256]",
              gate(".weight_scale must be")}),
        only("truncated_in_data",
             [](const fs::path& f) {
               const fs::path shard = f / shard_of(f, kKnown);
               truncate_file(shard, fs::file_size(shard) - 1);
             },
             {"before its data does", "lies in a shard that cannot be read", "more (unreadable tensors)"}),
        only("truncated_in_header", [](const fs::path& f) { truncate_file(f / shard_of(f, kKnown), 100); },
             {"model-00003-of-", "lies in a shard that cannot be read", "more (unreadable tensors)"}),
        only("empty", [](const fs::path& f) { truncate_file(f / shard_of(f, kKnown), 0); },
             {"model-00003-of-", "lies in a shard that cannot be read", "more (unreadable tensors)"}),
        only("shard_missing", [](const fs::path& f) { fs::remove(f / shard_of(f, kKnown)); },
             {"the index names this shard, but it is missing", "lies in a shard that cannot be read",
              "more (unreadable tensors)"})),
    [](const auto& mutation) { return mutation.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Index, VerifyBroken,
    ::testing::Values(only("entry_missing",
                           [](const fs::path& f) {
                             edit_json(f, kIndex, [](Json& index) { index["weight_map"].erase(kKnown); });
                           },
                           {
                               std::string(kKnown) + ": is in model-00003",
                           }),
                      only("wrong_shard",
                           [](const fs::path& f) {
                             edit_json(f, kIndex, [](Json& index) {
                               index["weight_map"][kKnown] = index["weight_map"]["embed.weight"];
                             });
                           },
                           {std::string(kKnown) + ": the index places it in model-00001"}),
                      only("stranger",
                           [](const fs::path& f) {
                             edit_json(f, kIndex, [](Json& index) {
                               index["weight_map"]["x"] = index["weight_map"]["embed.weight"];
                             });
                           },
                           {"x: the index places it in"}),
                      only("total_size",
                           [](const fs::path& f) {
                             edit_json(f, kIndex, [](Json& index) { index["metadata"]["total_size"] = 7; });
                           },
                           {"metadata.total_size must be"}),
                      only("metadata",
                           [](const fs::path& f) {
                             edit_json(f, kIndex, [](Json& index) { index["metadata"]["more"] = 7; });
                           },
                           {"metadata.more must be absent"}),
                      only("outside",
                           [](const fs::path& f) {
                             edit_json(f, kIndex, [](Json& index) { index["weight_map"][kKnown] = "../x"; });
                           },
                           {kKnown}),
                      only("gone", [](const fs::path& f) { fs::remove(f / kIndex); },
                           {std::string(kIndex) + ": is missing"})),
    [](const auto& mutation) { return mutation.param.name; });

Mutation config(const char* name, std::function<void(Json&)> edit, std::vector<std::string> named) {
  return {name, [edit](const fs::path& f) { edit_json(f, "config.json", edit); }, std::move(named)};
}

INSTANTIATE_TEST_SUITE_P(
    Documents, VerifyBroken,
    ::testing::Values(
        config("field_lost", [](Json& c) { c.erase("use_cache"); },
               {"config.json: use_cache must be true; found nothing"}),
        config("field_added", [](Json& c) { c["x"] = 1; }, {"config.json: x must be absent; found 1"}),
        config("field_changed", [](Json& c) { c["swiglu_limit"] = 7.0; },
               {"config.json: swiglu_limit must be 10.0"}),
        config("no_section", [](Json& c) { c.erase("quantization_config"); },
               {"config.json: quantization_config"}),
        config("broad_ignore", [](Json& c) { c["quantization_config"]["ignore"].push_back("layers.2.*"); },
               {"config.json: quantization_config.ignore",
                "vllm: quantization_config.ignore must not match"}),
        config("nested", [](Json& c) { c["quantization_config"]["quantization"] = Json::object(); },
               {"quantization_config.quantization must be absent",
                "vllm: quantization_config must not hold a nested"}),
        config("layer_not_listed",
               [](Json& c) { c["quantization_config"]["quantized_layers"].erase("layers.3.ffn.experts"); },
               {"config.json: quantized_layers lacks layers.3.ffn.experts"}),
        config("layer_invented",
               [](Json& c) {
                 c["quantization_config"]["quantized_layers"]["layers.9.ffn.experts"] = Json::object();
               },
               {"config.json: quantized_layers names layers.9.ffn.experts"}),
        config("no_object", [](Json& c) { c = Json::array(); }, {"config.json: does not hold a JSON object"}),
        Mutation{
            "config_cut", [](const fs::path& f) { truncate_file(f / "config.json", 100); }, {"config.json"}},
        Mutation{"config_gone",
                 [](const fs::path& f) { fs::remove(f / "config.json"); },
                 {"config.json: is missing"}},
        only("hf_gone", [](const fs::path& f) { fs::remove(f / "hf_quant_config.json"); },
             {"hf_quant_config.json: is missing"}),
        only("unfinished", [](const fs::path& f) { write_file(f / "x.partial", ""); },
             {"x.partial: left by a run"}),
        only("record_blocks",
             [](const fs::path& f) {
               edit_json(f, "nibblecast.json", [](Json& run) { run["blocks"]["outside_window"] = 0; });
             },
             {"nibblecast.json: blocks.outside_window must be 1; found 0"}),
        only("record_source",
             [](const fs::path& f) {
               edit_json(f, "nibblecast.json", [](Json& run) { run["source"]["identity"] = "x"; });
             },
             {"nibblecast.json: source.identity must be"}),
        Mutation{"record_policy",
                 [](const fs::path& f) {
                   edit_json(f, "nibblecast.json",
                             [](Json& run) { run["options"]["negative_zero"] = "modelopt"; });
                 },
                 {"layers.0.ffn.experts.0.w1.weight: in ", "more (expert weights)"}},
        only("record_unknown_policy",
             [](const fs::path& f) {
               edit_json(f, "nibblecast.json", [](Json& run) { run["options"]["input_scale"] = "any"; });
             },
             {"nibblecast.json: options.input_scale is unknown; found \"any\""})),
    [](const auto& mutation) { return mutation.param.name; });

// Every key of both manifests, removed and changed.
TEST_F(VerifyTest, EveryManifestKeyCounts) {
  const fs::path folder = output();
  for (const auto& manifest :
       {std::pair("config.json", "quantization_config"), std::pair("hf_quant_config.json", "quantization")}) {
    const char* const file = manifest.first;
    const std::string section = manifest.second;
    const std::string whole = text_of(folder / file);
    const Json document = parse_json(whole, file);
    for (const auto& entry : document[section].items()) {
      const std::string& key = entry.key();
      if (key == "producer") continue;
      const std::string path = section + "." + key;
      edit_json(folder, file, [&](Json& edited) { edited[section].erase(key); });
      EXPECT_THAT(verify_outputs(source(), folder).problems, Contains(HasSubstr(path))) << "without " << key;
      edit_json(folder, file, [&](Json& edited) { edited[section][key] = "other"; });
      EXPECT_THAT(verify_outputs(source(), folder).problems, Contains(HasSubstr(path))) << "other " << key;
      write_file(folder / file, whole);
    }
  }
  edit_json(folder, "config.json", [](Json& c) {
    c["quantization_config"]["producer"] = {{"name", "modelopt"}};
  });
  edit_json(folder, "hf_quant_config.json", [](Json& c) { c["producer"] = {{"name", "modelopt"}}; });
  EXPECT_THAT(verify_outputs(source(), folder).problems, IsEmpty());
}

// The oracle's amax in the form of ours: F32 [16] a layer and projection.
AmaxFile oracle_amax(const fs::path& model, const Plan& plan) {
  const fs::path path = model / "oracle.safetensors";
  const std::string file = text_of(path);
  AmaxFile amax;
  amax.layers.resize(plan.layers());
  for (uint64_t layer = 0; layer < amax.layers.size(); ++layer) amax.layers[layer].layer = layer;
  for (const Tensor& tensor : read_safetensors_header(*system_files().open(path, Access::kRead)).tensors) {
    for (LayerAmax& layer : amax.layers) {
      const std::string prefix = "calib.layers." + std::to_string(layer.layer) + ".experts.";
      const auto take = [&](const char* kind, const char* tap) {
        if (tensor.name != prefix + kind) return;
        std::vector<float>& values = layer.taps[tap];
        values.resize(tensor.size_bytes / sizeof(float));
        std::memcpy(values.data(), file.data() + tensor.offset, tensor.size_bytes);
      };
      take("w13", "experts.in");
      take("w2", "experts.mid");
      take("w2_weighted", "experts.mid_weighted");
    }
  }
  return amax;
}

TEST(Verify, AcceptsModelOptsDocumentsButNotItsStaleSize) {
  SKIP_WITHOUT_SHARED_MODEL(model, "tiny-v4");
  SKIP_WITHOUT_SHARED_MODEL(modelopt, "tiny-v4-modelopt");
  const TemporaryFolder work;
  const fs::path output = work.path() / "out";
  const Checkpoint source = Checkpoint::open(model, system_files());
  const Plan plan = make_plan(source, {.input_scale = InputScalePolicy::kExpert,
                                       .w2_input = W2Input::kWeighted,
                                       .negative_zero = NegativeZero::kModelOpt});
  const Activations activations = {
      .rows = {}, .amax = oracle_amax(model, plan), .origin = "oracle", .identity = "o"};
  run_job(source, plan, activations, output);
  EXPECT_THAT(verify_outputs(model, output).problems, IsEmpty());
  fs::remove(output / "nibblecast.json");
  for (const char* name : {"config.json", "hf_quant_config.json", kIndex}) {
    write_file(output / name, text_of(modelopt / name));
  }
  EXPECT_THAT(verify_outputs(model, output).problems, ElementsAre(HasSubstr("metadata.total_size must be")));
}

TEST(ProblemList, CountsWhatItDoesNotShow) {
  ProblemList problems;
  for (int line = 0; line < 25; ++line) {
    problems.add("many", "m" + std::to_string(line));
    if (line == 3) problems.add("few", "f");
  }
  const std::vector<std::string> lines = problems.lines();
  ASSERT_EQ(lines.size(), 22u);
  EXPECT_EQ(lines[0], "m0");
  EXPECT_EQ(lines[19], "m19");
  EXPECT_EQ(lines[20], "... and 5 more (many)");
  EXPECT_EQ(lines[21], "f");
}

}  // namespace
}  // namespace nibblecast
