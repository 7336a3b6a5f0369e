#include "pipeline/synth_side_files.h"

#include "base/json.h"

namespace nibblecast {
namespace {

constexpr const char* kBosText = "<｜begin▁of▁sentence｜>";
constexpr const char* kEosText = "<｜end▁of▁sentence｜>";

std::string utf8_of(unsigned code_point) {  // below 0x800, all that the byte alphabet needs
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xc0 | (code_point >> 6)), static_cast<char>(0x80 | (code_point & 0x3f))};
}

// GPT-2's alphabet of bytes, which ByteLevel uses: printable Latin-1 as itself, the others, in order, from
// U+0100 on. The special tokens must be in it too: the tokenizers library numbers those that are not anew.
Json vocabulary_of_bytes() {
  Json vocabulary = {{kBosText, kSynthBos}, {kEosText, kSynthEos}};
  unsigned next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    vocabulary[utf8_of(printable ? byte : next++)] = kSynthFirstByte + static_cast<int>(byte);
  }
  return vocabulary;
}

Json special_token(int id, const char* text) {
  return {{"id", id},        {"content", text},     {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

Json tokenizer() {
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  const Json words = {{"type", "Split"},
                      {"pattern", {{"Regex", "\\s?\\S+|\\s+"}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", {special_token(kSynthBos, kBosText), special_token(kSynthEos, kEosText)}},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {words, byte_level}}}},
          {"post_processor", byte_level},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocabulary_of_bytes()},
            {"merges", Json::array()}}}};
}

}  // namespace

void write_synth_side_files(FileSystem& files, const std::filesystem::path& out,
                            const std::string& description, uint64_t max_position_embeddings) {
  const auto write = [&](const char* name, const std::string& text) {
    write_text_durably(files, out / name, text);
  };
  write("generation_config.json",
        Json{{"_from_model_config", true}, {"bos_token_id", kSynthBos}, {"eos_token_id", kSynthEos}}.dump(2) +
            "\n");
  write("tokenizer.json", tokenizer().dump(2) + "\n");
  write("tokenizer_config.json", Json{{"add_bos_token", false},
                                      {"add_eos_token", false},
                                      {"bos_token", kBosText},
                                      {"eos_token", kEosText},
                                      {"pad_token", kEosText},
                                      {"model_max_length", max_position_embeddings},
                                      {"tokenizer_class", "PreTrainedTokenizerFast"},
                                      {"clean_up_tokenization_spaces", false}}
                                         .dump(2) +
                                     "\n");
  write("README.md",
        "---\nlibrary_name: transformers\ntags: [deepseek_v4, synthetic]\n---\n\n# Random weights\n\n" +
            description +
            "\n\nMade by nibblecast synth. It has the layout of a release and says nothing sensible.\n");
}

}  // namespace nibblecast
