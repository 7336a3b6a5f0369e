// pipeline/command_record.h - the command that began a job, so that it can be shown, and run again.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json.h"

namespace nibblecast {

struct CommandRecord {
  std::vector<std::string> arguments;  // after the program's name; bytes, not always UTF-8
  std::string folder;                  // absolute; where it was run
};

// A word that is not UTF-8 as a list of its bytes.
Json word_json(const std::string& word);
std::string word_of(const Json& json);  // throws Json::exception for what word_json() did not make

// {"arguments": [...], "folder": ...}
Json command_json(const CommandRecord& command);
// Of what command_json() made. Throws Json::exception for anything else.
CommandRecord command_of(const Json& json);

// "nibblecast quantize SRC DST ...", ready to be pasted; run in the record's folder.
std::string command_text(const CommandRecord& command);
// The same with each path cut to its last component: an output may be published, folders are nobody's
// business.
std::string published_command_text(const CommandRecord& command);

}  // namespace nibblecast
