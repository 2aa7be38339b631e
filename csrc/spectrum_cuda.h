// What the CUDA operations on windowed spectra share: the image and its windows. Included after
// check_cuda.h, in whose place the emulated tests put their own.

#pragma once

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

inline void check_bands(int64_t radial, int64_t angular) {
  constexpr int64_t kMostBands = 1 << 24;
  FREQDIFF_CHECK(radial >= 1, "radial", radial, "at least 1");
  FREQDIFF_CHECK(angular >= 1, "angular", angular, "at least 1");
  FREQDIFF_CHECK(radial < kMostBands && angular < kMostBands / radial, "number of bands",
                 radial * angular, "less than 2^24");
}

// What both backward operations start from: checked arguments and memory for the results.
struct SpectrumGradient {
  // `channels` of the gradient per plane.
  SpectrumGradient(const Tensor& grad_input, const Tensor& input, int64_t window, int64_t stride,
                   const std::string& taper, const std::string& layout, int64_t channels)
      : dtype(check(grad_input, input, window, stride, taper, layout, channels)),
        scope(input),
        image(with_adjacent_pixels(input)),
        grad(with_aligned_start(grad_input)),
        windows(
            empty_cuda({grad.size(0) * grad.size(1) * grad.size(2), planes(layout), window, window},
                       wide() ? ScalarType::Double : ScalarType::Float, image)),
        image_grad(empty_cuda({image.size(0), 3, image.size(2), image.size(3)}, image.scalar_type(),
                              image)),
        target(image_grad.mutable_data_ptr()),
        window(int(window)),
        stride(int(stride)),
        hann(taper == "hann"),
        rgb(layout == "rgb") {}

  bool wide() const { return dtype == Dtype::kFloat64; }

  template <typename S>
  device::SpectrumJob<S> job() const {
    return device::make_spectrum_job<S>(spectrum_image(image, stride), window, stride, hann, rgb);
  }

  template <typename S>
  S* windows_data() const {
    return static_cast<S*>(windows.mutable_data_ptr());
  }

  Dtype dtype;  // of the gradient
  OnDeviceOf scope;
  Tensor image, grad, windows, image_grad;
  void* target;
  int window, stride;
  bool hann, rgb;

 private:
  static int64_t planes(const std::string& layout) { return layout == "rgb" ? 3 : 1; }

  static Dtype check(const Tensor& grad, const Tensor& image, int64_t window, int64_t stride,
                     const std::string& taper, const std::string& layout, int64_t channels) {
    FREQDIFF_CHECK_CUDA(image);
    check_windows(image, window, stride, taper, layout);
    FREQDIFF_CHECK(image.scalar_type() != ScalarType::Byte, "dtype of image", "uint8", "floating");
    FREQDIFF_CHECK_SAME_DEVICE(grad, image);
    FREQDIFF_CHECK_DIM(grad, 4, "(B, H/S, W/S, channels)");
    const auto shape = token_shape(image, stride, planes(layout) * channels);
    for (int axis = 0; axis < 4; ++axis) FREQDIFF_CHECK_SIZE(grad, axis, shape[axis]);
    return features_type(grad.scalar_type(), image, "dtype of grad");
  }
};

}  // namespace freqdiff
