#include "doc_pages.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <sstream>

#include "run_cli.h"

namespace nibblecast::testing {
namespace {

namespace fs = std::filesystem;

struct Line {
  size_t number;
  std::string text;
};

struct Block {
  std::string fence;  // "sh", "console", ...; empty: indented
  bool is_fenced = false;
  std::vector<Line> lines;
};

// A page's blocks of code, and its other lines.
struct Page {
  std::vector<Block> blocks;
  std::vector<Line> prose;
};

Page read_page(const std::string& page) {
  std::istringstream text(read_file(fs::path(NIBBLECAST_SOURCE_DIR) / page));
  Page parts;
  bool in_fence = false, in_indent = false, after_blank = true;
  std::string line;
  for (size_t number = 1; std::getline(text, line); ++number) {
    const bool is_fence = line.starts_with("```"),
               is_blank = line.find_first_not_of(' ') == std::string::npos;
    const bool is_indented = !in_fence && line.starts_with("    ") && !is_blank && (after_blank || in_indent);
    if (is_fence && !in_fence)
      parts.blocks.push_back({.fence = line.substr(3), .is_fenced = true, .lines = {}});
    if (is_indented && !in_indent) parts.blocks.emplace_back();
    if (in_fence && !is_fence) parts.blocks.back().lines.push_back({number, line});
    if (is_indented) parts.blocks.back().lines.push_back({number, line.substr(4)});
    if (!in_fence && !is_fence && !is_indented) parts.prose.push_back({number, line});
    if (is_fence) in_fence = !in_fence;
    in_indent = is_indented;
    after_blank = is_blank;
  }
  return parts;
}

bool begins_with_program(const std::string& line) {
  static const std::set<std::string> programs = {"nibblecast", "make",    "cmake",  "hf",          "vllm",
                                                 "sglang",     "python3", "python", "pip",         "git",
                                                 "curl",       "apt",     "docker", "trtllm-serve"};
  const std::vector<std::string> words = words_of(line);
  return !words.empty() && (programs.contains(words[0]) || words[0].starts_with("tools/") ||
                            words[0].starts_with("bench/") || words[0].starts_with("build/"));
}

bool is_command(const Block& block, const Line& line) {
  const bool is_console =
      block.fence == "console" || (!block.is_fenced && std::ranges::any_of(block.lines, [](const Line& of) {
        return of.text.starts_with("$ ");
      }));
  if (line.text.empty() || line.text[0] == '#') return false;
  if (is_console) return line.text.starts_with("$ ");
  return block.is_fenced ? block.fence == "sh" : begins_with_program(block.lines[0].text);
}

// The first cell of such a row is about other programs.
bool is_row_of_theirs(const std::string& head, const std::string& line) {
  return line.starts_with("|") && head.starts_with("| theirs");
}

}  // namespace

std::vector<std::string> doc_pages() {
  std::vector<std::string> pages;
  for (const auto& entry : fs::directory_iterator(fs::path(NIBBLECAST_SOURCE_DIR) / "docs")) {
    if (entry.path().extension() == ".md") pages.push_back("docs/" + entry.path().filename().string());
  }
  std::ranges::sort(pages);
  pages.insert(pages.begin(), "README.md");
  return pages;
}

std::vector<DocText> doc_commands(const std::string& page) {
  std::vector<DocText> commands;
  bool goes_on = false;
  for (const Block& block : read_page(page).blocks) {
    for (const Line& line : block.lines) {
      if (!goes_on && !is_command(block, line)) continue;
      std::string text = line.text.starts_with("$ ") ? line.text.substr(2) : line.text;
      const bool joins = text.ends_with('\\');
      if (joins) text.pop_back();
      if (goes_on)
        commands.back().text += " " + text;
      else
        commands.push_back({page, line.number, text});
      goes_on = joins;
    }
  }
  return commands;
}

std::vector<DocText> doc_spans(const std::string& page) {
  std::vector<DocText> spans;
  bool in_span = false;
  std::string head;
  for (const Line& line : read_page(page).prose) {
    if (!line.text.starts_with("|")) head.clear();
    if (line.text.starts_with("|") && head.empty()) head = line.text;
    if (line.text.empty()) in_span = false;
    const size_t second = line.text.find('|', 1);
    const size_t first = is_row_of_theirs(head, line.text) && second != std::string::npos ? second : 0;
    if (in_span) spans.back().text += ' ';
    for (const char character : line.text.substr(first)) {
      if (character == '`') {
        in_span = !in_span;
        if (in_span) spans.push_back({page, line.number, ""});
      } else if (in_span) {
        spans.back().text += character;
      }
    }
  }
  return spans;
}

std::vector<std::string> doc_first_cells(const std::string& page, const std::string& head) {
  std::vector<std::string> cells;
  bool is_wanted = false, in_table = false;
  for (const Line& line : read_page(page).prose) {
    const bool is_row = line.text.starts_with("|");
    if (is_row && !in_table) is_wanted = line.text.starts_with(head);
    in_table = is_row;
    if (!is_row || !is_wanted || !line.text.starts_with("| `")) continue;
    cells.push_back(line.text.substr(3, line.text.find('`', 3) - 3));
  }
  return cells;
}

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

}  // namespace nibblecast::testing
