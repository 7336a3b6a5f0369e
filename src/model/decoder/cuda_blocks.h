// model/decoder/cuda_blocks.h - the memory of a decoder's forward pass on a CUDA device, laid out as
// model/decoder/memory.h says, and what the device knows of tokens and rows. Internal to
// model/decoder/*cuda*.cpp.
#pragma once

#include <memory>
#include <vector>

#include "base/cuda.h"
#include "model/decoder/memory.h"
#include "model/forward_pass.h"
#include "model/token_rows.h"
#include "ops/attention_cuda.h"
#include "ops/compressor_cuda.h"
#include "ops/rope_cuda.h"

namespace nibblecast {

// Rows in groups, each with its rows and the blocks of its queries, chunk after chunk.
class CudaRowGroups {
 public:
  CudaRowGroups(const TokenRows& rows, const DecoderSizes& sizes);

  std::span<const RowGroup> groups() const { return groups_; }
  struct Chunk {
    const RowOfGroup* rows = nullptr;
    const QueryBlock* blocks = nullptr;
    size_t block_count = 0;
  };
  // Of one of groups(), from its token `begin` on.
  Chunk chunk(const RowGroup& group, size_t begin) const;

 private:
  void add_blocks(const TokenRows& rows, const RowGroup& group, size_t begin, size_t count,
                  std::vector<QueryBlock>& blocks);

  struct Place {
    size_t first_row = 0;
    std::vector<size_t> first_block = {};  // of each chunk, and the end
  };
  const DecoderSizes sizes_;
  std::vector<RowGroup> groups_;
  std::vector<Place> places_;
  DeviceArray<RowOfGroup> rows_;
  DeviceArray<QueryBlock> blocks_;
};

template <class T>
class CudaBlocks {
 public:
  // kRefused where it does not fit.
  CudaBlocks(const Model& model, const TokenRows& rows, const ForwardDevice& device);

  RopeView rope(const RopeSpec* spec) const;  // null: turns nothing
  std::byte* streams() const;                 // the residual stream, wherever it is

  const std::vector<RopeSpec> rope_specs;
  CudaMemory memory;
  size_t findings_count = 0;
  std::unique_ptr<CudaTokenBuffers> tokens;
  std::unique_ptr<ResidualBuffers<T>> residual;
  std::unique_ptr<WorkBuffers<T>> work;
  RoutingBuffers routing;  // pinned host memory
  DeviceBuffer slots;      // of MLPs on their way
  Buffer host_streams;     // pinned, where they are not resident

 private:
  void upload(const TokenRows& rows);

  DeviceBuffer token_block_, residual_block_, work_block_;
  Buffer routing_block_;
};

}  // namespace nibblecast
