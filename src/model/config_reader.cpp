#include "model/config_reader.h"

#include <algorithm>
#include <utility>

namespace nibblecast {

std::string value_text(const Json& value) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

// nlohmann-json holds those of a file as unsigned, but those made in code as signed.
std::optional<uint64_t> whole_number(const Json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  if (!value.is_number_unsigned() && value.get<int64_t>() < 0) return std::nullopt;
  return value.get<uint64_t>();
}

ConfigReader::ConfigReader(const Json& object, const std::string& file, std::string path)
    : object_(object), file_(file), path_(std::move(path)) {
  if (object.is_object()) return;
  throw Error(ErrorKind::kBadInput, {.file = file}, "is not a model's configuration",
              {.expected = "an object", .found = value_text(object)});
}

void ConfigReader::refuse(ErrorKind kind, const std::string& key, const std::string& problem,
                          const std::string& expected, const std::string& found,
                          const std::string& hint) const {
  throw Error(kind, {.file = file_}, "'" + path_ + key + "' " + problem,
              {.expected = expected, .found = found, .hint = hint});
}

void ConfigReader::refuse_value(const std::string& key, const std::string& expected,
                                const std::string& found) const {
  refuse(ErrorKind::kBadInput, key, "cannot be right", expected, found);
}

void ConfigReader::refuse_unsupported(const std::string& key, const std::string& supported,
                                      const std::string& found) const {
  refuse(ErrorKind::kUnsupported, key, "has a value that is not supported", supported, found);
}

void ConfigReader::refuse_missing(const std::string& key) const {
  refuse(ErrorKind::kBadInput, key, "is missing", "", "", "is this the config.json of the release?");
}

void ConfigReader::refuse_contradiction(const std::string& key, const std::string& found,
                                        const std::string& other_key, const std::string& other) const {
  refuse(ErrorKind::kBadInput, key, "contradicts '" + other_key + "'", other, found);
}

const Json* ConfigReader::find(const std::string& key) const {
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

bool ConfigReader::is_null(const std::string& key) const {
  const auto found = object_.find(key);
  return found != object_.end() && found->is_null();
}

std::optional<uint64_t> ConfigReader::maybe_integer(const std::string& key, uint64_t least,
                                                    uint64_t most) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto number = whole_number(*value);
  if (!number || *number < least || *number > most) {
    refuse_value(key, "an integer from " + std::to_string(least) + " to " + std::to_string(most),
                 value_text(*value));
  }
  return number;
}

uint64_t ConfigReader::integer(const std::string& key, uint64_t least, uint64_t most) const {
  return integer_of({key}, least, most);
}

std::optional<uint64_t> ConfigReader::maybe_integer_of(const std::vector<std::string>& keys, uint64_t least,
                                                       uint64_t most) const {
  std::optional<uint64_t> known;
  std::string from;
  for (const std::string& key : keys) {
    const auto value = key.empty() ? std::nullopt : maybe_integer(key, least, most);
    if (!value) continue;
    if (known && *known != *value)
      refuse_contradiction(from, std::to_string(*known), key, std::to_string(*value));
    known = value;
    from = key;
  }
  return known;
}

uint64_t ConfigReader::integer_of(const std::vector<std::string>& keys, uint64_t least, uint64_t most) const {
  const auto value = maybe_integer_of(keys, least, most);
  if (!value) refuse_missing(keys.front());
  return *value;
}

std::optional<double> ConfigReader::maybe_positive(const std::string& key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number() || !(value->get<double>() > 0) || !(value->get<double>() <= 1e30)) {
    refuse_value(key, "a number above 0", value_text(*value));
  }
  return value->get<double>();
}

double ConfigReader::positive(const std::string& key) const {
  const auto value = maybe_positive(key);
  if (!value) refuse_missing(key);
  return *value;
}

std::optional<bool> ConfigReader::maybe_flag(const std::string& key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) refuse_value(key, "true or false", value_text(*value));
  return value->get<bool>();
}

std::optional<std::string> ConfigReader::maybe_string(const std::string& key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) refuse_value(key, "a string", value_text(*value));
  return value->get<std::string>();
}

std::optional<ConfigReader> ConfigReader::maybe_section(const std::string& key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) refuse_value(key, "an object", value_text(*value));
  return ConfigReader(*value, file_, path_ + key + ".");
}

const Json* ConfigReader::maybe_array(const std::string& key, uint64_t least) const {
  const Json* value = find(key);
  if (value == nullptr) return nullptr;
  if (!value->is_array() || value->size() < least) {
    refuse_value(key, "an array of at least " + std::to_string(least) + " entries",
                 value->is_array() ? std::to_string(value->size()) + " entries" : value_text(*value));
  }
  return value;
}

int64_t ConfigReader::token_id(const std::string& key, uint64_t vocab_size) const {
  const Json* value = find(key);
  if (value == nullptr) return -1;
  const auto id = whole_number(value->is_array() && !value->empty() ? value->front() : *value);
  if (!id || *id >= vocab_size) {
    refuse_value(key, "a token id below vocab_size = " + std::to_string(vocab_size), value_text(*value));
  }
  return static_cast<int64_t>(*id);
}

void ConfigReader::only(const std::string& key, const Json& supported) const {
  const Json* value = find(key);
  if (value == nullptr || *value == supported) return;
  const bool every = value->is_array() && !value->empty() &&
                     std::ranges::all_of(*value, [&](const Json& each) { return each == supported; });
  if (!every) refuse_unsupported(key, value_text(supported), value_text(*value));
}

void ConfigReader::require_multiple(const std::string& key, uint64_t value, uint64_t of,
                                    const std::string& why) const {
  if (value % of == 0) return;
  refuse_value(key, "a multiple of " + why + std::to_string(of), std::to_string(value));
}

void ConfigReader::require_most(const std::string& key, uint64_t value, const std::string& name,
                                uint64_t most) const {
  if (value <= most) return;
  refuse_value(key, "at most " + name + std::to_string(most), std::to_string(value));
}

}  // namespace nibblecast
