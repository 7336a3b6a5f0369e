#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/run_record.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/tensor_role.h"
#include "pipeline/job.h"
#include "pipeline/published.h"
#include "pipeline/report.h"
#include "pipeline/report_page.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

constexpr const char* kAmaxName = "calibration/amax.safetensors";
constexpr std::string_view kPageMark = "<meta name=\"generator\" content=\"nibblecast report\">";
constexpr size_t kMarkBytes = 4096;             // where the mark stands
constexpr uint64_t kReportLimit = 256'000'000;  // of a report.json that is read
constexpr uint64_t kMostScaleBytes = 1 << 16;   // of an input_scale: one value, or one for each of a stack

Json read_record(FileSystem& files, const Path& output) {
  if (files.status(output / kRecordName) && files.status(output / "config.json")) {
    Json record = read_run_record(files, output);
    if (record.is_object()) return record;
    throw Error(ErrorKind::kBadInput, {.file = (output / kRecordName).string()},
                "does not hold a JSON object");
  }
  throw Error(ErrorKind::kBadInput, {.file = output.string()},
              "is no finished output of nibblecast: it has no nibblecast.json beside a config.json",
              {.hint = "`nibblecast status` says how far an unfinished one is"});
}

std::vector<Tensor> source_tensors(const Json& record) {
  std::vector<Tensor> tensors;
  for (const Json& shard : at_or_null(at_or_null(record, "source"), "shards")) {
    SafetensorsHeader header = parse_safetensors_header(
        shard.at("header").get<std::string>(), shard.at("size_bytes").get<uint64_t>(),
        std::string(kRecordSourceName) + ": " + shard.at("name").get<std::string>());
    std::ranges::move(header.tensors, std::back_inserter(tensors));
  }
  return tensors;
}

// Of F32 values: the largest. Little-endian, as safetensors is.
float largest_value(std::span<const std::byte> bytes) {
  float largest = 0;
  for (size_t at = 0; at + 4 <= bytes.size(); at += 4) {
    float value = 0;
    std::memcpy(&value, bytes.data() + at, 4);
    largest = std::max(largest, value);
  }
  return largest;
}

// What engines reduce a layer's scales to when they load: the largest of all linears with that input.
void read_input_scales(const Checkpoint& output, ReportInput& input) {
  TensorReader reader(output);
  for (const Tensor& tensor : output.tensors()) {
    const auto layer = tensor_layer(tensor.name);
    const std::string tap(tensor_tap(tensor.name));
    if (!layer || tap.empty() || !tensor.name.ends_with(".input_scale")) continue;
    if (tensor.dtype != Dtype::kF32 || tensor.size_bytes > kMostScaleBytes) continue;
    float& scale = input.input_scales[{*layer, tap}];
    scale = std::max(scale, largest_value(reader.read(tensor)));
  }
}

// What `evaluate` has left there, or `quantize`.
Json known_evaluation(FileSystem& files, const Path& output, const Json& record) {
  const Path path = output / kReportName;
  Json evaluation;
  if (files.status(path))
    evaluation = at_or_null(parse_json(read_text(files, path, kReportLimit), path.string()), "evaluation");
  return evaluation.is_null() ? at_or_null(record, "evaluation") : evaluation;
}

// One of another source says nothing of this output. Older ones do not say whose they are.
void require_own_evaluation(const Json& evaluation, const Json& record, const Path& output) {
  const Json models = at_or_null(evaluation, "models");
  const Json found = models.is_array() && !models.empty() ? at_or_null(models[0], "identity") : Json();
  const Json own = at_or_null(at_or_null(record, "source"), "identity");
  if (found.is_null() || own.is_null() || found == own) return;
  throw Error(
      ErrorKind::kBadInput, {.file = output.string()}, "was made of another source than the evaluation is of",
      {.expected = own.dump(), .found = found.dump(), .hint = "give what `evaluate SRC DST --json` printed"});
}

bool is_page(FileSystem& files, const Path& path) {
  const auto file = files.open(path, Access::kRead);
  std::string text(std::min<uint64_t>(file->size(), kMarkBytes), '\0');
  file->read(0, std::as_writable_bytes(std::span(text)));
  return text.find(kPageMark) != std::string::npos;
}

bool is_report(FileSystem& files, const Path& path) {
  try {
    const Json document = parse_json(read_text(files, path, kReportLimit), path.string());
    const Json format = at_or_null(document, "format");
    return format.is_string() && format.get_ref<const std::string&>().starts_with("nibblecast.report/");
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kBadInput) throw;
    return false;
  }
}

void require_own_file(FileSystem& files, const Path& path, bool (*is_own)(FileSystem&, const Path&)) {
  if (!files.status(path) || is_own(files, path)) return;
  throw Error(ErrorKind::kRefused, {.file = path.string()}, "is no report, and is not written over",
              {.hint = "name another place with -o, or remove the file"});
}

void require_own_folder(FileSystem& files, const Path& page) {
  const Path folder = page.has_parent_path() ? page.parent_path() : Path(".");
  if (!files.status(folder / "config.json")) return;
  if (files.status(folder / kRecordName)) {
    // Under another name an engine might load it: tokenizer.json, say.
    if (page.filename() == kReportPageName) return;
    throw Error(ErrorKind::kRefused, {.file = page.string()}, "a checkpoint's report has one name",
                {.expected = kReportPageName, .hint = "name it that, or another folder"});
  }
  throw Error(ErrorKind::kRefused, {.file = folder.string()},
              "is a checkpoint that nibblecast did not make; nothing is written into it",
              {.hint = "name another folder with -o"});
}

// In a script element of its own: no "</script>" and no "<!--" can stand in it.
std::string embedded(const Json& document) {
  const std::string text = document.dump(-1, ' ', true, Json::error_handler_t::replace);
  std::string safe;
  safe.reserve(text.size());
  for (const char letter : text) {
    if (letter == '<')
      safe += "\\u003c";
    else
      safe += letter;
  }
  return safe;
}

}  // namespace

ReportInput read_report_input(FileSystem& files, const Path& output, Json evaluation) {
  ReportInput input;
  input.destination = folder_name(output);
  input.record = read_record(files, output);
  try {
    input.source = source_tensors(input.record);
  } catch (const Json::exception& error) {
    throw Error(ErrorKind::kBadInput, {.file = (output / kRecordSourceName).string()},
                std::string("does not hold the source's shards: ") + error.what());
  }
  const Checkpoint checkpoint = Checkpoint::open(output, files);
  input.output.assign(checkpoint.tensors().begin(), checkpoint.tensors().end());
  read_input_scales(checkpoint, input);
  input.block_scales = read_block_scales(checkpoint);
  if (files.status(output / kAmaxName)) input.amax = read_amax(files, output / kAmaxName);
  if (!evaluation.is_null()) require_own_evaluation(evaluation, input.record, output);
  input.evaluation =
      evaluation.is_null() ? known_evaluation(files, output, input.record) : std::move(evaluation);
  return input;
}

ReportInput evaluated_report_input(const Checkpoint& source, const Checkpoint& candidate, Json evaluation,
                                   const std::string& command) {
  ReportInput input;
  input.destination = folder_name(candidate.folder());
  input.record = {{"command", kEvaluatedOnly},
                  {"command_line", command},
                  {"version", NIBBLECAST_VERSION},
                  {"finished", utc_now()},
                  {"seconds", evaluation.at("seconds")},
                  {"bytes", evaluation.at("bytes")},
                  {"source", {{"name", folder_name(source.folder())}}}};
  input.source.assign(source.tensors().begin(), source.tensors().end());
  input.output.assign(candidate.tensors().begin(), candidate.tensors().end());
  read_input_scales(candidate, input);
  input.block_scales = read_block_scales(candidate);
  input.evaluation = std::move(evaluation);
  return input;
}

std::string report_page(const Json& document) {
  const std::pair<std::string_view, std::string> parts[] = {{"@STYLE@", std::string(kReportStyle)},
                                                            {"@D3@", std::string(kReportD3)},
                                                            {"@DATA@", embedded(document)},
                                                            {"@SCRIPT@", std::string(kReportScript)}};
  std::string page;
  size_t done = 0;  // each part stands once in the template, in this order
  for (const auto& [mark, text] : parts) {
    const size_t at = kReportTemplate.find(mark, done);
    page += kReportTemplate.substr(done, at - done);
    page += text;
    done = at + mark.size();
  }
  return page += kReportTemplate.substr(done);
}

Path write_report(FileSystem& files, const Path& page, const Json& document) {
  Path figures = page;
  figures.replace_extension(".json");
  require_own_folder(files, page);
  require_own_file(files, page, is_page);
  require_own_file(files, figures, is_report);
  write_text_durably(files, figures, document.dump(1, ' ', true, Json::error_handler_t::replace) + "\n");
  write_text_durably(files, page, report_page(document));
  return figures;
}

}  // namespace nibblecast
