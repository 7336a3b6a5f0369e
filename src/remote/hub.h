// remote/hub.h - models on the Hugging Face Hub, as its own client (huggingface_hub) finds them: settings
// from the environment, the list of files of a pinned revision, what its cache holds.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "remote/address.h"
#include "remote/http.h"
#include "remote/remote_folder.h"

namespace nibblecast {

struct HubSettings {
  std::string endpoint = "https://huggingface.co";  // HF_ENDPOINT; no slash at the end
  std::string token = {};                           // HF_TOKEN, or the token file; empty: none
  std::filesystem::path cache = {};                 // HF_HUB_CACHE, HF_HOME/hub, or the user's
  bool is_offline = false;                          // HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE
  bool keeps = false;                               // what is read is stored in the cache (hub_store.h)
  RetryPolicy retry = {};
};

// Of the process's environment: HF_ENDPOINT; HF_TOKEN, HUGGING_FACE_HUB_TOKEN, or the file HF_TOKEN_PATH,
// HF_HOME/token or ~/.cache/huggingface/token, none with HF_HUB_DISABLE_IMPLICIT_TOKEN; HF_HUB_OFFLINE,
// TRANSFORMERS_OFFLINE. Source: constants.py and utils/_auth.py of huggingface_hub 0.36.
// Error kUsage: an endpoint that is no http(s) address, a token with characters that no header can hold.
HubSettings hub_settings(FileSystem& files, std::filesystem::path cache);

// The folder of the pinned revision of a model ("hf://OWNER/NAME@COMMIT") or data set
// ("hf://datasets/OWNER/NAME@COMMIT"), whose files are read from the cache where that holds them and from the
// Hub where it does not. Errors (kBadInput): a model or revision that is not there, or is private or
// gated, with what to do; a listing that is not one. kIo: no answer.
std::unique_ptr<RemoteFolder> open_hub_folder(const HubSettings& settings, const HubAddress& address,
                                              std::shared_ptr<HttpTransport> transport, FileSystem& files);

// The snapshot in the cache, which is all there is without a line. Error kBadInput: there is none.
std::filesystem::path cached_snapshot(const HubSettings& settings, const HubAddress& address,
                                      FileSystem& files);

// A folder of a server that has no listing, at `url`.
std::unique_ptr<RemoteFolder> open_server_folder(const std::string& url,
                                                 std::shared_ptr<HttpTransport> transport,
                                                 const RetryPolicy& retry = {});

}  // namespace nibblecast
