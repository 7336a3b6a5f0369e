#include "model/family.h"

#include <algorithm>

#include "base/error.h"
#include "checkpoint/printable.h"
#include "model/decoder_family.h"
#include "model/families/deepseek_v4/family.h"
#include "model/weights_only_family.h"

namespace nibblecast {
namespace {

std::string known_types() {
  std::string names;
  for (const Family* family : families()) {
    for (const std::string_view type : family->model_types)
      names += (names.empty() ? "" : ", ") + std::string(type);
  }
  return names;
}

}  // namespace

std::span<const Family* const> families() {
  static const Family* const kFamilies[] = {&kDeepseekV4Family, &kDecoderFamily, &kWeightsOnlyFamily};
  return kFamilies;
}

const Family& family_of(const Json& config, const std::string& file) {
  const Json type = at_or_null(config, "model_type");
  for (const Family* family : families()) {
    if (type.is_string() && std::ranges::find(family->model_types, type.get_ref<const std::string&>()) !=
                                family->model_types.end())
      return *family;
  }
  throw Error(ErrorKind::kUnsupported, {.file = file}, "the model is of a family that is not known",
              {.expected = "'model_type' one of " + known_types(),
               .found = type.is_null() ? "no 'model_type'"
                                       : printable(type.dump(-1, ' ', true, Json::error_handler_t::replace)),
               .hint = {}});
}

Model read_model(const Json& config, const std::string& file) {
  return family_of(config, file).read(config, file);
}

const Family& family_named(std::string_view name) {
  for (const Family* family : families()) {
    if (family->name == name || std::ranges::find(family->model_types, name) != family->model_types.end())
      return *family;
  }
  throw Error(ErrorKind::kInternal, {}, "no family has this name", {.found = std::string(name)});
}

std::vector<std::string_view> preset_names() {
  std::vector<std::string_view> names;
  for (const Family* family : families())
    for (const Preset& preset : family->presets) names.push_back(preset.name);
  return names;
}

Json preset_config(std::string_view name) {
  std::string known;
  for (const Family* family : families()) {
    for (const Preset& preset : family->presets) {
      if (preset.name == name) return preset.config();
      known += (known.empty() ? "" : ", ") + std::string(preset.name);
    }
  }
  throw Error(ErrorKind::kUsage, {}, "no preset has this name",
              {.expected = known, .found = "'" + std::string(name) + "'"});
}

}  // namespace nibblecast
