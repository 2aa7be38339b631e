// Which tiles make the pixels of one axis of a stitch.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace freqdiff {

// For tiles that pass check_cover (tiles_check.h).
inline std::vector<Segment> plan_segments(const std::vector<int64_t>& starts, int64_t tile,
                                          int64_t size, int64_t margin) {
  const auto clamp = [&](int64_t x) { return std::clamp<int64_t>(x, 0, size); };
  std::vector<Segment> segments;
  int64_t position = 0;
  for (size_t i = 0; i < starts.size(); ++i) {
    const bool last = i + 1 == starts.size();
    const int64_t next = last ? 0 : starts[i + 1], end = starts[i] + tile;
    const int64_t low = last ? size : clamp(next + margin);
    if (low > position) {
      segments.push_back({position, low, int64_t(i), position - starts[i], 0, 0, false});
    }
    if (last) break;
    const int64_t high = clamp(end - margin);
    if (high > low) {
      segments.push_back(
          {low, high, int64_t(i), low - starts[i], int64_t(i + 1), low - next, true});
    }
    position = high;
  }
  return segments;
}

}  // namespace freqdiff
