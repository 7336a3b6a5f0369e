// Any bytes as a safetensors file: refused with Error, or a header whose parts agree with each other and
// that, written, reads back as the same.
#include <string>

#include "checkpoint/memory_file.h"
#include "checkpoint/safetensors.h"
#include "fuzzing.h"

namespace nibblecast {
namespace {

using fuzzing::require;

SafetensorsHeader read(std::string_view content) {
  testing::MemoryFile file("fuzz.safetensors", content);
  return read_safetensors_header(file);
}

void check(std::string_view content, SafetensorsHeader header) {
  uint64_t next = header.data_offset;
  for (Tensor& tensor : header.tensors) {
    require(tensor.offset == next);
    require(element_count(tensor.shape).value() * dtype_bytes(tensor.dtype) == tensor.size_bytes);
    next = tensor.end();
    tensor.offset -= header.data_offset;
  }
  require(next == content.size());
  const std::string data(content.substr(header.data_offset));
  const SafetensorsHeader again = read(write_safetensors_header(header.tensors, header.metadata) + data);
  require(again.metadata == header.metadata && again.tensors.size() == header.tensors.size());
  for (size_t i = 0; i < again.tensors.size(); ++i) {
    require(again.tensors[i].name == header.tensors[i].name &&
            again.tensors[i].shape == header.tensors[i].shape);
    require(again.tensors[i].dtype == header.tensors[i].dtype);
    require(again.tensors[i].offset - again.data_offset == header.tensors[i].offset);
  }
}

}  // namespace
}  // namespace nibblecast

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace nibblecast;
  const std::string_view content = fuzzing::text_of(bytes, size);
  fuzzing::refused_or([&] { check(content, read(content)); });
  return 0;
}
