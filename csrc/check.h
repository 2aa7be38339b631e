// Argument checks of the operations, and the little that they share on top of torch's stable ABI.
// Every message names the tensor or argument, what it is and what was expected.

#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <string>
#include <vector>

#include "kernels.h"

#define FREQDIFF_CHECK(condition, name, got, expected) \
  STD_TORCH_CHECK(condition, name, " is ", got, ", expected ", expected)

#define FREQDIFF_CHECK_CPU(tensor) \
  STD_TORCH_CHECK((tensor).is_cpu(), #tensor " is not on the CPU, expected a CPU tensor")

#define FREQDIFF_CHECK_DIM(tensor, count, layout)                             \
  STD_TORCH_CHECK((tensor).dim() == (count), #tensor " has ", (tensor).dim(), \
                  " dimensions, expected ", (count), ": " layout)

#define FREQDIFF_CHECK_SIZE(tensor, dimension, expected)                                  \
  STD_TORCH_CHECK((tensor).size(dimension) == (expected), #tensor " has size ",           \
                  (tensor).size(dimension), " in dimension ", (dimension), ", expected ", \
                  (expected))

namespace freqdiff {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Dtype stored_type(ScalarType type, const char* name) {
  switch (type) {
    case ScalarType::Byte:
      return Dtype::kUint8;
    case ScalarType::UInt16:
      return Dtype::kUint16;
    case ScalarType::BFloat16:
      return Dtype::kBfloat16;
    case ScalarType::Half:
      return Dtype::kFloat16;
    case ScalarType::Float:
      return Dtype::kFloat32;
    case ScalarType::Double:
      return Dtype::kFloat64;
    default:
      STD_TORCH_CHECK(false, name, " has dtype ", torch::headeronly::toString(type),
                      ", expected uint8, uint16, bfloat16, float16, float32 or float64");
  }
}

inline bool is_floating(Dtype type) { return type != Dtype::kUint8 && type != Dtype::kUint16; }

// An uninitialised tensor.
Tensor empty_on(int32_t device_type, int32_t device, const std::vector<int64_t>& shape,
                const std::vector<int64_t>& strides, ScalarType type);

std::vector<int64_t> contiguous_strides(const std::vector<int64_t>& shape);

// The same on the CPU. Fresh pages, which the system clears first, cost a large result more time
// than computing it (50 MB of features of a 4K photo on two cores: 5 ms, in fresh memory 13 ms and
// more): large ones get the memory of the last one that was freed, or else huge pages. What is
// kept, one block of less than 256 MB, is the system's to take away when memory runs short.
Tensor empty_cpu(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides,
                 ScalarType type);
Tensor empty_cpu(const std::vector<int64_t>& shape, ScalarType type);

// Frees what is kept.
void release_memory();

// Whether a result of this many bytes should be written past the caches: the next reader would not
// find it there anyway.
inline bool should_stream(int64_t bytes) { return bytes >= (16 << 20); }

}  // namespace freqdiff
