// checkpoint/safetensors.h - the safetensors container: 8 bytes little-endian header length N, N bytes of
// JSON {"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {str: str}}, then the
// data. (huggingface/safetensors, README "Format"; rules as its tensor.rs `validate`.)
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "checkpoint/tensor.h"

namespace nibblecast {

struct SafetensorsHeader {
  std::vector<Tensor> tensors;  // by offset in the file; Tensor::shard is 0
  std::map<std::string, std::string> metadata;
  uint64_t data_offset = 0;  // file offset of the first data byte: 8 + N
  std::string json;          // the header's N bytes as they stand in the file
};

// Reads and checks a header. Refuses, naming file, tensor and offset (kBadInput): a file shorter than its
// header or data, N over 100,000,000, JSON that is not what the format says (unknown or missing keys,
// negative or fractional numbers, unknown dtypes), a size that is not shape * dtype, overflow, tensors
// that overlap, leave holes, or do not start at 0, and bytes after the last tensor. kUnsupported: a dtype of
// the format that we have no type for (F6_*, C64, F8_*FNUZ).
SafetensorsHeader read_safetensors_header(File& file);

// The same of a header's N bytes that are in memory, as they were in a file of `file_bytes` bytes; `file` is
// for messages.
SafetensorsHeader parse_safetensors_header(std::string json, uint64_t file_bytes, const std::string& file);

// The 8 + N bytes in front of the data of `tensors`, whose `offset`s are relative to the data's begin.
// N is padded with spaces to a multiple of 8. Tensors appear in the given order. The caller sees to it that
// they follow each other without holes. Error kBadInput: a name or metadata that is not UTF-8.
std::string write_safetensors_header(std::span<const Tensor> tensors,
                                     const std::map<std::string, std::string>& metadata);

}  // namespace nibblecast
