// cli/common_options.h - options that several commands share, and how they are parsed and explained.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "calibration/rows.h"
#include "cli/command_line.h"
#include "plan/options.h"

namespace nibblecast {

// What every command has, and hands on to the libraries in run() below.
struct CommonOptions {
  size_t threads = 0;              // set by default_threads() unless given
  std::optional<uint64_t> memory;  // bytes
  std::string cpu_isa = "auto";
  std::string device = "auto";             // as given: auto, cpu, cuda or cuda:N
  std::optional<uint64_t> device_ordinal;  // of cuda:N
  std::optional<uint64_t> device_memory;   // bytes
  bool device_profile = false;
  bool json = false, quiet = false;
  CommandLine command_line;

  uint64_t memory_limit() const;  // --memory, or what this process may use
  // What is to be said of a --memory beyond what is free; empty where there is nothing.
  std::string memory_warning() const;
};

// Where activations come from: at most one of `calib` and `amax` is set.
struct ActivationOptions {
  std::string calib, amax;
  std::string option = "--calib";                   // that names the texts; of its size "--calib-size"...
  uint64_t default_size = kDefaultCalibrationSize;  // texts or rows
  std::string calib_key;                            // empty: whichever of those that are known is there
  uint64_t calib_size = 0;                          // 0: not given
  RowsOptions rows;
};

// kRefused where --memory, or what is free, is less than a command takes at the least.
void require_memory(const CommonOptions& options, uint64_t least_bytes);

// What a command does once its arguments are parsed; the value is the exit code.
using Action = std::function<int()>;

// A command with its help: `example` opens it, `description` follows.
CLI::App& add_command(CLI::App& app, const std::string& name, const std::string& description,
                      const std::string& example);

// An argument with the word that help shows for its value, which is more than blanks and commas.
CLI::Option* add_text(CLI::App& app, const std::string& name, std::string& target, const std::string& value,
                      const std::string& description);
// A path of whatever kind, as normal_path() (cli/paths.h) has it. Every path of the command line is one of
// these, so that no command sees two spellings of one place.
CLI::Option* add_path(CLI::App& app, const std::string& name, std::string& target, const std::string& value,
                      const std::string& description);
// Several of them, in their order.
CLI::Option* add_paths(CLI::App& app, const std::string& name, std::vector<std::string>& targets,
                       const std::string& description);
// An integer of at least `least` (0 or 1) in decimal digits.
CLI::Option* add_count(CLI::App& app, const std::string& name, uint64_t& target, uint64_t least,
                       const std::string& description);

void add_common_options(CLI::App& app, CommonOptions& options);
void add_threads_options(CLI::App& app, CommonOptions& options);  // --threads, --cpu-isa
void add_memory_option(CLI::App& app, CommonOptions& options);    // of commands that hold to it
void add_device_options(CLI::App& app, CommonOptions& options);   // --device, --device-memory
// `options.option` and how many rows it becomes, and how long; defaults are those in `options`.
void add_texts_options(CLI::App& app, ActivationOptions& options, const std::string& description);
void add_rows_options(CLI::App& app, ActivationOptions& options);  // and how else it becomes rows
void add_compute_dtype(CLI::App& app, ComputeDtype& dtype);
void add_quantize_options(CLI::App& app, QuantizeOptions& options);  // all that changes the output's bytes
void add_engines(CLI::App& app, QuantizeOptions& options);

// Processors that this process may use: its affinity and its cgroup's quota.
size_t default_threads();

}  // namespace nibblecast
