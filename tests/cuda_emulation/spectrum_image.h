// The windows of an image as the tests describe them.

#pragma once

#include "entry.h"

#include "window_spectrum.cuh"

// options: sizes and strides of the image, its dtype, that of the features,
// window, stride, whether hann, whether rgb.
template <typename S>
freqdiff::device::SpectrumJob<S> spectrum_job(const void *data, const int64_t *options) {
  freqdiff::device::SpectrumImage image{data, freqdiff::Dtype(options[8]), {}, {}};
  for (int i = 0; i < 4; ++i) {
    image.sizes[i] = options[i];
    image.strides[i] = options[4 + i];
  }
  return freqdiff::device::make_spectrum_job<S>(image, int(options[10]), int(options[11]),
                                                options[12] != 0, options[13] != 0);
}
