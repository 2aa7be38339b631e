// fft_features_backward for the tests.

#include "spectrum_image.h"

#include "fft_features_backward.cuh"

using namespace freqdiff;
using namespace freqdiff::device;

namespace {

template <typename S>
const char *backward(const void *grad, const void *image, const int64_t *options, void *windows,
                     void *out) {
  const int window = int(options[10]);
  const FeatureGradient<S> from{grad, Dtype(options[9]), S(noise_power(window)),
                                static_cast<S *>(windows)};
  return report(run_fft_features_backward<S>(window, spectrum_job<S>(image, options), from, out,
                                             nullptr));
}

} // namespace

extern "C" {

const char *run_backward(const void *grad, const void *image, const int64_t *options,
                         void *windows, void *out) {
  return Dtype(options[8]) == Dtype::kFloat64
             ? backward<double>(grad, image, options, windows, out)
             : backward<float>(grad, image, options, windows, out);
}
}
