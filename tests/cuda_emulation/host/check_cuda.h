// Stands in for csrc/check_cuda.h, so that the host code of an operation runs on the CPU as well.
// Results and scratch memory are full of NaN and end where inaccessible memory begins.

#pragma once

#include "check.h"
#include "entry.h"

#define FREQDIFF_CHECK_CUDA(tensor) FREQDIFF_CHECK_CPU(tensor)
#define FREQDIFF_CHECK_SAME_DEVICE(tensor, other) FREQDIFF_CHECK_CPU(tensor)
#define FREQDIFF_LAUNCHED(launched)                                               \
  do {                                                                            \
    STD_TORCH_CHECK((launched) == cudaSuccess, emulation::state.message.c_str()); \
  } while (false)

constexpr int cudaDevAttrMaxSharedMemoryPerBlockOptin = 97;
inline int max_shared_of_the_device = int(emulation::kShared);
inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) {
  *value = max_shared_of_the_device;
  return cudaSuccess;
}
extern "C" void emulation_max_shared(int64_t bytes) { max_shared_of_the_device = int(bytes); }

namespace freqdiff {

struct OnDeviceOf {
  explicit OnDeviceOf(const Tensor&) {}
  cudaStream_t stream = nullptr;
};

inline Tensor empty_cuda(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides,
                         ScalarType type, const Tensor& beside) {
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  if (count == 0) return empty_on(aoti_torch_device_type_cpu(), 0, shape, strides, type);
  const Dtype dtype = stored_type(type, "dtype");
  const int64_t item = dtype == Dtype::kUint8     ? 1
                       : dtype == Dtype::kFloat64 ? 8
                       : dtype == Dtype::kFloat32 ? 4
                                                  : 2;
  const int64_t bytes = count * item;
  void* memory = emulation_allocate(bytes);
  STD_TORCH_CHECK(memory != nullptr, "no memory for ", bytes, " bytes");
  return torch::stable::from_blob(memory, shape, strides, beside.device(), type,
                                  [memory, bytes](void*) { emulation_release(memory, bytes); });
}

inline Tensor empty_cuda(const std::vector<int64_t>& shape, ScalarType type, const Tensor& beside) {
  return empty_cuda(shape, contiguous_strides(shape), type, beside);
}

}  // namespace freqdiff

// What is registered for CUDA takes tensors of the CPU here.
#define CUDA CPU
