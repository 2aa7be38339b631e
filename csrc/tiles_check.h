// Argument checks of extract_tiles and stitch_tiles.

#pragma once

#include "check.h"

namespace freqdiff {

using Integers = std::vector<int64_t>;

inline void check_cover(const char* axis, const Integers& starts, int64_t tile, int64_t size,
                        int64_t margin) {
  STD_TORCH_CHECK(!starts.empty() && starts.front() <= 0 && starts.back() + tile >= size,
                  "tiles along ", axis, " do not span the image, expected all of [0, ", size, ")");
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    const int64_t next = starts[i + 1], end = starts[i] + tile;
    STD_TORCH_CHECK(next > starts[i] && end - next >= 2 * margin, "tiles ", i, " and ", i + 1,
                    " along ", axis, " overlap by ", end - next, " pixels, expected at least ",
                    2 * margin);
    STD_TORCH_CHECK(i + 2 >= starts.size() || starts[i + 2] >= end, "tiles ", i, " and ", i + 2,
                    " along ", axis, " overlap, expected at most two tiles over a pixel");
  }
}

inline void check_pair(const char* name, const Integers& values) {
  STD_TORCH_CHECK(values.size() == 2 && values[0] > 0 && values[1] > 0, name, " holds ",
                  values.size(), " numbers, expected a positive height and width");
}

}  // namespace freqdiff
