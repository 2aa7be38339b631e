// fft_features_backward on CUDA: arguments and result. The kernels are in
// fft_features_backward.cuh, the meaning in kernels/gradients.py.

#include "fft_features_backward.cuh"
#include "spectrum_cuda.h"

namespace freqdiff {
namespace {

Tensor fft_features_backward(const Tensor& grad_input, const Tensor& input, int64_t window,
                             int64_t stride, const std::string& taper, const std::string& layout) {
  FREQDIFF_CHECK_CUDA(input);
  check_windows(input, window, stride, taper, layout);
  FREQDIFF_CHECK(input.scalar_type() != ScalarType::Byte, "dtype of image", "uint8", "floating");
  FREQDIFF_CHECK_SAME_DEVICE(grad_input, input);
  FREQDIFF_CHECK_DIM(grad_input, 4, "(B, H/S, W/S, channels)");
  const bool hann = taper == "hann", rgb = layout == "rgb";
  const int64_t planes = rgb ? 3 : 1;
  const auto shape = token_shape(input, stride, planes * 3 * window * window / 2);
  for (int axis = 0; axis < 4; ++axis) FREQDIFF_CHECK_SIZE(grad_input, axis, shape[axis]);
  const Dtype dtype = features_type(grad_input.scalar_type(), input, "dtype of grad");
  const OnDeviceOf scope(input);
  const Tensor image = with_adjacent_pixels(input), grad = with_aligned_start(grad_input);

  const bool wide = dtype == Dtype::kFloat64;
  const int64_t tokens = shape[0] * shape[1] * shape[2];
  Tensor windows = empty_cuda({tokens, planes, window, window},
                              wide ? ScalarType::Double : ScalarType::Float, image);
  Tensor image_grad =
      empty_cuda({image.size(0), 3, image.size(2), image.size(3)}, image.scalar_type(), image);
  void* target = image_grad.mutable_data_ptr();
  const auto run = [&](auto number) {
    using S = decltype(number);
    const auto job = device::make_spectrum_job<S>(spectrum_image(image, stride), int(window),
                                                  int(stride), hann, rgb);
    const device::FeatureGradient<S> from{grad.const_data_ptr(), dtype,
                                          S(device::noise_power(int(window))),
                                          static_cast<S*>(windows.mutable_data_ptr())};
    return device::run_fft_features_backward<S>(int(window), job, from, target, scope.stream);
  };
  FREQDIFF_LAUNCHED(wide ? run(double{}) : run(float{}));
  return image_grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(freqdiff, CUDA, library) {
  library.impl("fft_features_backward", TORCH_BOX(&fft_features_backward));
}

}  // namespace freqdiff
