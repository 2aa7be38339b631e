// fft_features for the tests.

#include "entry.h"

#include "fft_features.cuh"

using namespace freqdiff;
using namespace freqdiff::device;

namespace {

// options: sizes and strides of the image, its dtype, that of the features, window, stride, whether
// hann, whether rgb.
SpectrumImage image_of(const void *data, const int64_t *options) {
  SpectrumImage image{data, Dtype(options[8]), {}, {}};
  for (int i = 0; i < 4; ++i) {
    image.sizes[i] = options[i];
    image.strides[i] = options[4 + i];
  }
  return image;
}

template <typename S> SpectrumJob<S> job_of(const void *image, const int64_t *options) {
  return make_spectrum_job<S>(image_of(image, options), int(options[10]), int(options[11]),
                              options[12] != 0, options[13] != 0);
}

template <typename S>
const char *features(const void *image, const int64_t *options, void *features) {
  const int window = int(options[10]);
  const FeatureTarget<S> target{features, Dtype(options[9]), S(noise_power(window))};
  return report(run_fft_features<S>(window, job_of<S>(image, options), target, nullptr));
}

} // namespace

extern "C" {

const char *run_features(const void *image, const int64_t *options, void *out) {
  return Dtype(options[8]) == Dtype::kFloat64 ? features<double>(image, options, out)
                                              : features<float>(image, options, out);
}
}
