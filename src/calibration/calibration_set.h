// calibration/calibration_set.h - what --calib names: files and published data sets, with how much of each.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/file.h"
#include "calibration/hub_dataset.h"

namespace nibblecast {

// One stream of records.
struct CalibrationSet {
  std::string name;                // for messages: the file, or "cnn_dailymail train"
  std::vector<std::string> files;  // one after the other; "-" is standard input
  std::string column = {};         // of the records; empty: whichever is there (calibration/record.h)
  uint64_t count = 0;              // texts (docs) or rows (packed)
  std::string rest = {};           // where only the first files of the set are here: how to get the others
  std::string joint = {};          // not empty: the records are one text, with this between them
};

// A count: as many rows as the set gives.
inline constexpr uint64_t kWholeSet = UINT64_MAX;

// Puts a data set's first files into the Hub's cache, if it can; may throw.
using DatasetFetcher = std::function<void(const HubDataset&)>;

// How many texts or rows, where nobody says.
inline constexpr uint64_t kDefaultCalibrationSize = 128;

// `calib`: one or more of NAME or NAME:COUNT, separated by commas. NAME is a file, "-", or a data set:
// `cnn_dailymail`, `nemotron-post-training-dataset-v2`, or both as `cnn_nemotron_v2_mix`; or a folder into
// which one of them was downloaded (a part of its path is the set's or the repository's name). What exists as
// a file wins over a data set's name, and over splitting at commas and colons.
//
// Without counts `size` (0: `default_size`) is divided evenly; what is left over goes to the first names, one
// each. Of `wikitext2`, whose records are the lines of one text, without a count all of it. A data set is
// sampled as ModelOpt 0.47 does (modelopt/torch/utils/dataset_utils.py, get_dataset_samples): its count
// divided evenly over its splits, the remainder to the last; the first rows of each split; one CalibrationSet
// a split. Its files are <split>-NNNNN-of-NNNNN.parquet (or .jsonl) in the newest download of `hub_cache`.
//
// `column`, if not empty, is that of the files; data sets have their own. `fetch` is asked for a data set
// that is not in the cache, before it is missed.
//
// Errors: kUsage where some names have counts and others not, or counts meet a size; kBadInput with the
// command that downloads it where a data set is absent, or is one of the Hub that has no name here.
std::vector<CalibrationSet> find_calibration_sets(FileSystem& files, const std::string& calib, uint64_t size,
                                                  const std::filesystem::path& hub_cache,
                                                  const std::string& column = {},
                                                  uint64_t default_size = kDefaultCalibrationSize,
                                                  const DatasetFetcher& fetch = {});

}  // namespace nibblecast
