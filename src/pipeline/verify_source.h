// pipeline/verify_source.h - holds a downloaded checkpoint against the checksums by which the Hugging Face
// Hub names its files: are its bytes the ones that were published?
//
// Where they are known:
//   the Hub's cache     snapshots/REVISION/FILE is a link to ../../blobs/CHECKSUM
//   hf://OWNER/NAME     the listing has it, of files in git too
//   hf download --local-dir   .cache/huggingface/download/FILE.metadata: commit, CHECKSUM, time, a line each
// A checksum of 64 hexadecimal digits is the file's SHA-256; one of 40 is git's name of it, the SHA-1 of
// "blob SIZE", a zero byte, and its bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/file.h"
#include "pipeline/verify.h"

namespace nibblecast {

struct SourceReport {
  std::vector<std::string> problems;   // one line for each file that is damaged, missing or unreadable
  std::vector<std::string> unchecked;  // files that nothing is known of, relative to the folder
  uint64_t files = 0, bytes = 0;       // compared

  // What could not be checked at all is not right either.
  bool ok() const { return problems.empty() && files > 0; }
};

// All files in the folder and below, several at once; they need not make a checkpoint. Hidden names are left
// out. kBadInput where it is no folder. What options.progress throws ends it, and what reading from a server
// does.
SourceReport verify_source(const std::filesystem::path& folder, FileSystem& files,
                           const VerifyOptions& options = {});

}  // namespace nibblecast
