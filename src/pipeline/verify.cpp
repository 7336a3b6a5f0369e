#include "pipeline/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <set>
#include <unordered_set>

#include "checkpoint/printable.h"
#include "pipeline/problem_list.h"
#include "pipeline/verify_data.h"
#include "pipeline/verify_documents.h"
#include "pipeline/verify_folder.h"
#include "pipeline/verify_scales.h"
#include "plan/convert.h"
#include "plan/dequantize.h"
#include "plan/engines.h"
#include "plan/retarget.h"

namespace nibblecast {
namespace {

class Verifier {
 public:
  Verifier(const Checkpoint& source, const std::filesystem::path& folder, FileSystem& files,
           const VerifyOptions& options)
      : source_(source),
        files_(files),
        options_(options),
        output_(read_output_folder(folder, files, problems_)),
        recorded_(recorded_options(output_.run_document, problems_)),
        plan_(planned_as_recorded()) {}

  VerifyReport verify() {
    report_.tensors = plan_.file_tensors();
    if (is_source_copy()) {
      report_.problems = {"every tensor is as the source has it: is DST the source, or a copy of it?"};
      return std::move(report_);
    }
    if (plan_.command != "quantize") report_.notes.push_back("made by: " + plan_.made);
    match_tensors();
    check_documents(output_, plan_, problems_, report_.notes);
    check_side_files(output_, source_, files_, problems_, report_.notes);
    check_engines();
    const std::vector<float> scales =
        check_scales(source_, output_, matches_, plan_, recorded_, files_, problems_, report_.notes);
    check_data({.source = source_,
                .output = output_,
                .plan = plan_,
                .matches = matches_,
                .scales = scales,
                .negative_zero = recorded_.negative_zero,
                .files = files_,
                .options = options_},
               problems_, report_);
    // Its counts are of a whole output.
    if (std::ranges::find(matches_, nullptr) == matches_.end()) {
      check_run_document(output_, source_, report_, problems_);
    }
    report_.problems = problems_.lines();
    return std::move(report_);
  }

 private:
  // The command's own plan, made again.
  Plan planned_as_recorded() {
    if (recorded_.command == "dequantize") {
      if (const auto options = parse_dequantize(recorded_.made))
        return make_dequantize_plan(source_, *options);
      problems_.add("nibblecast.json", fmt::format("nibblecast.json: options.made is unknown; found '{}'",
                                                   printable(recorded_.made)));
      return make_dequantize_plan(source_, {});
    }
    if (recorded_.command == "convert") {
      const auto format = parse_retarget(recorded_.made);
      return format ? make_retarget_plan(source_, *format) : make_convert_plan(source_);
    }
    return make_plan(source_, recorded_.options);
  }

  // Tensors that the plan makes anew are all there under the source's names, dtypes and shapes.
  bool is_source_copy() const {
    const bool all_kept =
        std::ranges::all_of(plan_.tensors, [](const PlannedTensor& tensor) { return tensor.is_copy(); });
    return !all_kept && std::ranges::all_of(source_.tensors(), [&](const Tensor& tensor) {
      const Tensor* found = output_.find(tensor.name);
      return found != nullptr && found->dtype == tensor.dtype && found->shape == tensor.shape;
    });
  }

  void match_tensors() {
    std::unordered_set<std::string_view> planned;
    for (const PlannedTensor& tensor : plan_.tensors) {
      planned.insert(tensor.name_in_file());
      matches_.push_back(tensor.part ? match_part(tensor) : match(tensor.out));
    }
    for (const Tensor& tensor : output_.tensors) {
      if (planned.contains(tensor.name)) continue;
      problems_.add("tensors", fmt::format("{}: is in {}, but nothing in the source makes it",
                                           printable(tensor.name), output_.shards[tensor.shard]));
    }
  }

  // Its bytes in the tensor that it is a part of; what is wrong with that one is said once.
  const Tensor* match_part(const PlannedTensor& planned) {
    if (planned.begins_tensor()) {
      Tensor whole = planned.out;
      whole.name = planned.part->whole;
      whole.shape = planned.part->shape;
      stack_ = match(whole);
    }
    if (stack_ == nullptr) return nullptr;
    Tensor part = planned.out;
    part.shard = stack_->shard;
    part.offset = stack_->offset + planned.part->index * part.size_bytes;
    return &parts_.emplace_back(std::move(part));
  }

  const Tensor* match(const Tensor& planned) {
    const Tensor* found = output_.find(planned.name);
    if (found == nullptr) {
      const bool unreadable = output_.unreadable.contains(planned.name);
      problems_.add(unreadable ? "unreadable tensors" : "tensors",
                    fmt::format("{}: {}", planned.name,
                                unreadable ? "lies in a shard that cannot be read" : "is missing"));
      return nullptr;
    }
    // Loaders take a scalar in either shape.
    const auto is_scalar = [](const Shape& shape) { return shape.empty() || shape == Shape{1}; };
    const bool scalar = is_scalar(planned.shape) && is_scalar(found->shape);
    if (found->dtype == planned.dtype && (found->shape == planned.shape || scalar)) return found;
    problems_.add("tensors",
                  fmt::format("{}: must be {} {}; found {} {}", planned.name, dtype_name(planned.dtype),
                              shape_text(planned.shape), dtype_name(found->dtype), shape_text(found->shape)));
    return nullptr;
  }

  // Of what is there; an unreadable shard has been reported, and its tensors' absence is no breach.
  void check_engines() {
    if (!output_.all_shards_read || !plan_.has_dialect()) return;
    for (const Breach& breach : check_contracts(*plan_.model, plan_.options.format, output_.config,
                                                output_.hf_quant_config, output_.tensors)) {
      const std::string line = fmt::format("{}: {}", engine_name(breach.engine), breach.rule);
      const std::set<Engine> asked = options_.engines.value_or(
          plan_.command == "quantize" ? recorded_.options.engines : std::set<Engine>());
      if (asked.contains(breach.engine))
        problems_.add("engine contracts", line);
      else
        report_.notes.push_back(line);
    }
  }

  const Checkpoint& source_;
  FileSystem& files_;
  const VerifyOptions& options_;
  ProblemList problems_;
  OutputFolder output_;
  RecordedOptions recorded_;
  Plan plan_;
  Matches matches_;
  const Tensor* stack_ = nullptr;  // the output's, whose parts are being matched
  std::deque<Tensor> parts_;
  VerifyReport report_;
};

}  // namespace

VerifyReport verify(const Checkpoint& source, const std::filesystem::path& output_folder, FileSystem& files,
                    const VerifyOptions& options) {
  return Verifier(source, output_folder, files, options).verify();
}

}  // namespace nibblecast
