// What the CUDA operations share on top of check.h: device, stream, allocation and launches.

#pragma once

#include <cuda_runtime.h>
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include "check.h"
#include "kernels.h"

#define FREQDIFF_CHECK_CUDA(tensor) \
  STD_TORCH_CHECK((tensor).is_cuda(), #tensor " is not on a GPU, expected a CUDA tensor")

#define FREQDIFF_CHECK_SAME_DEVICE(tensor, other)                                                  \
  STD_TORCH_CHECK((tensor).is_cuda() && (tensor).get_device_index() == (other).get_device_index(), \
                  #tensor " is on another device, expected that of " #other ", cuda:",             \
                  (other).get_device_index())

// An error of a launch becomes an exception that names the kernel.
#define FREQDIFF_LAUNCHED(launched)                                                          \
  do {                                                                                       \
    const cudaError_t error = (launched);                                                    \
    STD_TORCH_CHECK(error == cudaSuccess, #launched " failed: ", cudaGetErrorString(error)); \
  } while (false)

// The library that defines it exists in torch for CUDA alone.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void**);

namespace freqdiff {

// The stream on which torch works on a device. Python loads the libraries of torch without making
// their symbols global, so the weak symbol may stay empty where the library is there.
inline cudaStream_t current_stream(int32_t device) {
  using Function = AOTITorchError (*)(int32_t, void**);
  static const Function function = [] {
    Function found = &aoti_torch_get_current_cuda_stream;
    if (!found) {
      if (void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY)) {
        found = Function(dlsym(library, "aoti_torch_get_current_cuda_stream"));
      }
    }
    return found;
  }();
  STD_TORCH_CHECK(function, "libtorch_cuda.so is not loaded, expected torch with CUDA");
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(function(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

// Makes the device of a tensor the current one as long as it lives.
struct OnDeviceOf {
  explicit OnDeviceOf(const Tensor& tensor)
      : guard(tensor.get_device_index()), stream(current_stream(tensor.get_device_index())) {}

  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;
};

inline Tensor empty_cuda(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides,
                         ScalarType type, const Tensor& beside) {
  return empty_on(aoti_torch_device_type_cuda(), beside.get_device_index(), shape, strides, type);
}

inline Tensor empty_cuda(const std::vector<int64_t>& shape, ScalarType type, const Tensor& beside) {
  return empty_cuda(shape, contiguous_strides(shape), type, beside);
}

}  // namespace freqdiff
