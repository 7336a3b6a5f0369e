// remote/address.h - sources that are no folders: a model on the Hugging Face Hub, or a folder of a server.
//
//   hf://OWNER/NAME[@REVISION]                   REVISION: a branch, tag or commit; main where it is left out
//   https://huggingface.co/OWNER/NAME[/tree/REVISION]   the same, as a browser shows it
//   https://HOST/PATH, http://HOST/PATH          a folder of any server that answers range requests
//
// In a path, "hf://" may have become "hf:/": that is the same address. Pure.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace nibblecast {

struct HubAddress {
  std::string owner, name, revision;  // revision: "main" where none was named
  bool is_dataset = false;            // which no command line names as a source
  std::string id() const { return owner + "/" + name; }
};

struct SourceAddress {
  std::optional<HubAddress> hub;
  std::string url;  // where it is no model of the Hub: without a slash at the end
};

bool is_address(const std::filesystem::path& path);

// `endpoint`: the Hub's address (hub.h); what begins with it is a model too. Error kUsage: anything that is
// not one of the above, with what it should be; a user name or password in an address, which would be shown
// in messages.
SourceAddress parse_address(std::string_view text, std::string_view endpoint);

// Of a path that begins with hf://OWNER/NAME@COMMIT: "OWNER/NAME"; empty for any other.
std::string hub_id_of_address(const std::filesystem::path& path);
// The last part of an address without its revision: "NAME"; empty for a path.
std::string name_of_address(const std::filesystem::path& path);

}  // namespace nibblecast
