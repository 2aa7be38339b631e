// What the CUDA operations on windowed spectra share: the image and its windows.

#pragma once

#include "check_cuda.h"
#include "spectrum_check.h"
#include "window_spectrum.cuh"

namespace freqdiff {

// The kernels load two adjacent pixels at once; an image with other strides is worth a copy.
inline Tensor with_adjacent_pixels(const Tensor& image) {
  bool adjacent = image.dim() != 4 || image.stride(3) == 1;
  for (int i = 0; adjacent && image.dim() == 4 && i < 3; ++i) adjacent = image.stride(i) % 2 == 0;
  return adjacent ? image : torch::stable::contiguous(image);
}

// Contiguous and aligned for 16-byte loads, which a view into other memory may not be.
inline Tensor with_aligned_start(const Tensor& tensor) {
  const Tensor dense = torch::stable::contiguous(tensor);
  const bool aligned = reinterpret_cast<uintptr_t>(dense.const_data_ptr()) % 16 == 0;
  return aligned ? dense : torch::stable::clone(dense);
}

// After check_windows.
inline device::SpectrumImage spectrum_image(const Tensor& image, int64_t stride) {
  device::SpectrumImage result{
      image.const_data_ptr(), stored_type(image.scalar_type(), "image"), {}, {}};
  for (int i = 0; i < 4; ++i) {
    result.strides[i] = image.stride(i);
    result.sizes[i] = image.size(i);
  }
  const int64_t tokens = image.size(0) * (image.size(2) / stride) * (image.size(3) / stride);
  FREQDIFF_CHECK(tokens <= INT32_MAX / 4, "number of windows", tokens, "less");
  return result;
}

inline std::vector<int64_t> token_shape(const Tensor& image, int64_t stride, int64_t channels) {
  return {image.size(0), image.size(2) / stride, image.size(3) / stride, channels};
}

}  // namespace freqdiff
