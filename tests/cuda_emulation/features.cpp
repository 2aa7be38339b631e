// fft_features for the tests.

#include "spectrum_image.h"

#include "fft_features.cuh"

using namespace freqdiff;
using namespace freqdiff::device;

namespace {

template <typename S>
const char *features(const void *image, const int64_t *options, void *out) {
  const int window = int(options[10]);
  const FeatureTarget<S> target{out, Dtype(options[9]), S(noise_power(window))};
  return report(run_fft_features<S>(window, spectrum_job<S>(image, options), target, nullptr));
}

} // namespace

extern "C" {

const char *run_features(const void *image, const int64_t *options, void *out) {
  return Dtype(options[8]) == Dtype::kFloat64 ? features<double>(image, options, out)
                                              : features<float>(image, options, out);
}
}
