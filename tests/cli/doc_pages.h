// tests/cli/doc_pages.h - what README.md and docs/*.md show: command lines, and words set as code.
#pragma once

#include <string>
#include <vector>

namespace nibblecast::testing {

// A command line of a page, or the text of a code span in its prose.
struct DocText {
  std::string page;  // relative to the project
  size_t line = 0;   // from 1
  std::string text;

  std::string where() const { return page + ":" + std::to_string(line) + ": " + text; }
};

// README.md and docs/*.md.
std::vector<std::string> doc_pages();

// Of a block fenced as `sh` every line; of one fenced as `console`, or indented and with lines that begin
// with
// "$ ", those lines; of another indented block all lines, where the first one begins with the name of a
// program
// (`nibblecast`, `make`, ...). A backslash at the end joins lines.
std::vector<DocText> doc_commands(const std::string& page);

// In the order of the page, with single blanks for line ends. Nothing of blocks, and of the rows of tables
// whose head begins with "theirs" not the first cell.
std::vector<DocText> doc_spans(const std::string& page);

// The first code span of each row of the tables whose head begins so.
std::vector<std::string> doc_first_cells(const std::string& page, const std::string& head);

// At blanks; quotes are no more than letters here.
std::vector<std::string> words_of(const std::string& text);

}  // namespace nibblecast::testing
