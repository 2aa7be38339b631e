// fft_bands_backward on CUDA: arguments and result. The kernels are in fft_bands_backward.cuh, the
// meaning in kernels/gradients.py.

#include "check_cuda.h"
#include "fft_bands_backward.cuh"
#include "spectrum_cuda.h"

namespace freqdiff {
namespace {

Tensor fft_bands_backward(const Tensor& grad_input, const Tensor& input, int64_t window,
                          int64_t stride, const std::string& taper, const std::string& layout,
                          int64_t radial, int64_t angular) {
  check_bands(radial, angular);
  const int64_t bands = radial * angular;
  const SpectrumGradient common(grad_input, input, window, stride, taper, layout, bands);
  const auto run = [&](auto number) {
    using S = decltype(number);
    return device::run_fft_bands_backward<S>(
        int(window), common.job<S>(), common.grad.const_data_ptr(), common.dtype,
        common.windows_data<S>(), int(radial), int(angular), common.target, common.scope.stream);
  };
  FREQDIFF_LAUNCHED(common.wide() ? run(double{}) : run(float{}));
  return common.image_grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(freqdiff, CUDA, library) {
  library.impl("fft_bands_backward", TORCH_BOX(&fft_bands_backward));
}

}  // namespace freqdiff
