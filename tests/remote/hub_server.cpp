#include "remote/hub_server.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "base/digest.h"
#include "base/json.h"

namespace nibblecast::testing {
namespace {

std::string content_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string oid_of(const std::string& content, bool is_large) {
  Digest digest(is_large ? Digest::Kind::kSha256 : Digest::Kind::kSha1);
  if (!is_large) digest.add("blob " + std::to_string(content.size()) + '\0');
  digest.add(content);
  return digest.hex();
}

ServerReply refusal(int status, const char* code, const char* message) {
  return {
      .status = status, .fields = {{"X-Error-Code", code}, {"X-Error-Message", message}}, .body = message};
}

}  // namespace

HubServer::HubServer(const std::filesystem::path& folder, std::string id) : id_(std::move(id)) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    const std::string name = entry.path().lexically_relative(folder).string();
    const bool is_large = name.ends_with(".safetensors") || name.ends_with(".jsonl");
    std::string text = content_of(entry.path());
    std::string oid = oid_of(text, is_large);
    files_[name] = {.content = std::move(text), .is_large = is_large, .oid = std::move(oid)};
  }
  store_ =
      std::make_unique<HttpServer>([this](const ServerRequest& request) { return answer_store(request); });
  hub_ = std::make_unique<HttpServer>([this](const ServerRequest& request) { return answer_hub(request); });
}

HubServer::~HubServer() = default;

void HubServer::change(const std::string& name, std::string text) {
  const std::lock_guard lock(mutex_);
  File& file = files_.at(name);
  file.oid = oid_of(text, file.is_large);
  file.content = std::move(text);
}

ServerReply HubServer::answer_hub(const ServerRequest& request) {
  ++requests_;
  std::string path = request.target.substr(0, request.target.find('?'));
  if (const std::string main = "/" + id_ + "/resolve/main/"; path.starts_with(main))
    path.replace(0, main.size(), "/" + id_ + "/resolve/" + kCommit + "/");
  const std::string query =
      request.target.substr(std::min(request.target.find('?'), request.target.size() - 1) + 1);
  const std::string api = this->api(), resolve = "/" + id_ + "/resolve/" + kCommit + "/";
  const auto authorization = request.fields.find("authorization");
  ServerReply reply = refusal(404, "RepoNotFound", "Repository not found");
  if (!token.empty() && (authorization == request.fields.end() || authorization->second != "Bearer " + token))
    reply = refusal(401, "RepoNotFound", "Repository not found");
  else if (path == api || path.starts_with(api + "/"))
    reply = answer_api(path.substr(std::min(api.size() + 1, path.size())), query);
  else if (path.starts_with(resolve))
    reply = is_gated ? refusal(403, "GatedRepo", "Access to this model is restricted")
                     : answer_resolve(path.substr(resolve.size()), request);
  if (spoil_hub) spoil_hub(request, reply);
  return reply;
}

ServerReply HubServer::answer_api(const std::string& path, const std::string& query) {
  const std::string commit = kCommit;
  const auto is_page = [&](const std::string& kind) {
    return path == kind + "main" || path == kind + commit;
  };
  if (path.empty() || is_page("revision/")) {
    Json siblings = Json::array();
    for (const auto& [name, file] : files_) siblings.push_back({{"rfilename", name}});
    return {.body = Json{{"id", id_}, {"sha", commit}, {"gated", is_gated}, {"siblings", siblings}}.dump()};
  }
  if (!is_page("tree/")) return refusal(404, "RevisionNotFound", "Invalid rev id");
  const size_t cursor = query.find("cursor=");
  const size_t first = cursor == query.npos ? 0 : std::stoul(query.substr(cursor + 7));
  Json items = Json::array({{{"type", "directory"}, {"oid", commit}, {"size", 0}, {"path", "folder"}}});
  size_t index = 0;
  for (const auto& [name, file] : files_) {
    const size_t here = index++;
    if (here < first || here >= first + page_entries) continue;
    Json item = {{"type", "file"}, {"oid", file.oid}, {"size", file.content.size()}, {"path", name}};
    if (file.is_large) {
      item["oid"] = std::string(40, 'a');
      item["lfs"] = {{"oid", file.oid}, {"size", file.content.size()}, {"pointerSize", 134}};
    }
    items.push_back(std::move(item));
  }
  ServerReply reply{.body = items.dump()};
  if (first + page_entries < files_.size())
    reply.fields.emplace_back("Link", "<" + endpoint() + api() + "/tree/" + commit +
                                          "?recursive=true&cursor=" + std::to_string(first + page_entries) +
                                          ">; rel=\"next\"");
  return reply;
}

// As the Hub: large files behind a link that holds a signature, small ones at once.
ServerReply HubServer::answer_resolve(const std::string& name, const ServerRequest& request) {
  const std::lock_guard lock(mutex_);
  const auto file = files_.find(name);
  if (file == files_.end()) return refusal(404, "EntryNotFound", "Entry not found");
  const std::string etag = "\"" + file->second.oid + "\"";
  if (!file->second.is_large) {
    ServerReply reply = content(name, request);
    reply.fields.emplace_back("X-Repo-Commit", kCommit);
    reply.fields.emplace_back("ETag", etag);
    return reply;
  }
  const std::string signature = std::to_string(++links_);
  uses_left_[signature] = link_uses;
  return {.status = 302,
          .fields = {{"Location", store_->url("localhost") + "/" + name + "?signature=" + signature},
                     {"X-Repo-Commit", kCommit},
                     {"X-Linked-ETag", etag},
                     {"X-Linked-Size", std::to_string(file->second.content.size())}}};
}

ServerReply HubServer::answer_store(const ServerRequest& request) {
  ++requests_;
  ServerReply reply{.status = 403, .body = "Request has expired"};
  {
    const std::lock_guard lock(mutex_);
    if (const auto token_sent = request.fields.find("authorization"); token_sent != request.fields.end())
      tokens_seen_.insert(token_sent->second);
    const size_t query = request.target.find("?signature=");
    const std::string name = request.target.substr(1, query - 1);
    const auto uses = uses_left_.find(request.target.substr(query + 11));
    if (query != std::string::npos && uses != uses_left_.end() && uses->second-- > 0)
      reply = content(name, request);
  }
  if (spoil_store) spoil_store(request, reply);
  return reply;
}

// Counted as sent whole, whatever becomes of it: a test that cuts counts for itself.
ServerReply HubServer::content(const std::string& name, const ServerRequest& request) {
  const std::string& whole = files_.at(name).content;
  if (!request.range) {
    count(name, 0, whole);
    return {.body = whole};
  }
  const auto [first, last] = *request.range;
  if (first >= whole.size())
    return {.status = 416, .fields = {{"Content-Range", "bytes */" + std::to_string(whole.size())}}};
  ServerReply reply{.status = 206, .body = whole.substr(first, last - first + 1)};
  reply.fields.emplace_back("Content-Range", "bytes " + std::to_string(first) + "-" +
                                                 std::to_string(first + reply.body.size() - 1) + "/" +
                                                 std::to_string(whole.size()));
  count(name, first, reply.body);
  return reply;
}

void HubServer::count(const std::string& name, uint64_t first, const std::string& body) {
  if (!is_counting) return;
  std::vector<int>& counts = sent_[name];
  const size_t end = first + body.size();
  counts.resize(std::max(counts.size(), end));
  for (size_t at = first; at < end; ++at) ++counts[at];
}

uint64_t HubServer::sent(const std::string& name) {
  const std::lock_guard lock(mutex_);
  uint64_t sum = 0;
  for (const int count : sent_[name]) sum += static_cast<uint64_t>(count);
  return sum;
}

int HubServer::most_often_sent(const std::string& name) {
  const std::lock_guard lock(mutex_);
  int most = 0;
  for (const int count : sent_[name]) most = std::max(most, count);
  return most;
}

std::set<std::string> HubServer::tokens_seen_by_store() {
  const std::lock_guard lock(mutex_);
  return tokens_seen_;
}

}  // namespace nibblecast::testing
