// pipeline/published.h - what of a run is fit for publishing: names instead of paths, no host, no process,
// and only those files beside the weights that are the model's own.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "plan/options.h"
#include "plan/plan.h"

namespace nibblecast {

struct SideFiles {
  std::vector<std::filesystem::path> taken, left_out;  // relative to the source, sorted
};
// Of Checkpoint::side_files(), by the rule of docs/cli.md, "Files beside the weights": tokenizer and
// processor files, configurations, chat templates, code, licences, READMEs, encoding/, pictures of the card.
// Left out are inference/, whose code reads the release's formats alone, and whatever else the folder holds.
// The card under an output's own card (README.source.md) is taken instead of that.
SideFiles side_files(const Checkpoint& source);
bool is_licence(const std::string& name);  // LICENSE, licence.txt, COPYING...
// README.md becomes README.source.md.
std::filesystem::path name_in_output(const std::filesystem::path& side_file);

// The engines whose loaders' rules the output keeps.
std::vector<Engine> loading_engines(const Plan& plan);

// "OWNER/NAME" where `folder` is ".../models--OWNER--NAME/snapshots/REVISION" of a Hub cache, or
// hf://OWNER/NAME, else empty.
std::string hub_id(const std::filesystem::path& folder);

// Of a JSON file that is published: non-ASCII as escapes, two spaces, as Python's json.dump(indent=2) has it.
// A path need not be UTF-8.
std::string document_text(const Json& document);

// The last part of a path, whatever slashes follow it.
std::string folder_name(const std::filesystem::path& folder);

// "/home/a/x.jsonl:64,cnn_dailymail" -> "x.jsonl:64,cnn_dailymail".
std::string without_folders(const std::string& names);

// Of Job::attempts_json(): without host and process, and with one word for how each ended: "finished",
// "interrupted", "failed" (an error's text names paths), or empty where it was killed.
Json published_attempts(Json attempts);

}  // namespace nibblecast
