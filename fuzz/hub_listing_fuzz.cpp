// Any bytes as what a server answers where the Hub's listing of a model is expected: refused with Error, or a
// folder whose files have names that stay inside it and are found by them. The first line is the answer's
// Link header.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "fuzzing.h"
#include "remote/hub.h"

namespace nibblecast {
namespace {

using fuzzing::require;

// Pins the revision, and answers everything else with the same bytes.
class OneAnswer : public HttpTransport {
 public:
  explicit OneAnswer(std::string_view text)
      : link_(text.substr(0, text.find('\n'))),
        body_(text.substr(std::min(text.find('\n'), text.size() - 1) + 1)) {}

  HttpReply get(const HttpRequest& request) override {
    require(origin_of(request.url) == "https://hub");
    const bool pins = request.url.find("/revision/") != std::string::npos;
    const bool is_first = request.url.find("recursive=true") != std::string::npos;
    HttpReply reply;
    reply.head.status = is_first || pins ? 200 : 404;
    reply.text = pins ? R"({"sha": "0123456789abcdef0123456789abcdef01234567"})" : body_;
    if (is_first && ++pages_ < 4) reply.head.fields["link"] = link_;
    return reply;
  }

 private:
  const std::string link_, body_;
  int pages_ = 0;
};

void check_folder(RemoteFolder& folder, const std::string& inside) {
  for (const std::string& name : folder.list(inside)) {
    require(!name.empty() && name != ".." && name.find('/') == name.npos);
    const std::string path = inside.empty() ? name : inside + "/" + name;
    const auto status = folder.status(path);
    require(status.has_value());
    if (status->is_folder) check_folder(folder, path);
  }
}

void try_listing(std::string_view text) {
  const HubSettings settings{.endpoint = "https://hub", .retry = {.most_tries = 1}};
  const auto folder = open_hub_folder(settings, {.owner = "o", .name = "n", .revision = "main"},
                                      std::make_shared<OneAnswer>(text), system_files());
  check_folder(*folder, "");
}

}  // namespace
}  // namespace nibblecast

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace nibblecast;
  if (size > 0) fuzzing::refused_or([&] { try_listing(fuzzing::text_of(bytes, size)); });
  return 0;
}
