// Argument checks of the operations on windowed spectra.

#pragma once

#include "check.h"

namespace freqdiff {

inline void check_windows(const Tensor& image, int64_t window, int64_t stride,
                          const std::string& taper, const std::string& layout) {
  FREQDIFF_CHECK_DIM(image, 4, "(B, 3, H, W)");
  FREQDIFF_CHECK_SIZE(image, 1, 3);
  FREQDIFF_CHECK(image.scalar_type() != ScalarType::UInt16, "dtype of image", "uint16",
                 "floating or uint8");
  FREQDIFF_CHECK(window == 8 || window == 16 || window == 32 || window == 64, "window", window,
                 "8, 16, 32 or 64");
  FREQDIFF_CHECK(stride == window || 2 * stride == window, "stride", stride,
                 "the window or half of it");
  FREQDIFF_CHECK(taper == "hann" || taper == "none", "taper", taper, "hann or none");
  FREQDIFF_CHECK(layout == "luma" || layout == "rgb", "layout", layout, "luma or rgb");
  for (int axis : {2, 3}) {
    STD_TORCH_CHECK(image.size(axis) > 0 && image.size(axis) % stride == 0, "image has size ",
                    image.size(axis), " in dimension ", axis,
                    ", expected a positive multiple of the stride ", stride);
  }
}

// The dtype of features or their gradient. Values are computed in double for float64 images alone.
inline Dtype features_type(ScalarType type, const Tensor& image, const char* name) {
  const Dtype dtype = stored_type(type, name);
  STD_TORCH_CHECK(is_floating(dtype) &&
                      (dtype == Dtype::kFloat64) == (image.scalar_type() == ScalarType::Double),
                  name, " is ", torch::headeronly::toString(type),
                  ", expected a floating dtype, float64 exactly where the image is float64");
  return dtype;
}

}  // namespace freqdiff
