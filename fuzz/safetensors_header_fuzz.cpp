// Any bytes as a safetensors file: refused with Error, or a header whose parts agree with each other and
// that, written, reads back as the same.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "checkpoint/memory_file.h"
#include "checkpoint/safetensors.h"

namespace nibblecast {
namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

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
  const std::string_view content(reinterpret_cast<const char*>(bytes), size);
  try {
    nibblecast::check(content, nibblecast::read(content));
  } catch (const nibblecast::Error&) {
  }
  return 0;
}
