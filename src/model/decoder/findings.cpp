#include "model/decoder/findings.h"

#include <algorithm>
#include <bit>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "model/forward_checks.h"

namespace nibblecast {
namespace {

// A place with one number: the tap's name, and whose input it is where no module reads the tap (of keys and
// values: whose output).
struct TapPlace {
  std::string_view tap;
  size_t finding;
  Role role;
};
constexpr TapPlace kPlaces[] = {
    {"attn.in", LayerFinding::kAttentionIn, Role::kQ},
    {"attn.q_rank", LayerFinding::kQueryRank, Role::kQB},
    {"attn.kv_rank", LayerFinding::kKvRank, Role::kKvB},
    {"attn.k", LayerFinding::kKeys, Role::kK},
    {"attn.v", LayerFinding::kValues, Role::kV},
    {"attn.out", LayerFinding::kAttentionOut, Role::kO},
    {"ffn.in", LayerFinding::kFfnIn, Role::kRouter},
    {"ffn.mid", LayerFinding::kMid, Role::kDown},
    {"shared.mid", LayerFinding::kSharedMid, Role::kDown},
};

constexpr std::pair<Role, Role> kOthers[] = {
    {Role::kRouter, Role::kUp}, {Role::kQ, Role::kQA}, {Role::kK, Role::kKvB}, {Role::kV, Role::kKvB}};

class FindingsReader {
 public:
  FindingsReader(const LayerTable& table, std::span<const uint32_t> bits) : table_(table), bits_(bits) {}

  void check_attention() const {
    for (const TapPlace& place : kPlaces) {
      if (place.finding <= LayerFinding::kAttentionOut) check(place);
    }
    check_streams(name_of(Role::kO), value(LayerFinding::kAttentionStream));
    for (const TapPlace& place : kPlaces) {
      if (place.finding > LayerFinding::kAttentionOut) check(place);
    }
  }
  void check_experts() const {
    for (size_t expert = 0; expert < table_.experts; ++expert) {
      const auto module = [&](Role role) { return name_of(role, static_cast<int32_t>(expert)); };
      check_input(module(Role::kUp), value(LayerFinding::expert_in(expert)));
      check_input(module(Role::kDown), value(LayerFinding::expert_mid(expert)));
      check_input(module(Role::kDown), value(LayerFinding::expert_mid_weighted(expert)));
    }
  }
  void check_end() const {
    const Role last = table_.experts == 0 ? Role::kDown : Role::kRouter;
    check_streams(name_of(last), value(LayerFinding::kFfnStream));
  }
  void check_router() const {
    if (bits_[LayerFinding::kNanScore] != 0) refuse_nan_score(name_of(Role::kRouter));
  }

  std::vector<float> read(const Tap& tap) const {
    const auto of_experts = [&](size_t (*at)(size_t)) {
      std::vector<float> values;
      for (size_t expert = 0; expert < table_.experts; ++expert) values.push_back(value(at(expert)));
      return values;
    };
    if (tap.name == "experts.in") return of_experts(LayerFinding::expert_in);
    if (tap.name == "experts.mid") return of_experts(LayerFinding::expert_mid);
    const TapPlace* place = std::ranges::find(kPlaces, std::string_view(tap.name), &TapPlace::tap);
    if (place == std::end(kPlaces))
      throw Error(ErrorKind::kInternal, {}, "no such tap is measured", {.found = tap.name});
    return {value(place->finding)};
  }
  std::vector<float> read_weighted() const {
    std::vector<float> values;
    for (size_t expert = 0; expert < table_.experts; ++expert)
      values.push_back(value(LayerFinding::expert_mid_weighted(expert)));
    return values;
  }

 private:
  float value(size_t finding) const { return std::bit_cast<float>(bits_[finding]); }
  void check(const TapPlace& place) const { check_input(name_of(place), value(place.finding)); }
  std::string name_of(const TapPlace& place) const {
    for (const WeightModule& module : table_.modules) {
      const Tap* const tap = table_.tap_of(module);
      if (tap != nullptr && tap->name == place.tap) return module.name;
    }
    return name_of(place.role);
  }
  // The first module with the role, shared or not; layers without it have another in its place.
  std::string name_of(Role role, int32_t expert = -1) const {
    for (const WeightModule& module : table_.modules)
      if (module.id.role == role && module.id.expert == expert) return module.name;
    for (const auto& [absent, other] : kOthers)
      if (role == absent) return name_of(other);
    return {};
  }

  const LayerTable& table_;
  std::span<const uint32_t> bits_;
};

}  // namespace

LayerAmax read_findings(const LayerTable& table, uint64_t layer, std::span<const uint32_t> bits,
                        std::vector<int64_t> tokens) {
  const FindingsReader reader(table, bits);
  reader.check_attention();
  reader.check_experts();
  reader.check_end();
  LayerAmax amax{.layer = layer, .tokens = std::move(tokens)};
  for (const Tap& tap : table.taps) {
    amax.taps[tap.name] = reader.read(tap);
    if (tap.weighted) amax.taps[weighted_tap(tap.name)] = reader.read_weighted();
  }
  return amax;
}

std::map<std::string, std::vector<float>> read_moments(const LayerTable& table, uint64_t layer,
                                                       const MomentFindings& found) {
  std::map<std::string, std::vector<float>> moments;
  const auto means = [&](size_t finding) {
    const auto place = found.find(finding);
    return place == found.end() ? std::vector<float>() : place->second.means();
  };
  for (size_t tap = 0; tap < table.taps.size(); ++tap) {
    const std::string& name = table.taps[tap].name;
    const uint64_t channels = table.channels_of(tap);
    if (channels == 0) continue;  // keys and values are no linear's input
    if (table.taps[tap].experts == 0) {
      const TapPlace* place = std::ranges::find(kPlaces, std::string_view(name), &TapPlace::tap);
      if (place != std::end(kPlaces)) moments[name] = means(place->finding);
    } else {
      const auto at = name == "experts.in" ? LayerFinding::expert_in : LayerFinding::expert_mid;
      std::vector<float>& all = moments[name];
      for (size_t expert = 0; expert < table.experts; ++expert) {
        std::vector<float> own = means(at(expert));
        own.resize(channels);  // without tokens: 0
        all.insert(all.end(), own.begin(), own.end());
      }
    }
    check_moments(layer, name, moments[name]);
  }
  return moments;
}

std::map<std::string, BlockAmaxes> read_blocks(const LayerTable& table, const BlockFindings& found) {
  std::map<std::string, BlockAmaxes> blocks;
  const auto add = [&](const std::string& tap, size_t finding) {
    if (const auto place = found.find(finding); place != found.end()) blocks[tap] = place->second;
  };
  for (const Tap& tap : table.taps) {
    const TapPlace* place = std::ranges::find(kPlaces, std::string_view(tap.name), &TapPlace::tap);
    if (place != std::end(kPlaces)) add(tap.name, place->finding);
    if (tap.experts == 0) continue;
    add(tap.name, tap.name == "experts.in" ? LayerFinding::expert_in(0) : LayerFinding::expert_mid(0));
  }
  return blocks;
}

void check_routing(const LayerTable& table, std::span<const uint32_t> bits) {
  const FindingsReader reader(table, bits);
  reader.check_attention();
  reader.check_router();
}

}  // namespace nibblecast
