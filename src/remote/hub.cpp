#include "remote/hub.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "base/error.h"
#include "base/json.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

constexpr size_t kCommitDigits = 40, kSha256Digits = 64;
constexpr size_t kMostPages = 10'000;
constexpr uint64_t kSmallFile = 64 << 10;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : value;
}

bool is_set(const char* name) {
  std::string value = variable(name);
  std::ranges::transform(value, value.begin(),
                         [](unsigned char letter) { return static_cast<char>(std::toupper(letter)); });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

std::string trimmed(std::string text) {
  std::erase_if(text, [](char letter) { return letter == '\r' || letter == '\n'; });
  text.erase(0, std::min(text.find_first_not_of(' '), text.size()));
  while (text.ends_with(' ')) text.pop_back();
  return text;
}

Path token_file() {
  if (const std::string path = variable("HF_TOKEN_PATH"); !path.empty()) return path;
  if (const std::string home = variable("HF_HOME"); !home.empty()) return Path(home) / "token";
  if (const std::string cache = variable("XDG_CACHE_HOME"); !cache.empty())
    return Path(cache) / "huggingface/token";
  return Path(variable("HOME")) / ".cache/huggingface/token";
}

std::string find_token(FileSystem& files) {
  for (const char* name : {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}) {
    if (std::string token = trimmed(variable(name)); !token.empty()) return token;
  }
  if (is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN")) return {};
  const Path file = token_file();
  return files.status(file) ? trimmed(read_text(files, file, kSmallFile)) : std::string();
}

bool is_hex(std::string_view text, size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == text.npos;
}

Path model_folder(const HubSettings& settings, const HubAddress& address) {
  return settings.cache /
         ((address.is_dataset ? "datasets--" : "models--") + address.owner + "--" + address.name);
}

// "OWNER/NAME" of a model, "datasets/OWNER/NAME".
std::string page_of(const HubAddress& address) {
  return (address.is_dataset ? "datasets/" : "") + address.id();
}

std::string address_text(const HubAddress& address) {
  return "hf://" + page_of(address) + (address.revision == "main" ? "" : "@" + address.revision);
}

// What the Hub's refusals mean; it does not tell a private model from one that is not there.
void explain(const HubSettings& settings, const HubAddress& address, const HttpReply& reply,
             const std::string& file) {
  const std::string code = reply.head.field("x-error-code");
  const std::string page = settings.endpoint + "/" + page_of(address);
  const std::string what = address.is_dataset ? "data set" : "model";
  const bool has_token = !settings.token.empty();
  const auto fail = [&](const std::string& problem, const std::string& hint) {
    throw Error(ErrorKind::kBadInput, {.file = file}, problem, {.hint = hint});
  };
  const std::string log_in = "`hf auth login`, or set HF_TOKEN";
  const int status = reply.head.status;
  if (code == "GatedRepo" || (status == 403 && code.empty())) {
    fail("is gated, and " + std::string(has_token ? "the token's account has no access" : "no token is set"),
         "ask for access on " + page + (has_token ? "" : ", then " + log_in));
  }
  if (code == "RevisionNotFound")
    fail("the " + what + " has no revision '" + address.revision + "'",
         "its branches are listed on " + page + "/tree/main");
  if (code == "EntryNotFound") fail("the Hub has no such file in this revision", "");
  if (status == 401 && has_token && code.empty())
    fail("the Hub does not accept the token", "make a new one, then " + log_in);
  if (status == 401 || status == 403 || status == 404) {
    fail("the Hub has no such " + what + ", or it is private",
         "is the name right (" + page +
             ")? For a private one: " + (has_token ? "the token's account must have access" : log_in));
  }
}

Line hub_line(const HubSettings& settings, const HubAddress& address,
              std::shared_ptr<HttpTransport> transport) {
  return {.transport = std::move(transport),
          .token = settings.token,
          .token_origin = origin_of(settings.endpoint),
          .retry = settings.retry,
          .explain = [settings, address](const HttpReply& reply, const std::string& file) {
            explain(settings, address, reply, file);
          }};
}

[[noreturn]] void refuse_listing(const std::string& file, const std::string& what) {
  throw Error(ErrorKind::kBadInput, {.file = file}, "the server's answer is not the Hub's: " + what,
              {.hint = "is HF_ENDPOINT right?"});
}

std::string pinned_commit(const Line& line, const std::string& api, const HubAddress& address,
                          const std::string& file) {
  const HttpReply reply = get_document(line, api + "/revision/" + url_quoted(address.revision), file);
  const Json document = parse_json(reply.text, file);
  const Json commit = at_or_null(document, "sha");
  if (!commit.is_string() || !is_hex(commit.get<std::string>(), kCommitDigits))
    refuse_listing(file, "it names no commit");
  return commit;
}

// A name that stays inside the folder.
bool is_plain_name(const std::string& name) {
  const Path path = name;
  return !name.empty() && name.find('\0') == name.npos && path.is_relative() &&
         path.lexically_normal().native() == name && *path.begin() != ".." && path.has_filename();
}

RemoteEntry entry_of(const Json& item, const std::string& commit, const std::string& file) {
  const Json name = at_or_null(item, "path"), lfs = at_or_null(item, "lfs");
  const Json& described = lfs.is_object() ? lfs : item;
  const Json size = at_or_null(described, "size"), checksum = at_or_null(described, "oid");
  if (!name.is_string() || !is_plain_name(name.get<std::string>()) || !size.is_number_unsigned())
    refuse_listing(file, "an entry of its listing names no file");
  RemoteEntry entry{.name = name, .size_bytes = size, .commit = commit};
  if (checksum.is_string()) entry.version = checksum;
  entry.is_checksum = is_hex(entry.version, lfs.is_object() ? kSha256Digits : kCommitDigits);
  return entry;
}

std::vector<RemoteEntry> list_files(const Line& line, const HubSettings& settings, const std::string& api,
                                    const std::string& commit, const std::string& file) {
  std::vector<RemoteEntry> entries;
  std::string url = api + "/tree/" + commit + "?recursive=true&expand=false";
  for (size_t page = 0; !url.empty(); ++page) {
    const HttpReply reply = get_document(line, url, file);
    const Json items = parse_json(reply.text, file);
    if (!items.is_array() || page == kMostPages) refuse_listing(file, "its listing is no list of files");
    for (const Json& item : items) {
      if (at_or_null(item, "type") == "file") entries.push_back(entry_of(item, commit, file));
    }
    const std::string next = next_link(reply.head.field("link"));
    url = next.empty() ? "" : joined_url(url, next);
    if (!url.empty() && origin_of(url) != origin_of(settings.endpoint))
      refuse_listing(file, "its listing goes on at " + origin_of(url));
  }
  return entries;
}

// The same bytes on this machine: the file of the same commit, or a blob of the same checksum.
Path cached_copy(const HubSettings& settings, const HubAddress& address, const RemoteEntry& entry,
                 FileSystem& files) {
  const Path model = model_folder(settings, address);
  std::vector<Path> places = {model / "snapshots" / entry.commit / entry.name};
  if (entry.is_checksum) places.push_back(model / "blobs" / entry.version);
  for (const Path& place : places) {
    const auto status = files.status(place);
    if (status && !status->is_folder && status->size_bytes == entry.size_bytes) return place;
  }
  return {};
}

}  // namespace

HubSettings hub_settings(FileSystem& files, Path cache) {
  HubSettings settings;
  if (const std::string endpoint = variable("HF_ENDPOINT"); !endpoint.empty()) settings.endpoint = endpoint;
  while (settings.endpoint.ends_with('/')) settings.endpoint.pop_back();
  if (!settings.endpoint.starts_with("https://") && !settings.endpoint.starts_with("http://")) {
    throw Error(ErrorKind::kUsage, {}, "HF_ENDPOINT is no address",
                {.expected = "https://HOST", .found = settings.endpoint});
  }
  settings.token = find_token(files);
  if (std::ranges::any_of(settings.token,
                          [](unsigned char letter) { return letter <= ' ' || letter >= 127; }))
    throw Error(ErrorKind::kUsage, {}, "the Hub's token holds characters that no token has",
                {.hint = "look at HF_TOKEN, or log in again: `hf auth login`"});
  settings.cache = std::move(cache);
  settings.is_offline = is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE");
  return settings;
}

std::unique_ptr<RemoteFolder> open_hub_folder(const HubSettings& settings, const HubAddress& address,
                                              std::shared_ptr<HttpTransport> transport, FileSystem& files) {
  const std::string file = address_text(address);
  const std::string api =
      settings.endpoint + (address.is_dataset ? "/api/" : "/api/models/") + page_of(address);
  Line line = hub_line(settings, address, std::move(transport));
  Line first = line;  // who is not there at all is known soon
  first.retry.most_tries = std::min<size_t>(4, line.retry.most_tries);
  const std::string commit = pinned_commit(first, api, address, file);
  std::unique_ptr<HubStore> store;
  if (settings.keeps)
    store = std::make_unique<HubStore>(files, model_folder(settings, address), commit,
                                       address.revision == commit ? "" : address.revision);
  std::vector<RemoteFolder::Listed> listed;
  for (RemoteEntry& entry : list_files(line, settings, api, commit, file)) {
    Path copy = cached_copy(settings, address, entry, files);
    if (store) copy.empty() ? store->add_parts(entry) : store->add_whole(entry);
    std::string url = fmt::format("{}/{}/resolve/{}/{}", settings.endpoint, page_of(address), commit,
                                  url_quoted(entry.name, "/"));
    listed.push_back({std::move(entry), std::move(url), std::move(copy)});
  }
  return std::make_unique<RemoteFolder>("hf://" + page_of(address) + "@" + commit, std::move(line),
                                        std::move(listed), files, std::move(store));
}

Path cached_snapshot(const HubSettings& settings, const HubAddress& address, FileSystem& files) {
  const Path model = model_folder(settings, address);
  std::string commit = address.revision;
  const Path reference = model / "refs" / address.revision;
  if (!is_hex(commit, kCommitDigits))
    commit = files.status(reference) ? trimmed(read_text(files, reference, kSmallFile)) : "";
  const Path snapshot = model / "snapshots" / commit;
  if (is_hex(commit, kCommitDigits) && files.status(snapshot)) return snapshot;
  throw Error(
      ErrorKind::kBadInput, {.file = address_text(address)},
      "is not in the Hub's cache, and HF_HUB_OFFLINE forbids to ask for it",
      {.found = "nothing of it in " + model.string(),
       .hint = fmt::format("unset HF_HUB_OFFLINE, or `hf download {}` where there is a line", address.id())});
}

std::unique_ptr<RemoteFolder> open_server_folder(const std::string& url,
                                                 std::shared_ptr<HttpTransport> transport,
                                                 const RetryPolicy& retry) {
  Line line{.transport = std::move(transport), .retry = retry};
  line.explain = [](const HttpReply& reply, const std::string& file) {
    const int status = reply.head.status;
    if (status != 401 && status != 403 && status != 404) return;
    throw Error(ErrorKind::kBadInput, {.file = file},
                status == 404 ? "the server has no such file" : "the server gives no access to it",
                {.found = outcome_text(reply)});
  };
  // What a model's folder holds beside weights, by the names that its tools give.
  return std::make_unique<RemoteFolder>(
      url, std::move(line), url,
      std::vector<std::string>{"config.json", "model.safetensors.index.json", "generation_config.json",
                               "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json",
                               "merges.txt", "special_tokens_map.json", "added_tokens.json",
                               "chat_template.jinja", "chat_template.json", "preprocessor_config.json",
                               "processor_config.json", "README.md", "LICENSE"});
}

}  // namespace nibblecast
