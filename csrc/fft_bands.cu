// fft_bands on CUDA: arguments and result. The kernel is in fft_bands.cuh, the meaning in
// kernels/reference.py.

#include "check_cuda.h"
#include "fft_bands.cuh"
#include "spectrum_cuda.h"

namespace freqdiff {
namespace {

Tensor fft_bands(const Tensor& input, int64_t window, int64_t stride, const std::string& taper,
                 const std::string& layout, int64_t radial, int64_t angular, ScalarType type) {
  FREQDIFF_CHECK_CUDA(input);
  check_windows(input, window, stride, taper, layout);
  const Dtype dtype = features_type(type, input, "dtype");
  check_bands(radial, angular);
  const OnDeviceOf scope(input);
  const Tensor image = with_adjacent_pixels(input);
  const bool hann = taper == "hann", rgb = layout == "rgb";
  Tensor bands =
      empty_cuda(token_shape(image, stride, (rgb ? 3 : 1) * radial * angular), type, image);
  void* target = bands.mutable_data_ptr();
  const auto run = [&](auto number) {
    using S = decltype(number);
    const auto job = device::make_spectrum_job<S>(spectrum_image(image, stride), int(window),
                                                  int(stride), hann, rgb);
    return device::run_fft_bands<S>(int(window), job, target, dtype, int(radial), int(angular),
                                    scope.stream);
  };
  FREQDIFF_LAUNCHED(dtype == Dtype::kFloat64 ? run(double{}) : run(float{}));
  return bands;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(freqdiff, CUDA, library) {
  library.impl("fft_bands", TORCH_BOX(&fft_bands));
}

}  // namespace freqdiff
