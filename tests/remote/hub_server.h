// tests/remote/hub_server.h - an imitation of the Hugging Face Hub: one model, its listing, files behind
// signed links on another host name.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "remote/http_server.h"

namespace nibblecast::testing {

class HubServer {
 public:
  struct File {
    std::string content;
    bool is_large = false;  // kept as LFS: named by SHA-256, served by the store
    std::string oid;        // SHA-256, or git's SHA-1
  };
  static constexpr const char* kCommit = "0123456789abcdef0123456789abcdef01234567";

  // Serves the folder's files as hf://OWNER/NAME, or as a data set where `id` is "datasets/OWNER/NAME"; those
  // that end in .safetensors or .jsonl are large.
  explicit HubServer(const std::filesystem::path& folder, std::string id = "owner/tiny");
  HubServer(const HubServer&) = delete;
  HubServer& operator=(const HubServer&) = delete;
  ~HubServer();

  std::string endpoint() const { return hub_->url(); }
  const std::string& id() const { return id_; }
  void set_line(const LineShape& line) { store_->line = hub_->line = line; }  // before the first request
  std::map<std::string, File>& files() { return files_; }                     // before the first request
  // Another content under the name, that the listing does not know of.
  void change(const std::string& name, std::string content);

  // What a test may set before requests, and read after them.
  std::string token = {};                  // must be sent to the Hub; empty: none is wanted
  bool is_counting = true;                 // what was sent, below; four bytes for each of a file's
  bool is_gated = false;                   // nobody gets more than the listing
  size_t page_entries = 1000;              // of the listing
  std::atomic<int> link_uses = 1'000'000;  // of a signed link, then it has expired
  // Looks at a reply of the store and of the Hub before it is sent.
  std::function<void(const ServerRequest&, ServerReply&)> spoil_store = {}, spoil_hub = {};

  // Bytes of a file's content that were sent, each counted as often as it was.
  uint64_t sent(const std::string& name);
  // How often one byte of it was sent at most.
  int most_often_sent(const std::string& name);
  std::set<std::string> tokens_seen_by_store();
  size_t requests() const { return requests_; }
  size_t links() const { return links_; }  // that were given

 private:
  ServerReply answer_hub(const ServerRequest& request);
  ServerReply answer_api(const std::string& path, const std::string& query);
  ServerReply answer_resolve(const std::string& name, const ServerRequest& request);
  ServerReply answer_store(const ServerRequest& request);
  ServerReply content(const std::string& name, const ServerRequest& request);
  void count(const std::string& name, uint64_t first, const std::string& body);

  // Of the model's listings: "/api/models/OWNER/NAME".
  std::string api() const { return (id_.starts_with("datasets/") ? "/api/" : "/api/models/") + id_; }

  const std::string id_;
  std::map<std::string, File> files_;
  std::mutex mutex_;  // of what follows, and contents
  std::map<std::string, std::vector<int>> sent_;
  std::map<std::string, int> uses_left_;  // of signed links
  std::set<std::string> tokens_seen_;
  std::atomic<size_t> requests_ = 0, links_ = 0;
  std::unique_ptr<HttpServer> store_, hub_;
};

}  // namespace nibblecast::testing
