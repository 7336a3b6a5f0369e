#include "base/shell.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <vector>

namespace nibblecast {
namespace {

TEST(Shell, WordsAreQuotedWhereTheyMust) {
  EXPECT_EQ(shell_word("models/DeepSeek-V4,b:64"), "models/DeepSeek-V4,b:64");
  EXPECT_EQ(shell_word(""), "''");
  EXPECT_EQ(shell_word("a b"), "'a b'");
  EXPECT_EQ(shell_word("it's"), "'it'\\''s'");
  EXPECT_EQ(shell_word("gabe \xc3\xb6"), "'gabe \xc3\xb6'");
  EXPECT_EQ(shell_word("t\xe9\n"), "$'t\\xe9\\x0a'");
}

// What a shell makes of them.
TEST(Shell, TheShellGivesThemBack) {
  const std::vector<std::string> words = {"plain",      "", "two words", "it's", "$HOME `x` \"y\" \\",
                                          "t\xe9'\\\n!"};
  const std::string command = "bash -c " + shell_word("printf '%s|' " + shell_words(words));
  FILE* pipe = ::popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string found;
  for (int letter = std::fgetc(pipe); letter != EOF; letter = std::fgetc(pipe))
    found += static_cast<char>(letter);
  ::pclose(pipe);
  std::string expected;
  for (const std::string& word : words) expected += word + "|";
  EXPECT_EQ(found, expected);
}

}  // namespace
}  // namespace nibblecast
