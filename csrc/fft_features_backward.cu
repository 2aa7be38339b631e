// fft_features_backward on CUDA: arguments and result. The kernels are in
// fft_features_backward.cuh, the meaning in kernels/gradients.py.

#include "check_cuda.h"
#include "fft_features_backward.cuh"
#include "spectrum_cuda.h"

namespace freqdiff {
namespace {

Tensor fft_features_backward(const Tensor& grad_input, const Tensor& input, int64_t window,
                             int64_t stride, const std::string& taper, const std::string& layout) {
  const SpectrumGradient common(grad_input, input, window, stride, taper, layout,
                                3 * window * window / 2);
  const auto run = [&](auto number) {
    using S = decltype(number);
    const device::FeatureGradient<S> from{common.grad.const_data_ptr(), common.dtype,
                                          S(device::noise_power(int(window))),
                                          common.windows_data<S>()};
    return device::run_fft_features_backward<S>(int(window), common.job<S>(), from, common.target,
                                                common.scope.stream);
  };
  FREQDIFF_LAUNCHED(common.wide() ? run(double{}) : run(float{}));
  return common.image_grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(freqdiff, CUDA, library) {
  library.impl("fft_features_backward", TORCH_BOX(&fft_features_backward));
}

}  // namespace freqdiff
