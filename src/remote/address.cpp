#include "remote/address.h"

#include <algorithm>
#include <cctype>
#include <vector>

#include "base/error.h"

namespace nibblecast {
namespace {

constexpr std::string_view kHub = "hf:/";
constexpr std::string_view kSchemes[] = {kHub, "https:/", "http:/"};

[[noreturn]] void refuse(std::string_view text, const std::string& problem, const std::string& hint) {
  throw Error(
      ErrorKind::kUsage, {.file = std::string(text)}, problem,
      {.expected = "hf://OWNER/NAME, hf://OWNER/NAME@REVISION, or https://HOST/FOLDER", .hint = hint});
}

// What follows the scheme and its slashes, and no slash at the end.
std::string_view after_scheme(std::string_view text) {
  text.remove_prefix(text.find(':') + 1);
  text.remove_prefix(std::min(text.find_first_not_of('/'), text.size()));
  while (text.ends_with('/')) text.remove_suffix(1);
  return text;
}

std::vector<std::string> parts_of(std::string_view text) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const size_t slash = std::min(text.find('/'), text.size());
    if (slash > 0) parts.emplace_back(text.substr(0, slash));
    text.remove_prefix(std::min(slash + 1, text.size()));
  }
  return parts;
}

bool is_hub_word(std::string_view word) {
  return !word.empty() && word.front() != '.' && std::ranges::all_of(word, [](unsigned char letter) {
    return std::isalnum(letter) || letter == '-' || letter == '_' || letter == '.';
  });
}

HubAddress hub_address(std::string_view text, const std::string& owner, const std::string& name,
                       const std::string& revision) {
  if (owner == "datasets" || owner == "spaces") refuse(text, "names no model", "");
  if (!is_hub_word(owner) || !is_hub_word(name)) refuse(text, "names no model of the Hub", "");
  const bool is_odd = std::ranges::any_of(revision, [](unsigned char letter) { return letter <= ' '; });
  if (revision.empty() || is_odd) refuse(text, "has no revision after its @", "leave the @ out for main");
  return {.owner = owner, .name = name, .revision = revision};
}

HubAddress parse_hub(std::string_view text) {
  const std::string_view rest = after_scheme(text);
  const size_t at = rest.find('@');
  const std::vector<std::string> parts = parts_of(rest.substr(0, at));
  if (parts.size() > 2) refuse(text, "names something inside a model", "name the model alone");
  if (parts.size() < 2) refuse(text, "does not name owner and model", "");
  return hub_address(text, parts[0], parts[1],
                     at == std::string_view::npos ? "main" : std::string(rest.substr(at + 1)));
}

// `parts` of what follows the Hub's own address.
HubAddress parse_page(std::string_view text, const std::vector<std::string>& parts) {
  if (parts.size() < 2) refuse(text, "does not name owner and model", "");
  if (parts.size() == 2) return hub_address(text, parts[0], parts[1], "main");
  if (parts[2] != "tree" || parts.size() == 3)
    refuse(text, "names something inside a model", "name the model: hf://" + parts[0] + "/" + parts[1]);
  std::string revision = parts[3];
  for (size_t part = 4; part < parts.size(); ++part) revision += "/" + parts[part];
  return hub_address(text, parts[0], parts[1], revision);
}

}  // namespace

bool is_address(const std::filesystem::path& path) {
  return std::ranges::any_of(kSchemes,
                             [&](std::string_view scheme) { return path.native().starts_with(scheme); });
}

SourceAddress parse_address(std::string_view text, std::string_view endpoint) {
  if (text.starts_with(kHub)) return {.hub = parse_hub(text), .url = {}};
  const std::string_view rest = after_scheme(text);
  const std::string_view host = rest.substr(0, rest.find('/'));
  if (host.find('@') != std::string_view::npos) {
    throw Error(ErrorKind::kUsage, {}, "an address with a user name or password is not read",
                {.hint = "it would stand in messages and records; servers that want one are not supported"});
  }
  if (host.empty()) refuse(text, "names no host", "");
  if (rest.find_first_of("?#") != std::string_view::npos)
    refuse(text, "is not the address of a folder", "leave out what begins with ? or #");
  for (const std::string_view hub : {std::string_view("huggingface.co"), std::string_view("hf.co"),
                                     std::string_view("www.huggingface.co"), after_scheme(endpoint)}) {
    if (hub.empty() || !rest.starts_with(hub)) continue;
    const std::string_view inside = rest.substr(hub.size());
    if (inside.empty() || inside.starts_with('/'))
      return {.hub = parse_page(text, parts_of(inside)), .url = {}};
  }
  return {.hub = std::nullopt,
          .url = (text.starts_with("https:") ? "https://" : "http://") + std::string(rest)};
}

std::string hub_id_of_address(const std::filesystem::path& path) {
  const std::string& text = path.native();
  if (!text.starts_with(kHub)) return {};
  const std::vector<std::string> parts = parts_of(after_scheme(text));
  return parts.size() < 2 ? std::string() : parts[0] + "/" + parts[1].substr(0, parts[1].find('@'));
}

std::string name_of_address(const std::filesystem::path& path) {
  if (!is_address(path)) return {};
  if (const std::string id = hub_id_of_address(path); !id.empty()) return id.substr(id.find('/') + 1);
  const std::vector<std::string> parts = parts_of(after_scheme(path.native()));
  return parts.empty() ? std::string() : parts.back();
}

}  // namespace nibblecast
