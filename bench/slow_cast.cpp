// slow_cast SOURCE AMAX OUT MB_PER_SECOND: `quantize --amax` over a file system that is no faster than that,
// each way, with the program's own progress lines. For bench/eta.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>

#include "cli/progress.h"
#include "pipeline/destination.h"
#include "pipeline/output.h"
#include "pipeline/run.h"

namespace nibblecast {
namespace {

using Clock = std::chrono::steady_clock;

// Lets so many bytes a second through, one request after the other. Thread-safe.
class Throttle {
 public:
  explicit Throttle(double bytes_per_second) : bytes_per_second_(bytes_per_second) {}
  void pass(size_t bytes) {
    Clock::time_point end;
    {
      const std::lock_guard lock(mutex_);
      free_at_ = std::max(free_at_, Clock::now()) +
                 std::chrono::duration_cast<Clock::duration>(
                     std::chrono::duration<double>(static_cast<double>(bytes) / bytes_per_second_));
      end = free_at_;
    }
    std::this_thread::sleep_until(end);
  }

 private:
  const double bytes_per_second_;
  std::mutex mutex_;
  Clock::time_point free_at_;
};

class SlowFile : public File {
 public:
  SlowFile(std::unique_ptr<File> file, Throttle& reads, Throttle& writes)
      : File(file->path()), file_(std::move(file)), reads_(reads), writes_(writes) {}

  size_t read_some(uint64_t offset, std::span<std::byte> to) override {
    const size_t bytes = file_->read_some(offset, to);
    reads_.pass(bytes);
    return bytes;
  }
  size_t write_some(uint64_t offset, std::span<const std::byte> from) override {
    const size_t bytes = file_->write_some(offset, from);
    writes_.pass(bytes);
    return bytes;
  }
  uint64_t size() override { return file_->size(); }
  void set_size(uint64_t size_bytes) override { file_->set_size(size_bytes); }
  void reserve(uint64_t size_bytes) override { file_->reserve(size_bytes); }
  void sync() override { file_->sync(); }
  void close() override { file_->close(); }
  std::optional<FileStamp> stamp() override { return file_->stamp(); }

 private:
  std::unique_ptr<File> file_;
  Throttle &reads_, &writes_;
};

class SlowFiles : public FileSystem {
 public:
  SlowFiles(FileSystem& files, double bytes_per_second)
      : files_(files), reads_(bytes_per_second), writes_(bytes_per_second) {}

  std::unique_ptr<File> open(const Path& path, Access access) override {
    return std::make_unique<SlowFile>(files_.open(path, access), reads_, writes_);
  }
  std::optional<FileStatus> status(const Path& path) override { return files_.status(path); }
  std::vector<std::string> list(const Path& folder) override { return files_.list(folder); }
  void create_folders(const Path& folder) override { files_.create_folders(folder); }
  void rename(const Path& from, const Path& to) override { files_.rename(from, to); }
  void remove(const Path& path) override { files_.remove(path); }
  void copy(const Path& from, const Path& to) override { files_.copy(from, to); }
  void sync_folder(const Path& folder) override { files_.sync_folder(folder); }
  Path real_path(const Path& path) override { return files_.real_path(path); }
  Disk disk(const Path& path) override { return files_.disk(path); }
  std::unique_ptr<File> open_unnamed(const Path& path) override { return files_.open_unnamed(path); }
  std::unique_ptr<FileLock> try_lock(const Path& path, std::string_view holder) override {
    return files_.try_lock(path, holder);
  }

 private:
  FileSystem& files_;
  Throttle reads_, writes_;
};

int run(char** arguments) {
  constexpr uint64_t kBuffers = 64 << 20;
  SlowFiles files(system_files(), std::atof(arguments[4]) * 1e6);
  ProgressPrinter printer(false);
  printer.say("planning");
  const Checkpoint source = Checkpoint::open(arguments[1], files);
  const Plan plan = make_plan(source, {});
  const Activations activations = Activations::from_amax(files, arguments[2]);
  Job job =
      open_destination(source, arguments[3], {},
                       describe_job(source, run_identity(source, plan, activations), Json::object()), plan);
  const InterruptWatch watch("");
  printer.begin();
  RunOptions options;
  options.read_memory_bytes = options.write_memory_bytes = kBuffers;
  options.progress = progress_to(printer, watch);
  const RunRecord record = quantize(source, plan, activations, job, arguments[3], options);
  finish_output(source, plan, activations, record, job, arguments[3]);
  return 0;
}

}  // namespace
}  // namespace nibblecast

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fputs("usage: slow_cast SOURCE AMAX OUT MB_PER_SECOND\n", stderr);
    return 2;
  }
  try {
    return nibblecast::run(argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
