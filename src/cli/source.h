// cli/source.h - a checkpoint named by a user: a folder, or something close to one, or an address
// (remote/address.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "checkpoint/checkpoint.h"
#include "cli/common_options.h"

namespace nibblecast {

// A folder, or an address whose listing is known and whose files can be read through `files` until the
// process ends.
struct OpenedFolder {
  FileSystem& files;  // reads paths of this machine too
  std::filesystem::path path;
};
// Of an address all headers are fetched. With HF_HUB_OFFLINE a model of the Hub is the snapshot in the cache.
// Errors: kBadInput, kUsage, kIo and kUnsupported; nothing is looked at of a folder.
OpenedFolder open_folder(const std::string& path);

// Checkpoint::open, of an address through open_folder(). Else with a hint where `path` is a Hub id, the root
// of a model in the Hub's cache, or a folder that holds no checkpoint. Errors: kBadInput; of an address as
// open_folder().
Checkpoint open_source(const std::string& path, bool require_config = true);

// What open_source() refuses of a folder without opening a file.
void require_checkpoint_folder(const std::string& path, bool require_config = true);

// --keep-source DIR: what is read of models on the Hub is stored in DIR, which takes the place of the Hub's
// cache (remote/hub_store.h). Call before anything is opened.
void add_keep_source(CLI::App& app);
// At the end of a command that succeeded: waits until what is stored is checked, and says what is there and
// what is not. Nothing without --keep-source. Errors as HubStore::finish().
void finish_kept_sources(const CommonOptions& common);

}  // namespace nibblecast
