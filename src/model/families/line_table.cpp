#include "model/families/line_table.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "base/error.h"

namespace nibblecast {
namespace {

[[noreturn]] void refuse(std::string_view text) {
  throw Error(ErrorKind::kInternal, {}, "a table's shape has a size without a value",
              {.found = std::string(text), .hint = {}});
}

// Up to the next separator, which is taken away with it; blanks around it are not.
std::string_view cut(std::string_view& text, char separator) {
  const size_t end = text.find(separator);
  std::string_view part = text.substr(0, end);
  text = end == text.npos ? std::string_view() : text.substr(end + 1);
  while (part.starts_with(' ')) part.remove_prefix(1);
  while (part.ends_with(' ')) part.remove_suffix(1);
  return part;
}

uint64_t factor(std::string_view word, const Sizes& sizes) {
  uint64_t number = 0;
  if (std::from_chars(word.data(), word.data() + word.size(), number).ptr == word.data() + word.size())
    return number;
  const auto found = sizes.find(word);
  if (found == sizes.end()) refuse(word);
  return found->second;
}

uint64_t sum(std::string_view text, const Sizes& sizes) {
  uint64_t total = 0;
  while (!text.empty()) {
    std::string_view term = cut(text, '+');
    uint64_t product = 1;
    while (!term.empty()) product *= factor(cut(term, '*'), sizes);
    total += product;
  }
  return total;
}

Shape shape_of(std::string_view text, const Sizes& sizes) {
  Shape shape;
  while (!text.empty()) shape.push_back(sum(cut(text, ','), sizes));
  return shape;
}

// A layer's lines, one after the other.
class Maker {
 public:
  Maker(const Sizes& sizes, const std::string& prefix, int32_t layer, bool plus_one, LayerTable& table)
      : sizes_(sizes), prefix_(prefix), layer_(layer), plus_one_(plus_one), table_(table) {}

  void add(const TableLine& line) {
    switch (line.line) {
      case Line::kVector:
        return plain(line, PlainKind::kVector);
      case Line::kTable:
        return plain(line, PlainKind::kTable);
      case Line::kFilter:
        return plain(line, PlainKind::kFilter);
      case Line::kStackedGateUp:
        table_.stacks.gate_up = prefix_ + std::string(line.name);
        return;
      case Line::kStackedDown:
        table_.stacks.down = prefix_ + std::string(line.name);
        return;
      case Line::kUnused:
        return;
      default:
        return module(line, -1);
    }
  }
  void add_expert(const TableLine& line, uint64_t expert) { module(line, static_cast<int32_t>(expert)); }

 private:
  void plain(const TableLine& line, PlainKind kind) {
    table_.plain.push_back({.id = {.layer = layer_, .role = line.role},
                            .name = prefix_ + std::string(line.name),
                            .kind = kind,
                            .shape = shape_of(line.shape, sizes_)});
  }

  void module(const TableLine& line, int32_t expert) {
    WeightModule made{.id = {.layer = layer_, .expert = expert, .shared = line.shared, .role = line.role},
                      .name = prefix_ + name_of(line, expert),
                      .shape = shape_of(line.shape, sizes_),
                      .bias = line.bias};
    if (line.line == Line::kRouter) made.kind = ModuleKind::kRouter;
    if (line.role == Role::kEmbedding) made.kind = ModuleKind::kEmbedding;
    if (line.role == Role::kHead) made.kind = ModuleKind::kHead;
    if (line.line == Line::kStack) made.stack = table_.experts;
    if (!line.tap.empty()) made.tap = tap(line, made.shape[1]);
    if (line.bias)
      table_.plain.push_back({.id = made.id, .name = made.name + ".bias", .shape = {made.shape[0]}});
    table_.modules.push_back(std::move(made));
  }

  static std::string name_of(const TableLine& line, int32_t expert) {
    std::string name(line.name);
    if (expert >= 0) name.replace(name.find('#'), 1, std::to_string(expert));
    return name;
  }

  // That of this name, which the first line that names it makes.
  uint16_t tap(const TableLine& line, uint64_t width) {
    std::string_view norm = line.tap;
    const std::string_view name = cut(norm, '<');
    auto found = std::ranges::find(table_.taps, name, &Tap::name);
    if (found == table_.taps.end()) {
      Tap tap{.name = std::string(name)};
      if (line.line == Line::kExpert) tap.experts = table_.experts, tap.weighted = line.role == Role::kDown;
      if (!norm.empty()) {
        tap.norm = prefix_ + std::string(norm) + ".weight";
        tap.width = width;
        tap.norm_plus_one = plus_one_;
      }
      found = table_.taps.insert(found, std::move(tap));
    }
    return static_cast<uint16_t>(found - table_.taps.begin());
  }

  const Sizes& sizes_;
  const std::string& prefix_;
  const int32_t layer_;
  const bool plus_one_;
  LayerTable& table_;
};

}  // namespace

void LineTables::add(std::span<const TableLine> lines, const Sizes& sizes, const std::string& prefix,
                     int32_t layer, LayerTable& table) const {
  const bool has_experts = std::ranges::any_of(
      lines, [](const TableLine& line) { return line.line == Line::kExpert || line.line == Line::kStack; });
  if (has_experts) table.experts = factor("experts", sizes), table.top = factor("top", sizes);
  Maker maker(sizes, prefix, layer, plus_one_, table);
  for (const TableLine& line : lines)
    if (line.line != Line::kExpert) maker.add(line);
  for (uint64_t expert = 0; expert < table.experts; ++expert) {
    for (const TableLine& line : lines)
      if (line.line == Line::kExpert) maker.add_expert(line, expert);
  }
}

}  // namespace nibblecast
