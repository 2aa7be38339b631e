// fft_features on CUDA: arguments and result. The kernel is in fft_features.cuh, the meaning in
// kernels/reference.py.

#include "check_cuda.h"
#include "fft_features.cuh"
#include "spectrum_cuda.h"

namespace freqdiff {
namespace {

Tensor fft_features(const Tensor& input, int64_t window, int64_t stride, const std::string& taper,
                    const std::string& layout, ScalarType type) {
  FREQDIFF_CHECK_CUDA(input);
  check_windows(input, window, stride, taper, layout);
  const Dtype dtype = features_type(type, input, "dtype");
  const OnDeviceOf scope(input);
  const Tensor image = with_adjacent_pixels(input);
  const bool hann = taper == "hann", rgb = layout == "rgb";
  const int64_t channels = (rgb ? 3 : 1) * 3 * window * window / 2;
  Tensor features = empty_cuda(token_shape(image, stride, channels), type, image);
  void* target = features.mutable_data_ptr();
  const double floor = device::noise_power(int(window));
  const auto run = [&](auto number) {
    using S = decltype(number);
    const auto job = device::make_spectrum_job<S>(spectrum_image(image, stride), int(window),
                                                  int(stride), hann, rgb);
    return device::run_fft_features<S>(int(window), job, {target, dtype, S(floor)}, scope.stream);
  };
  FREQDIFF_LAUNCHED(dtype == Dtype::kFloat64 ? run(double{}) : run(float{}));
  return features;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(freqdiff, CUDA, library) {
  library.impl("fft_features", TORCH_BOX(&fft_features));
}

}  // namespace freqdiff
