// Which powers the bands of fft_bands add up on the device, and where those lie in shared memory.

#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "window_spectrum.cuh"

namespace freqdiff {
namespace device {

// More bands take several launches.
constexpr int kLaunchBands = 256;

// Bands that a block sums up at a time, and the pitch of their levels in shared memory.
constexpr int kBlockBands = 32, kLevelPitch = kBlockBands + 4;

// Blocks that the registers have to leave room for on a multiprocessor. (H200, 3 x 2160 x 3840
// bytes to 32 bands of windows of 16: 32 us.)
template <int P, typename S>
constexpr int kBandBlocks = P > 16 || sizeof(S) != 4 ? 1 : 8;

// Shared memory of the windows of a warp: first for their transform, then for the powers of their
// entries, those of one entry side by side, and for the levels of their bands.
template <int P, typename S>
struct BandRegion {
  static constexpr int kWindows = 64 / P;
  static constexpr int kEntries = P * P / 2 + 1;  // numbered as in write_powers
  static constexpr int kEntryBytes = kWindows * int(sizeof(S));
  static constexpr int kLevels = (kEntries * kEntryBytes + 15) / 16 * 16;  // where they begin
  static constexpr int kSpectrumBytes = kWindows * (P / 2) * kSpectrumPitch<P> * 2 * int(sizeof(S));
  // The regions of adjacent warps begin in different banks.
  static constexpr int kBytes = kSpectrumBytes + 16;
  static_assert(kLevels + kWindows * kLevelPitch * int(sizeof(S)) <= kBytes);
};

// The entries of a band lie between `begin` and `end` in the list of all; their sum times `factor`
// is its power.
template <typename S>
struct alignas(2 * sizeof(S)) Band {
  uint16_t begin, end;
  S factor;
};

template <int P, typename S>
struct BandTable {
  static constexpr int kListBytes = (P * P / 2 + 2 * P) * int(sizeof(uint16_t));
  int32_t first, count, total;  // bands of this launch among all
  Band<S> bands[kLaunchBands];
  uint4 list[kListBytes / 16];  // where entries lie in the region of a warp, in bytes, 16 bits each
};

// The band of every entry; -1 for DC. Follows the operations of kernels/reference.py in double, so
// that entries on the border of two bands fall on the same side.
inline std::vector<int> bands_of_entries(int window, int radial, int angular) {
  constexpr double kPi = 3.14159265358979323846;
  std::vector<int> bands;
  for (int u = 0; u < window; ++u) {
    for (int v = 0; v <= window / 2; ++v) {
      const double fu = double(u < window / 2 ? u : u - window) / window, fv = double(v) / window;
      const int ring = std::min(radial - 1, int(std::floor(radial * std::hypot(fu, fv) / 0.5)));
      double angle = std::atan2(fu, fv);
      angle = angle < 0 ? angle + kPi : angle;
      angle = angle >= kPi ? 0 : angle;
      const int sector = std::min(angular - 1, int(std::floor(angular * angle / kPi)));
      bands.push_back(u == 0 && v == 0 ? -1 : ring * angular + sector);
    }
  }
  return bands;
}

// Calls body(band, entry, members) for what write_powers leaves: `entry` adds to `band` the power
// of so many entries of the full spectrum, that of one being half of the number written. Transposed
// are the spectra of windows whose rows were taken for columns.
template <int P, typename Body>
void for_each_power(const std::vector<int>& bands, bool transposed, Body&& body) {
  constexpr int kHalf = P / 2;
  const auto band = [&](int u, int v) {
    u &= P - 1, v &= P - 1;
    if (transposed) std::swap(u, v);
    // Beyond the half spectrum lies its mirror image.
    return v <= kHalf ? bands[u * (kHalf + 1) + v] : bands[(P - u) % P * (kHalf + 1) + P - v];
  };
  for (int row = 0; row < kHalf; ++row) {
    for (int k = 0; k < (row == 0 ? P + 1 : P); ++k) {
      const int entry = k * kHalf + row;
      if (row == 0 && k % kHalf == 0) {
        body(band(k == kHalf ? 0 : kHalf, k == 0 ? 0 : kHalf), entry, 1);
      } else if (row == 0 && k > kHalf) {
        body(band(kHalf, k), entry, 1);
        body(band(kHalf, -k), entry, 1);
      } else if (k % kHalf == 0) {
        body(band(row, k), entry, 1);
        body(band(-row, -k), entry, 1);
      } else {
        body(band(row, k), entry, 2);
      }
    }
  }
}

// `unit` is what the numbers of write_powers have to be multiplied with.
template <int P, typename S>
BandTable<P, S> band_table(const std::vector<int>& bands, bool transposed, double unit, int first,
                           int total) {
  BandTable<P, S> table{};
  table.first = first;
  table.count = std::min(kLaunchBands, total - first);
  table.total = total;
  int sizes[kLaunchBands] = {}, members[kLaunchBands] = {};
  for_each_power<P>(bands, transposed, [&](int band, int, int count) {
    if (band < first || band >= first + table.count) return;
    ++sizes[band - first];
    members[band - first] += count;
  });
  int next = 0;
  for (int band = 0; band < table.count; ++band) {
    const S factor = S(2 * unit / std::max(members[band], 1));
    table.bands[band] = {uint16_t(next), uint16_t(next), factor};
    next += sizes[band];
  }
  uint16_t list[BandTable<P, S>::kListBytes / sizeof(uint16_t)] = {};
  for_each_power<P>(bands, transposed, [&](int band, int entry, int) {
    if (band < first || band >= first + table.count) return;
    list[table.bands[band - first].end++] = uint16_t(entry * BandRegion<P, S>::kEntryBytes);
  });
  std::memcpy(table.list, list, sizeof(list));
  return table;
}

}  // namespace device
}  // namespace freqdiff
