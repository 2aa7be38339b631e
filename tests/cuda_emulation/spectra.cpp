// The operations on windowed spectra for the tests. One file, so that what they share is compiled
// once.

#include "entry.h"

#include "fft_bands_backward.cuh"

using namespace freqdiff;
using namespace freqdiff::device;

namespace {

// options: sizes and strides of the image, its dtype, that of the features,
// window, stride, whether hann, whether rgb.
template <typename S>
SpectrumJob<S> spectrum_job(const void *data, const int64_t *options) {
  SpectrumImage image{data, Dtype(options[8]), {}, {}};
  for (int i = 0; i < 4; ++i) {
    image.sizes[i] = options[i];
    image.strides[i] = options[4 + i];
  }
  return make_spectrum_job<S>(image, int(options[10]), int(options[11]),
                                                options[12] != 0, options[13] != 0);
}

template <typename S>
const char *features(const void *image, const int64_t *options, void *out) {
  const int window = int(options[10]);
  const FeatureTarget<S> target{out, Dtype(options[9]), S(noise_power(window))};
  return report(run_fft_features<S>(window, spectrum_job<S>(image, options), target, nullptr));
}

template <typename S>
const char *bands(const void *image, const int64_t *options, int64_t radial, int64_t angular,
                  void *out) {
  return report(run_fft_bands<S>(int(options[10]), spectrum_job<S>(image, options), out,
                                 Dtype(options[9]), int(radial), int(angular), nullptr));
}

template <typename S>
const char *backward(const void *grad, const void *image, const int64_t *options, void *windows,
                     void *out) {
  const int window = int(options[10]);
  const FeatureGradient<S> from{grad, Dtype(options[9]), S(noise_power(window)),
                                static_cast<S *>(windows)};
  return report(run_fft_features_backward<S>(window, spectrum_job<S>(image, options), from, out,
                                             nullptr));
}

template <typename S>
const char *bands_backward(const void *grad, const void *image, const int64_t *options,
                           int64_t radial, int64_t angular, void *windows, void *out) {
  return report(run_fft_bands_backward<S>(int(options[10]), spectrum_job<S>(image, options), grad,
                                          Dtype(options[9]), static_cast<S *>(windows),
                                          int(radial), int(angular), out, nullptr));
}

} // namespace

extern "C" {

const char *run_features(const void *image, const int64_t *options, void *out) {
  return Dtype(options[8]) == Dtype::kFloat64 ? features<double>(image, options, out)
                                              : features<float>(image, options, out);
}

const char *run_bands(const void *image, const int64_t *options, int64_t radial, int64_t angular,
                      void *out) {
  return Dtype(options[8]) == Dtype::kFloat64
             ? bands<double>(image, options, radial, angular, out)
             : bands<float>(image, options, radial, angular, out);
}

// The band of every entry of the half spectrum, -1 for DC.
const char *run_table(int64_t window, int64_t radial, int64_t angular, int64_t *out) {
  for (int band : bands_of_entries(int(window), int(radial), int(angular)))
    *out++ = band;
  return nullptr;
}

const char *run_backward(const void *grad, const void *image, const int64_t *options,
                         void *windows, void *out) {
  return Dtype(options[8]) == Dtype::kFloat64
             ? backward<double>(grad, image, options, windows, out)
             : backward<float>(grad, image, options, windows, out);
}

const char *run_bands_backward(const void *grad, const void *image, const int64_t *options,
                               int64_t radial, int64_t angular, void *windows, void *out) {
  return Dtype(options[8]) == Dtype::kFloat64
             ? bands_backward<double>(grad, image, options, radial, angular, windows, out)
             : bands_backward<float>(grad, image, options, radial, angular, windows, out);
}
}
