#include "pipeline/preflight.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.h"
#include "base/size_text.h"
#include "model/device_memory.h"
#include "model/forward_checks.h"
#include "pipeline/group_maker.h"
#include "pipeline/line_probe.h"
#include "pipeline/output.h"
#include "plan/forward_plan.h"
#include "plan/second_moments.h"
#include "remote/address.h"

namespace nibblecast {
namespace {

using Path = std::filesystem::path;

// What a run adds to the source's documents: the model card, lists of modules, counts by layer.
constexpr uint64_t kDocumentBytes = 1 << 20;
// Streams this small are saved after every layer without a thought.
constexpr uint64_t kSmallStreams = 64 << 20;
constexpr double kLongFlops = 1e12;  // seconds on a CPU

uint64_t json_bytes(const Json& json) { return json.dump(2).size(); }

class Checks {
 public:
  Checks(const Checkpoint& source, const Plan& plan, const Activations& activations,
         const JobOptions& options, const JobMeans& means)
      : source_(source), plan_(plan), activations_(activations), options_(options), means_(means) {
    result_.findings = plan.findings;
    result_.device = means.device;
    result_.processors = means.processors;
    for (const std::string& warning : means.warnings) warn(warning);
    if (activations.rows) {
      require_forward_storage(source, *plan.model);
      for (const std::string& warning : activations.rows->warnings) warn(warning);
    }
    for (const std::string& warning : activations.warnings)
      result_.findings.push_back({Severity::kWarning, warning, ""});
    result_.workload = workload_of(activations);
    result_.work = work_cost(plan, result_.workload);
    result_.job = describe_job(source, run_identity(source, plan, activations),
                               {{"tensors", plan.tensors.size()},
                                {"bytes", plan.output_bytes},
                                {"layers", activations.rows ? plan.layers() : 0}});
    if (means.describe) means.describe(result_.job);
    // No layer but the last is that far away, and after that one nothing is saved.
    if (options.checkpoint_every >= plan.layers()) result_.work.streams_bytes = 0;
  }

  // What the weight methods need to know of activations.
  void check_weight_methods() {
    if (!plan_.needs_second_moments()) return;
    if (!activations_.amax) {
      refuse("weight_method wmse needs second moments of the activations before it makes weights",
             "measure them first: `nibblecast calibrate SRC --calib TEXTS --second-moments -o FILE`, then "
             "give --amax "
             "FILE in place of --calib; or take --weight-method mse, which needs none");
    }
    if (result_.device.cuda)
      refuse("weight_method wmse is not made on a GPU", "give --device cpu, or another --weight-method");
  }

  void check_moments_device() {
    if (plan_.options.second_moments && result_.device.cuda)
      refuse("second moments are not measured on a GPU", "give --device cpu, or leave out --second-moments");
  }

  void check_memory_need(bool writes) {
    result_.memory_limit = means_.memory_bytes;
    ForwardDevice& device = result_.device;
    const DeviceMakeCost make = device.cuda && writes ? device_make_cost(plan_) : DeviceMakeCost{};
    reserve_device(make.device_bytes);
    const bool forward = result_.workload.tokens > 0;
    if (forward) check_row_length(*plan_.model, result_.workload.longest_row);
    if (device.cuda && forward) check_device_model(*plan_.model);
    // A forward pass counts CUDA's libraries itself.
    const uint64_t libraries = make.device_bytes > 0 && !forward ? kCudaHostBytes : 0;
    const uint64_t taken = std::min(result_.memory_limit, make.pinned_bytes + libraries);
    result_.memory = memory_cost(source_, plan_, result_.workload, means_.threads,
                                 result_.memory_limit - taken, device, writes);
    result_.memory.make_bytes += make.pinned_bytes;
    result_.memory.fixed_bytes += libraries;
    add(check_memory(result_.memory, result_.memory_limit));
    if (!device.cuda || result_.workload.tokens == 0) return;
    add(check_device_memory(result_.memory.device, device.memory_bytes));
    device.expert_bytes = largest_expert_bytes(plan_);
    device.held_owners = result_.memory.read_units - 1;
  }

  // Takes what weights are made in from what a forward pass may have of the device.
  void reserve_device(uint64_t size_bytes) {
    uint64_t& free = result_.device.memory_bytes;
    if (size_bytes > free) {
      refuse("making weights " + shortage_text(size_bytes, "of the GPU's memory and may use", free),
             "raise --device-memory, or use --device cpu");
    }
    free -= std::min(free, size_bytes);
  }

  void check_place(const Path& destination) {
    FileSystem& files = source_.files();
    result_.disk_folder = destination;
    if (destination.empty()) {
      result_.disk_folder = is_address(source_.folder()) ? std::filesystem::current_path()
                                                         : files.real_path(source_.folder()).parent_path();
    } else {
      try {
        result_.destination = check_destination(files, source_.folder(), destination, result_.job);
        result_.disk_free = folder_bytes(files, destination);
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::kRefused) throw;
        refuse(error.what(), "");
      }
      const Disk disk = files.disk(destination);
      check_writable(disk);
      check_sizes(disk);
    }
    result_.disk_need = disk_need(source_, plan_);
    check_space(result_.disk_need);
  }

  // Of the work folder, and of `need` bytes of output beside it.
  void check_space(uint64_t need) {
    FileSystem& files = source_.files();
    const Disk disk = files.disk(result_.disk_folder);
    const Disk work = options_.work_folder.empty() ? disk : files.disk(options_.work_folder);
    const bool work_elsewhere = work.id != disk.id;
    result_.disk_need = need + (work_elsewhere ? 0 : result_.work.bytes());
    result_.disk_free += disk.free_bytes;
    add(check_disk(result_.disk_need, result_.disk_free, result_.disk_folder));
    if (options_.work_folder.empty()) return;
    if (lies_in(files, options_.work_folder, source_.folder())) {
      refuse("the work folder lies in the source, which is never written to", "name another --work-dir");
    }
    check_writable(work);
    if (!work_elsewhere) return;
    add(check_disk(result_.work.bytes(), work.free_bytes + folder_bytes(files, options_.work_folder),
                   options_.work_folder));
  }

  void measure(bool always) {
    const bool forward = result_.workload.tokens > 0;
    const bool choose = forward && options_.checkpoint_every == 0;
    // Cheap on a CPU, and without it nothing is known of the end until the first layer's attention.
    const bool long_forward =
        static_cast<double>(result_.workload.tokens) * plan_.flops_per_token > kLongFlops;
    if (forward && !result_.device.cuda && long_forward)
      result_.compute = probe_compute(plan_.options.compute_dtype, result_.device);
    if (forward) result_.checkpoint_every = std::max<uint64_t>(1, options_.checkpoint_every);
    if (!always && !(choose && result_.work.streams_bytes > kSmallStreams)) return;
    result_.disk = probe_disk(source_.files(), result_.disk_folder);
    const auto line = always && result_.disk ? probe_line(source_) : std::nullopt;
    if (line) result_.disk->read_bytes_per_second = *line;
    // Without rows, `plan` says what calibrating would take.
    const bool computes = forward || (plan_.needs_activations() && !activations_.amax);
    if (computes && !(result_.compute.flops_per_second > 0))
      result_.compute = probe_compute(plan_.options.compute_dtype, result_.device);
    if (choose && result_.disk && result_.work.streams_bytes > kSmallStreams) {
      result_.checkpoint_every = checkpoint_interval(plan_, result_.workload, *result_.disk, result_.compute);
    }
  }

  Preflight finish() {
    if (options_.strict) {
      for (Finding& finding : result_.findings) finding.severity = Severity::kRefusal;
    }
    return std::move(result_);
  }

  Preflight& result() { return result_; }
  void refuse(std::string reason, std::string remedy) {
    result_.findings.push_back({Severity::kRefusal, std::move(reason), std::move(remedy)});
  }

 private:
  void add(std::vector<Finding> findings) {
    std::move(findings.begin(), findings.end(), std::back_inserter(result_.findings));
  }

  void warn(const std::string& reason) { result_.findings.push_back({Severity::kWarning, reason, ""}); }

  void check_writable(const Disk& disk) {
    if (disk.is_writable) return;
    refuse(disk.folder.string() + " cannot be written to", "change its permissions, or name another folder");
  }

  void check_sizes(const Disk& disk) {
    constexpr std::string_view kPartial = ".partial";
    const std::string remedy = "name a destination on another file system";
    for (const PlannedShard& shard : plan_.shards) {
      if (shard.size_bytes > disk.most_file_bytes) {
        refuse(fmt::format("{} would have {} bytes, more than a file may have on {}", shard.name,
                           shard.size_bytes, disk.folder.string()),
               remedy);
      }
      if (Path(shard.name).filename().string().size() + kPartial.size() > disk.most_name_bytes) {
        refuse(fmt::format("'{}{}' is longer than a name may be on {}", shard.name, kPartial,
                           disk.folder.string()),
               remedy);
      }
    }
  }

  const Checkpoint& source_;
  const Plan& plan_;
  const Activations& activations_;
  const JobOptions& options_;
  const JobMeans& means_;
  Preflight result_;
};

}  // namespace

uint64_t disk_need(const Checkpoint& source, const Plan& plan) {
  // nibblecast.json quotes the source's headers, config and index as strings: each quotation mark takes one
  // more byte.
  uint64_t quoted = source.config_text().size() + source.index_text().size();
  for (const Shard& shard : source.shards()) quoted += shard.header_json.size();
  return plan.output_file_bytes + side_file_bytes(source) + 2 * quoted + json_bytes(plan.config) +
         json_bytes(plan.hf_quant_config) + json_bytes(plan.index) + plan.config_text.size() +
         plan.index_text.size() + kDocumentBytes;
}

uint64_t folder_bytes(FileSystem& files, const std::filesystem::path& folder) {
  uint64_t bytes = 0;
  try {
    if (!files.status(folder)) return 0;
    for (const std::string& name : files.list(folder)) {
      const auto status = files.status(folder / name);
      if (!status || status->is_symlink) continue;
      bytes += status->disk_bytes;
      if (status->is_folder) bytes += folder_bytes(files, folder / name);
    }
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kIo) throw;
  }
  return bytes;
}

Workload workload_of(const Activations& activations) {
  if (!activations.rows) return {};
  return {.rows = activations.rows->ids.size(),
          .tokens = activations.rows->tokens(),
          .longest_row = activations.rows->longest()};
}

bool Preflight::refused() const {
  return std::any_of(findings.begin(), findings.end(),
                     [](const Finding& finding) { return finding.severity == Severity::kRefusal; });
}

// A device is fed from the page cache too, which takes a processor for every few GB/s.
size_t Preflight::read_threads() const {
  return device.cuda ? std::max(kIoThreads, std::min<size_t>(processors, 32)) : kIoThreads;
}

Preflight preflight(const Checkpoint& source, const Plan& plan, const Activations& activations,
                    const Path& destination, const JobOptions& options, const JobMeans& means, bool measure) {
  Checks checks(source, plan, activations, options, means);
  checks.check_weight_methods();
  checks.check_memory_need(true);
  checks.check_place(destination);
  checks.measure(measure);
  return checks.finish();
}

Preflight preflight_calibration(const Checkpoint& source, const Plan& plan, const Activations& activations,
                                const Path& amax_output, const JobOptions& options, const JobMeans& means) {
  Checks checks(source, plan, activations, options, means);
  checks.result().job.totals = {{"tensors", 0}, {"bytes", 0}, {"layers", plan.layers()}};
  checks.check_moments_device();
  checks.check_memory_need(false);
  const Path folder = calibration_job_folder(amax_output);
  checks.result().disk_folder = std::filesystem::absolute(amax_output).parent_path();
  checks.result().disk_free = folder_bytes(source.files(), folder);
  if (const auto record = read_job_document(source.files(), folder)) {
    require_same_job(record->description, checks.result().job, folder.string());
  }
  // The file and the one that takes its place, and the journal's entries in hexadecimal digits.
  const uint64_t moments = plan.options.second_moments ? moment_counts(*plan.model).all : 0;
  checks.check_space((1 << 20) + moments * (2 * sizeof(float) + 8));
  checks.measure(false);
  return checks.finish();
}

Path calibration_job_folder(const Path& amax_output) { return amax_output.string() + ".nibblecast"; }

}  // namespace nibblecast
