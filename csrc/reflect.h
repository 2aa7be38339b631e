#pragma once

#include <cstdint>
#include <vector>

namespace freqdiff {

// Coordinates `count` pixels from `start` on, reflected into [0, size) without a repeated border as
// often as needed; an axis of one pixel always gives 0. Appends to `out`.
inline void append_reflected(int64_t start, int64_t count, int64_t size,
                             std::vector<int32_t>& out) {
  const int64_t period = size > 1 ? 2 * (size - 1) : 1;
  for (int64_t i = start; i < start + count; ++i) {
    const int64_t folded = ((i % period) + period) % period;
    out.push_back(int32_t(size > 1 && folded >= size ? period - folded : folded));
  }
}

}  // namespace freqdiff
