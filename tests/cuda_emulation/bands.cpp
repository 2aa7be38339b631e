// fft_bands for the tests.

#include "spectrum_image.h"

#include "fft_bands.cuh"

using namespace freqdiff;
using namespace freqdiff::device;

namespace {

template <typename S>
const char *bands(const void *image, const int64_t *options, int64_t radial, int64_t angular,
                  void *out) {
  return report(run_fft_bands<S>(int(options[10]), spectrum_job<S>(image, options), out,
                                 Dtype(options[9]), int(radial), int(angular), nullptr));
}

} // namespace

extern "C" {

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
}
