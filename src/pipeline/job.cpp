#include "pipeline/job.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <chrono>
#include <cmath>
#include <ctime>
#include <functional>
#include <iterator>
#include <thread>

#include "base/build_info.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/shell.h"
#include "plan/plan.h"
#include "remote/address.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

constexpr const char* kJobFormat = "nibblecast.job/2";
constexpr uint64_t kJobFileLimit = 64 << 20;
constexpr int kLockAttempts = 3;
constexpr auto kLockPause = std::chrono::milliseconds(50);

// Not every path is text, but JSON is.
std::string text_of(const Json& value, int indent = -1) {
  return value.dump(indent, ' ', true, Json::error_handler_t::replace);
}

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "unknown host";
}

Json floats(const std::vector<float>& values) {
  // As bits: a journal must give back exactly what was measured.
  Json array = Json::array();
  for (const float value : values) array.push_back(std::bit_cast<uint32_t>(value));
  return array;
}

std::vector<float> to_floats(const Json& array) {
  std::vector<float> values;
  for (const Json& bits : array) values.push_back(std::bit_cast<float>(bits.get<uint32_t>()));
  return values;
}

// Of many: eight digits each, the first the highest.
std::string hex_floats(const std::vector<float>& values) {
  std::string text;
  text.reserve(8 * values.size());
  for (const float value : values)
    fmt::format_to(std::back_inserter(text), "{:08x}", std::bit_cast<uint32_t>(value));
  return text;
}

std::vector<float> of_hex_floats(const std::string& text) {
  std::vector<float> values;
  values.reserve(text.size() / 8);
  for (size_t at = 0; at + 8 <= text.size(); at += 8) {
    uint32_t bits = 0;
    std::from_chars(text.data() + at, text.data() + at + 8, bits, 16);
    values.push_back(std::bit_cast<float>(bits));
  }
  return values;
}

LayerAmax to_layer(const Json& entry) {
  LayerAmax layer;
  layer.layer = entry.at("layer");
  for (const auto& [tap, bits] : entry.at("taps").items()) layer.taps[tap] = to_floats(bits);
  layer.tokens = entry.at("tokens").get<std::vector<int64_t>>();
  if (entry.contains("second_moments")) {
    for (const auto& [tap, bits] : entry.at("second_moments").items())
      layer.second_moments[tap] = of_hex_floats(bits.get<std::string>());
  }
  return layer;
}

Json counts_json(const MadeCounts& counts) {
  Json json = Json::object();
  const CastCounts& blocks = counts.blocks;
  if (blocks.blocks > 0) json["blocks"] = {blocks.blocks, blocks.zero_blocks, blocks.outside_window};
  if (counts.loss.squares > 0) {
    json["loss"] = {std::bit_cast<uint64_t>(counts.loss.squared_error),
                    std::bit_cast<uint64_t>(counts.loss.squares)};
  }
  if (counts.inexact > 0) json["inexact"] = counts.inexact;
  if (counts.nonfinite.count > 0) json["nonfinite"] = {counts.nonfinite.count, counts.nonfinite.first};
  return json;
}

MadeCounts to_counts(const Json& json) {
  MadeCounts counts;
  if (json.contains("blocks")) {
    const Json& blocks = json.at("blocks");
    counts.blocks = {.blocks = blocks.at(0), .zero_blocks = blocks.at(1), .outside_window = blocks.at(2)};
  }
  if (json.contains("loss")) {
    counts.loss = {std::bit_cast<double>(json.at("loss").at(0).get<uint64_t>()),
                   std::bit_cast<double>(json.at("loss").at(1).get<uint64_t>())};
  }
  counts.inexact = json.value("inexact", uint64_t{0});
  if (json.contains("nonfinite")) {
    counts.nonfinite = {.count = json.at("nonfinite").at(0), .first = json.at("nonfinite").at(1)};
  }
  return counts;
}

void forget(uint32_t tensor, JobState& state) {
  const auto known = state.tensors.find(tensor);
  if (known == state.tensors.end()) return;
  state.durable_bytes -= known->second.size_bytes;
  state.tensors.erase(known);
}

void replay_done(const Json& done, JobState& state) {
  uint64_t bytes = 0;
  for (const Json& item : done.at("tensors")) {
    DurableTensor tensor{.checksum = item.at(1), .counts = {}, .size_bytes = item.at(2)};
    if (item.size() > 3) tensor.counts = to_counts(item.at(3));
    const uint32_t index = item.at(0);
    state.tensors_made_twice += state.tensors.contains(index);
    forget(index, state);
    bytes += tensor.size_bytes;
    state.tensors.emplace(index, std::move(tensor));
  }
  state.durable_bytes += bytes;
  for (const Json& item : done.at("scalars")) {
    state.scalars[item.at(0)] = std::bit_cast<float>(item.at(1).get<uint32_t>());
  }
  if (state.attempts.empty()) return;
  state.attempts.back().last = done.at("stage");
  state.attempts.back().bytes += bytes;
}

void replay_layer(const Json& entry, JobState& state) {
  LayerAmax layer = to_layer(entry);
  ++state.layer_passes[layer.layer];
  if (!state.attempts.empty()) {
    state.attempts.back().last = fmt::format("layer {}", layer.layer);
    ++state.attempts.back().layers;
  }
  state.layers.insert_or_assign(layer.layer, std::move(layer));
}

void replay_attempt(const Json& entry, JobState& state) {
  state.attempts.push_back({.began = entry.at("began"),
                            .host = entry.at("host"),
                            .version = entry.at("version"),
                            .pid = entry.at("pid"),
                            .ended = {},
                            .end = {},
                            .last = {},
                            .bytes = 0,
                            .layers = 0});
}

void replay(const Json& entry, JobState& state) {
  const auto& members = entry.get_ref<const Json::object_t&>();
  if (members.empty()) return;
  const auto& [kind, value] = *members.begin();
  if (kind == "attempt") {
    replay_attempt(value, state);
  } else if (kind == "end" && !state.attempts.empty()) {
    state.attempts.back().ended = value.at("ended");
    state.attempts.back().end = value.at("text");
  } else if (kind == "done") {
    replay_done(value, state);
  } else if (kind == "layer") {
    replay_layer(value, state);
  } else if (kind == "perplexity") {
    state.perplexity = Perplexity{.nll_sum = std::bit_cast<double>(value.at("nll_sum").get<uint64_t>()),
                                  .tokens = value.at("tokens")};
  } else if (kind == "streams") {
    state.streams = SavedStreams{.layer = value.at("layer"),
                                 .file = value.at("file"),
                                 .size_bytes = value.at("bytes"),
                                 .checksum = value.at("checksum")};
  } else if (kind == "shards") {
    for (const Json& item : value)
      state.stamps[item.at(0)] = FileStamp{.id = item.at(1), .changed_ns = item.at(2)};
  } else if (kind == "lost") {
    for (const Json& tensor : value) forget(tensor, state);
  }
}

// `read` takes what it needs out of a document of ours; a document that lacks it is somebody else's.
template <class Read>
auto decoded(const Path& path, const Read& read) {
  try {
    return read();
  } catch (const Json::exception&) {
    throw Error(ErrorKind::kBadInput, {.file = path.string()}, "is not what this version writes",
                {.hint = "finish the job with the version that began it, or name another destination"});
  }
}

// Of all of job.json but the checksum in it.
std::string document_checksum(Json document) {
  document.erase("checksum");
  return hash_of(text_of(document));
}

Json read_document(FileSystem& files, const Path& path) {
  const std::string text = read_text(files, path, kJobFileLimit);
  Json document;
  try {
    document = parse_json(text, path.string());
  } catch (const Error&) {  // damaged
  }
  if (document.is_object() && document.value("format", Json(kJobFormat)) != Json(kJobFormat)) {
    throw Error(ErrorKind::kBadInput, {.file = path.string()}, "is not what this version writes",
                {.expected = kJobFormat,
                 .found = text_of(document["format"]),
                 .hint = "finish the job with the version that began it, or name another destination"});
  }
  if (!document.is_object() || document.value("checksum", Json()) != Json(document_checksum(document))) {
    throw Error(ErrorKind::kBadInput, {.file = path.string()}, "is damaged",
                {.hint = "without it the job cannot go on: remove " + path.parent_path().string() +
                         " and what lies beside it to begin again, or restore it"});
  }
  return document;
}

// The journal's first line: a work folder outside the job's may hold the journal of another one.
Json first_entry(const JobDescription& description, const Path& folder, const Path& work_folder) {
  Json job = {{"identity", identity_hash(description.identity)}};
  if (work_folder != folder) {
    // As it reads in the journal.
    job["folder"] = Json::parse(text_of(std::filesystem::absolute(folder).lexically_normal().string()));
  }
  return {{"job", std::move(job)}};
}

Json attempt_entry() {
  return {{"attempt",
           {{"began", utc_now()}, {"host", host_name()}, {"pid", ::getpid()}, {"version", build_version()}}}};
}

std::string read_holder(FileSystem& files, const Path& lock) {
  std::string holder = read_text(files, lock, 4096);
  while (!holder.empty() && holder.back() == '\n') holder.pop_back();
  return holder;
}

std::string holder_text() {
  return fmt::format("process {} on {}, since {}\n", ::getpid(), host_name(), utc_now());
}

std::string short_text(const Json& value) {
  return value.is_null() ? "nothing" : value.is_string() ? value.get<std::string>() : text_of(value);
}

// A part of the identity, and the options that decide it.
struct IdentityPart {
  const char* name;
  std::vector<const char*> options;
};
const std::vector<IdentityPart>& identity_parts() {
  static const std::vector<IdentityPart> parts = {
      {"recipe", {"command", "--recipe", "--weight-method", "--dtype", "--names"}},
      {"output format", {"--format"}},
      {"kv cache", {"--kv-cache"}},
      {"compute dtype", {"--compute-dtype"}},
      {"input scale", {"--input-scale"}},
      {"w2 input", {"--w2-input"}},
      {"second moments", {"--second-moments"}},
      {"negative zero", {"--negative-zero"}},
      {"calibration rows or amax file",
       {"--calib", "--calib-size", "--calib-seq", "--calib-rows", "--calib-key", "--bos", "--amax"}},
      {"products", {"--device", "--cpu-isa"}},
  };
  return parts;
}

// Of the part `name` of the identity: the options that were others, or else its values.
void add_differences(const std::string& name, const Json& before, const Json& now, const Json& options_before,
                     const Json& options_now, std::vector<std::string>& differences) {
  const auto& parts = identity_parts();
  const auto part = std::ranges::find(parts, name, &IdentityPart::name);
  const size_t known = differences.size();
  for (const char* option : part == parts.end() ? std::vector<const char*>() : part->options) {
    const Json was = options_before.value(option, Json("not given")),
               is = options_now.value(option, Json("not given"));
    if (was != is)
      differences.push_back(fmt::format("{} was {}, is {}", option, short_text(was), short_text(is)));
  }
  if (differences.size() > known) return;
  if (name == "source") {
    differences.emplace_back("the source's headers or config.json were others");
    return;
  }
  const bool one = part != parts.end() && part->options.size() == 1;
  differences.push_back(
      fmt::format("{} was {}, is {}", one ? part->options[0] : name, short_text(before), short_text(now)));
}

// The command that gives a file its time back.
std::string touch_text(const std::string& path, int64_t mtime_ns) {
  constexpr int64_t kSecond = 1'000'000'000;
  const int64_t seconds = mtime_ns / kSecond - (mtime_ns % kSecond < 0);
  return fmt::format("touch -d @{}.{:09} {}", seconds, mtime_ns - seconds * kSecond, shell_word(path));
}

// All files whose time alone differs are named in one command.
void require_same_source(const Json& before, const Json& now) {
  std::vector<std::string> touches;
  std::string first;
  for (size_t shard = 0; shard < now.at("shards").size() && shard < before.at("shards").size(); ++shard) {
    const Json &was = before.at("shards")[shard], &is = now.at("shards")[shard];
    if (was == is) continue;
    const std::string path = now.at("path").get<std::string>() + "/" + is.at("name").get<std::string>();
    for (const char* field : {"name", "size_bytes", "header", "version"}) {
      const Json before_it = was.value(field, Json()), now_it = is.value(field, Json());
      if (before_it == now_it) continue;
      throw Error(
          ErrorKind::kRefused, {.file = path}, "was changed since this job began",
          {.expected = fmt::format("{} {}", field, short_text(before_it)),
           .found = short_text(now_it),
           .hint = "what was made of it is not to be trusted: restore the file with its time, or begin "
                   "again in another folder"});
    }
    if (first.empty()) first = path;
    touches.push_back(touch_text(path, was.at("mtime_ns")));
  }
  if (touches.empty()) return;
  throw Error(
      ErrorKind::kRefused, {.file = first},
      "was changed since this job began, or only touched: its time is another, size and header are not",
      {.hint = fmt::format(
           "if the content is the same, give {} back: {}",
           touches.size() == 1 ? "the file its time" : fmt::format("{} files their times", touches.size()),
           fmt::join(touches, " && "))});
}

struct Replayed {
  JobState state;
  JournalEnd end;
  bool other_job = false;  // the first line that holds is not `first`
};

Replayed replay_journal(FileSystem& files, const Path& path, const Json& first) {
  Replayed replayed;
  bool begun = false;
  replayed.end = decoded(path, [&] {
    return read_journal(files, path, [&](const Json& entry) {
      if (!begun) replayed.other_job = entry != first;
      begun = true;
      if (!replayed.other_job && entry.is_object() && entry.size() == 1) replay(entry, replayed.state);
    });
  });
  return replayed;
}

}  // namespace

std::unique_ptr<FileLock> lock_work_folder(FileSystem& files, const Path& folder) {
  const Path path = folder / "lock";
  // `status` holds it for a moment.
  for (int attempt = 0; attempt < kLockAttempts; ++attempt) {
    if (attempt > 0) std::this_thread::sleep_for(kLockPause);
    if (auto lock = files.try_lock(path, holder_text())) return lock;
  }
  const std::string holder = read_holder(files, path);
  throw Error(ErrorKind::kRefused, {.file = folder.string()},
              "another process is at work here: " + (holder.empty() ? "unknown" : holder),
              {.hint = "wait for it, or stop it first"});
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts = {};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::optional<int64_t> utc_seconds(const std::string& text) {
  std::tm parts = {};
  const char* end = ::strptime(text.c_str(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  if (end == nullptr || *end != 0) return std::nullopt;
  return ::timegm(&parts);
}

Json Attempt::json() const {
  return {{"began", began}, {"host", host}, {"version", version}, {"pid", pid},
          {"ended", ended}, {"end", end},   {"last", last}};
}

Json done_entry(const DoneUnit& unit) {
  Json tensors = Json::array(), scalars = Json::array();
  for (const DoneTensor& done : unit.tensors) {
    Json item = {done.tensor, done.is.checksum, done.is.size_bytes};
    const Json counts = counts_json(done.is.counts);
    if (!counts.empty()) item.push_back(counts);
    tensors.push_back(std::move(item));
  }
  for (const auto& [tensor, value] : unit.scalars) {
    scalars.push_back({tensor, std::bit_cast<uint32_t>(value)});
  }
  return {
      {"done", {{"stage", unit.stage}, {"tensors", std::move(tensors)}, {"scalars", std::move(scalars)}}}};
}

Json layer_entry(const LayerAmax& layer) {
  Json taps = Json::object();
  for (const auto& [tap, values] : layer.taps) taps[tap] = floats(values);
  Json entry = {{"layer", layer.layer}, {"taps", std::move(taps)}, {"tokens", layer.tokens}};
  for (const auto& [tap, values] : layer.second_moments) entry["second_moments"][tap] = hex_floats(values);
  return {{"layer", std::move(entry)}};
}

Json perplexity_entry(const Perplexity& perplexity) {
  return {{"perplexity",
           {{"nll_sum", std::bit_cast<uint64_t>(perplexity.nll_sum)}, {"tokens", perplexity.tokens}}}};
}

Json streams_entry(const SavedStreams& streams) {
  return {{"streams",
           {{"layer", streams.layer},
            {"file", streams.file},
            {"bytes", streams.size_bytes},
            {"checksum", streams.checksum}}}};
}

Json stamps_entry(const ShardStamps& stamps) {
  Json shards = Json::array();
  for (const auto& [shard, stamp] : stamps) shards.push_back({shard, stamp.id, stamp.changed_ns});
  return {{"shards", std::move(shards)}};
}

Json lost_entry(const std::vector<uint32_t>& tensors) { return {{"lost", tensors}}; }

JobDescription describe_job(const Checkpoint& source, Json identity, Json totals) {
  Json shards = Json::array();
  for (const Shard& shard : source.shards()) {
    Hash header;
    header.add(shard.header_json);
    shards.push_back({{"name", shard.name},
                      {"size_bytes", shard.size_bytes},
                      {"mtime_ns", shard.mtime_ns},
                      {"header", header.hex()}});
    if (!shard.version.empty()) shards.back()["version"] = shard.version;
  }
  return {.identity = std::move(identity),
          .source = {{"path", is_address(source.folder())
                                  ? source.folder().string()
                                  : std::filesystem::absolute(source.folder()).lexically_normal().string()},
                     {"shards", std::move(shards)}},
          .totals = std::move(totals),
          .options = Json::object(),
          .command = {}};
}

std::optional<JobDocument> read_job_document(FileSystem& files, const Path& folder) {
  const Path path = folder / "job.json";
  if (!files.status(path)) return std::nullopt;
  const Json document = read_document(files, path);
  return decoded(path, [&] {
    const std::string work = document.at("work_folder");
    const Json& command = document.at("command");
    JobDocument read{.description = {.identity = document.at("identity"),
                                     .source = document.at("source"),
                                     .totals = document.at("totals"),
                                     .options = document.at("options"),
                                     .command = {}},
                     .work_folder = work.empty() ? folder : Path(work),
                     .begun_in = word_of(document.at("begun_in"))};
    if (!command.is_null()) read.description.command = command_of(command);
    return read;
  });
}

std::optional<JobRecord> read_job(FileSystem& files, const Path& folder) {
  std::optional<JobDocument> document = read_job_document(files, folder);
  if (!document) return std::nullopt;
  const Path journal = document->work_folder / "journal";
  Replayed replayed =
      replay_journal(files, journal, first_entry(document->description, folder, document->work_folder));
  JobRecord record{.description = std::move(document->description),
                   .work_folder = document->work_folder,
                   .state = std::move(replayed.state),
                   .journal_bytes = replayed.end.whole_bytes,
                   .torn_bytes = replayed.end.file_bytes - replayed.end.whole_bytes,
                   .holder = {}};
  if (const auto status = files.status(journal)) record.journal_changed_ns = status->mtime_ns;
  if (files.status(folder / "lock")) record.holder = read_holder(files, folder / "lock");
  return record;
}

void require_same_job(const JobDescription& found, const JobDescription& asked, const std::string& place) {
  std::vector<std::string> differences;
  for (const auto& [name, value] : asked.identity.items()) {
    const Json before = found.identity.value(name, Json());
    if (before != value) add_differences(name, before, value, found.options, asked.options, differences);
  }
  if (!differences.empty()) {
    const bool other_source =
        found.identity.value("source", Json()) != asked.identity.value("source", Json());
    const std::string back = other_source ? "give it back the source that it had and " : "";
    throw Error(ErrorKind::kRefused, {.file = place},
                fmt::format("holds the partial output of another job: {}", fmt::join(differences, "; ")),
                {.hint = found.command ? back + "go on with it by `" + command_text(*found.command) +
                                             "`, or name another folder"
                                       : back + "run that job again to finish it, or name another folder"});
  }
  require_same_source(found.source, asked.source);
}

Job Job::open(FileSystem& files, const Path& folder, const Path& work_folder,
              const JobDescription& description) {
  files.create_folders(folder);
  Job job;
  job.files_ = &files;
  job.folder_ = folder;
  job.lock_ = lock_work_folder(files, folder);
  if (std::optional<JobDocument> record = read_job_document(files, folder)) {
    require_same_job(record->description, description, folder.string());
    if (!work_folder.empty() && files.real_path(work_folder) != files.real_path(record->work_folder)) {
      throw Error(ErrorKind::kRefused, {.file = folder.string()},
                  "the job was begun with another work folder",
                  {.expected = record->work_folder.string(), .found = work_folder.string()});
    }
    job.work_folder_ = record->work_folder;
    job.command_ = std::move(record->description.command);
    job.resumed_ = true;
  } else {
    job.command_ = description.command;
    job.work_folder_ = work_folder.empty() ? folder : std::filesystem::absolute(work_folder);
    job.create(description, work_folder.empty());
  }
  job.open_journal(description);
  return job;
}

void Job::create(const JobDescription& description, bool work_here) {
  if (!work_here) {
    // It must be found again by what job.json says of it.
    if (Json::parse(text_of(work_folder_.string())) != Json(work_folder_.string())) {
      throw Error(ErrorKind::kRefused, {.file = work_folder_.string()}, "the work folder's path is not UTF-8",
                  {.hint = "name another one with --work-dir"});
    }
    files_->create_folders(work_folder_);
    if (!files_->list(work_folder_).empty()) {
      throw Error(ErrorKind::kRefused, {.file = work_folder_.string()}, "the work folder is not empty",
                  {.hint = "name a new or empty folder with --work-dir"});
    }
  }
  Json document = {{"format", kJobFormat},
                   {"identity", description.identity},
                   {"source", description.source},
                   {"totals", description.totals},
                   {"options", description.options},
                   {"command", description.command ? command_json(*description.command) : Json()},
                   {"begun_in", word_json(std::filesystem::absolute(folder_).lexically_normal().string())},
                   {"work_folder", work_here ? "" : work_folder_.string()}};
  document["checksum"] = document_checksum(document);
  write_text_durably(*files_, folder_ / "job.json", text_of(document, 2));
}

void Job::open_journal(const JobDescription& description) {
  const Path path = work_folder_ / "journal";
  if (!files_->status(work_folder_)) {
    throw Error(ErrorKind::kRefused, {.file = work_folder_.string()}, "the job's work folder is not there",
                {.hint = "mount or restore it; without it, remove " + folder_.string() +
                         " and what lies beside it to begin again"});
  }
  const Json first = first_entry(description, folder_, work_folder_);
  Replayed replayed = replay_journal(*files_, path, first);
  if (replayed.other_job) {
    throw Error(ErrorKind::kRefused, {.file = path.string()}, "is the journal of another job",
                {.hint = "give each job its own work folder"});
  }
  state_ = std::move(replayed.state);
  const Json attempt = attempt_entry();
  replay(attempt, state_);
  journal_ = std::make_unique<Journal>(*files_, path, replayed.end);
  if (replayed.end.whole_bytes == 0)
    journal_->append_all(std::vector<Json>{first, attempt});
  else
    journal_->append(attempt);
}

void Job::note_end(const std::string& text) noexcept {
  try {
    journal_->append(Json{{"end", {{"ended", utc_now()}, {"text", text}}}});
  } catch (...) {  // the attempt will look killed, which is as true
  }
}

Json Job::attempts_json(const std::string& end) const {
  Json attempts = Json::array();
  for (const Attempt& attempt : state_.attempts) attempts.push_back(attempt.json());
  attempts.back()["ended"] = utc_now();
  attempts.back()["end"] = end;
  return attempts;
}

void remove_job(FileSystem& files, const Path& folder, const Path& work_folder) {
  if (work_folder != folder && files.status(work_folder)) {
    for (const std::string& name : files.list(work_folder)) {
      if (name == "journal" || name.starts_with("streams-")) files.remove(work_folder / name);
    }
    if (files.list(work_folder).empty()) files.remove(work_folder);
  }
  files.remove(folder);
  files.sync_folder(folder.parent_path().empty() ? "." : folder.parent_path());
}

}  // namespace nibblecast
