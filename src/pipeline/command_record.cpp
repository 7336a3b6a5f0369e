#include "pipeline/command_record.h"

#include <algorithm>

#include "base/shell.h"
#include "remote/address.h"

namespace nibblecast {
namespace {

std::string last_component(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  const size_t slash = path.rfind('/');
  return slash == std::string::npos || path == "/" ? path : path.substr(slash + 1);
}

// Of --option=PATH, of PATH:64,PATH:64.
std::string without_folders(const std::string& word) {
  const size_t value = word.starts_with("--") ? word.find('=') + 1 : 0;
  std::string stripped = word.substr(0, value);
  for (size_t begin = value; begin <= word.size();) {
    const size_t end = std::min(word.find(',', begin), word.size());
    stripped += last_component(word.substr(begin, end - begin)) + (end < word.size() ? "," : "");
    begin = end + 1;
  }
  return stripped;
}

std::string text_of(std::vector<std::string> words) {
  words.insert(words.begin(), "nibblecast");
  return shell_words(words);
}

}  // namespace

Json word_json(const std::string& word) {
  if (is_utf8(word)) return word;
  Json bytes = Json::array();
  for (const char byte : word) bytes.push_back(static_cast<unsigned char>(byte));
  return bytes;
}

std::string word_of(const Json& json) {
  if (!json.is_array()) return json.get<std::string>();
  std::string word;
  for (const Json& byte : json) word += static_cast<char>(byte.get<unsigned char>());
  return word;
}

Json command_json(const CommandRecord& command) {
  Json arguments = Json::array();
  for (const std::string& word : command.arguments) arguments.push_back(word_json(word));
  return {{"arguments", std::move(arguments)}, {"folder", word_json(command.folder)}};
}

CommandRecord command_of(const Json& json) {
  CommandRecord command;
  for (const Json& word : json.at("arguments")) command.arguments.push_back(word_of(word));
  command.folder = word_of(json.at("folder"));
  return command;
}

std::string command_text(const CommandRecord& command) { return text_of(command.arguments); }

std::string published_command_text(const CommandRecord& command) {
  std::vector<std::string> words;
  for (const std::string& word : command.arguments)
    words.push_back(hub_id_of_address(word).empty() ? without_folders(word) : word);
  return text_of(std::move(words));
}

}  // namespace nibblecast
