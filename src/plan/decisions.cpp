#include "plan/decisions.h"

#include <fmt/format.h>

#include <optional>
#include <string_view>

#include "base/error.h"
#include "base/hash.h"
#include "formats/fp8_to_mxfp4.h"

namespace nibblecast {
namespace {

class Decider {
 public:
  Decider(const Checkpoint& source, const Model& model, const QuantizeOptions& options, Recipe recipe)
      : source_(source),
        table_(model.table),
        dialect_(dialect_of(options.format)),
        tiles_(tile_size(source.config(), (source.folder() / "config.json").string())) {
    made_.recipe = std::move(recipe);
    made_.modules = resolve_modules(made_.recipe, table_, tiles_);
    made_.inventory = take_inventory(source, model, tiles_);
    made_.replacements = keep_all(source);
    fp8_scales_ = fp8_scale_dtype();
  }

  Decisions decide() {
    decide_linears();
    widen_drafts();
    if (made_.recipe.kv_cache == KvCache::kFp8) add_cache_scales();
    return std::move(made_);
  }

 private:
  void decide_linears() {
    Hash decisions;
    for (const ResolvedModule& resolved : made_.modules) {
      Decision decision{.linear = {.module = resolved.module->name,
                                   .source = made_.inventory.linears.at(resolved.module),
                                   .stack = resolved.module->stack}};
      const LinearFormat& format = decision.linear.source.format;
      const LinearMake make = make_of(resolved, decision.linear.source);
      decision.make = make.make;
      decision.try_cast = tries_cast(resolved, format);
      decisions.add_part(fmt::format("{} {} {} {}{}", decision.linear.module, static_cast<int>(make.make),
                                     static_cast<int>(resolved.recipe.method), make.quantize_input,
                                     decision.try_cast ? " try" : ""));
      replace_linear(decision.linear, make, dialect_.names, made_.replacements);
      made_.widened += resolved.recipe.format == WeightFormat::kKeep && !stays(format);
      made_.linears.push_back(std::move(decision));
    }
    made_.hash = decisions.hex();
  }

  LinearMake make_of(const ResolvedModule& resolved, const LinearSource& source) const {
    LinearMake make = make_of(resolved, source.format);
    // A matrix of a stack stands for itself by itself: engines read experts one by one.
    const Tensor& weight = source_.tensors()[source.weight.tensor];
    if (resolved.module->stack != 0 && make.make == Make::kFp8Weight) refuse_stack(resolved);
    if (make.make == Make::kKeep && source.weight.size_bytes < weight.size_bytes) {
      make.make = Make::kWideWeight;
      make.dtype = weight.dtype;
    }
    return make;
  }
  [[noreturn]] static void refuse_stack(const ResolvedModule& resolved) {
    throw Error(ErrorKind::kUnsupported, {},
                fmt::format("{}: {}: experts in one tensor become NVFP4 or stay as they are",
                            resolved.recipe.rule, resolved.module->name),
                {.hint = "give them format nvfp4 or keep"});
  }
  LinearMake make_of(const ResolvedModule& resolved, const LinearFormat& format) const {
    LinearMake make{
        .quantize_input = resolved.recipe.quantize_input, .tile_rows = tiles_.rows, .tile_cols = tiles_.cols};
    switch (resolved.recipe.format) {
      case WeightFormat::kKeep:
        if (!stays(format)) make.make = Make::kWideWeight;
        break;
      case WeightFormat::kNvfp4:
        make.make = resolved.recipe.method == RecipeMethod::kCast && format.stored == StoredFormat::kMxfp4
                        ? Make::kCastWeight
                        : Make::kNvfp4Weight;
        break;
      case WeightFormat::kFp8:
        make.make = Make::kFp8Weight;
        break;
      case WeightFormat::kFp8Block:
        if (format.stored != StoredFormat::kFp8) make.make = Make::kFp8BlockWeight;
        make.dtype = fp8_scales_;
        break;
      case WeightFormat::kBf16:
        if (format.stored != StoredFormat::kBf16) make.make = Make::kWideWeight;
        break;
      case WeightFormat::kF32:
        if (format.stored != StoredFormat::kF32) make.make = Make::kWideWeight;
        make.dtype = Dtype::kF32;
        break;
    }
    return make;
  }

  static bool tries_cast(const ResolvedModule& resolved, const LinearFormat& format) {
    return resolved.recipe.format == WeightFormat::kNvfp4 && resolved.recipe.method == RecipeMethod::kCast &&
           resolved.module->is_routed_expert() && format.stored == StoredFormat::kFp8 &&
           has_blocks_of_32(format.cols, format.tile_cols);
  }

  // Where the dialect has no word for what the source has quantized otherwise: as BF16 it is what documents
  // say of it, a module that is not quantized.
  bool stays(const LinearFormat& format) const { return dialect_.keeps_quantized || is_plain(format.stored); }

  // The same of draft layers, which no recipe speaks of.
  void widen_drafts() {
    for (const Tensor& tensor : source_.tensors()) {
      const std::string module(module_of_weight(tensor.name));
      if (!table_.passes_through(tensor.name) || module.empty()) continue;
      if (plain_format(tensor.dtype)) continue;
      const std::optional<LinearParts> parts = find_linear(source_, module, tiles_);
      if (!parts || stays(parts->format)) continue;
      made_.drafts.push_back({.module = module, .source = source_of(source_, *parts)});
      replace_linear(made_.drafts.back(), {.make = Make::kWideWeight}, dialect_.names, made_.replacements);
      ++made_.widened;
    }
  }

  // Of the source's own FP8 weights, so that one config speaks for all.
  Dtype fp8_scale_dtype() const {
    for (const ResolvedModule& resolved : made_.modules) {
      const LinearSource& linear = made_.inventory.linears.at(resolved.module);
      if (linear.format.stored == StoredFormat::kFp8 && !resolved.module->is_routed_expert())
        return source_.tensors()[linear.scale.tensor].dtype;
    }
    return Dtype::kF8E8M0;
  }

  // FP8 keys and values with measured scales, as ModelOpt has them: one of each a layer.
  void add_cache_scales() {
    if (dialect_.format != OutputFormat::kModelOpt) return;  // refused where the documents are made
    refuse_latent_cache();
    for (size_t module = 0; module < made_.modules.size(); ++module) {
      const Role role = made_.modules[module].module->id.role;
      if (role != Role::kK && role != Role::kV) continue;
      const std::string name =
          made_.linears[module].linear.module + (role == Role::kK ? ".k_scale" : ".v_scale");
      made_.replacements.scalars[made_.linears[module].linear.source.weight.tensor].push_back(
          {Make::kCacheScale, name, Dtype::kF32, {}});
      made_.cache_scales.emplace_back(made_.modules[module].module, name);
    }
  }

  void refuse_latent_cache() const {
    for (const ResolvedModule& each : made_.modules) {
      if (each.module->id.role != Role::kKvB) continue;
      throw Error(ErrorKind::kUnsupported,
                  {.file = made_.recipe.origin, .tensor = each.module->name + ".weight"},
                  "kv_cache fp8: latent attention caches a latent, whose scale is not measured",
                  {.hint = "use --kv-cache fp8_cast, or none"});
    }
  }

  const Checkpoint& source_;
  const ModelTable& table_;
  const Dialect& dialect_;
  const TileSize tiles_;
  Dtype fp8_scales_ = Dtype::kF8E8M0;  // of weights that become FP8 blocks
  Decisions made_;
};

}  // namespace

Decisions decide(const Checkpoint& source, const Model& model, const QuantizeOptions& options,
                 Recipe recipe) {
  return Decider(source, model, options, std::move(recipe)).decide();
}

}  // namespace nibblecast
