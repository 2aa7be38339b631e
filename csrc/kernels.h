// The CPU kernels as the operations see them: plain job descriptions without any torch type, and
// one table of functions per instruction set. kernels_*.cpp compile the same code for each set.

#pragma once

#include <cstdint>
#include <vector>

namespace freqdiff {

enum class Dtype { kUint8, kUint16, kBfloat16, kFloat16, kFloat32, kFloat64 };

struct Bfloat16 {
  uint16_t raw;
};
struct Float16 {
  uint16_t raw;
};

// Windowed spectra. Tokens are numbered over (batch, row, column); a group is `lanes` tokens.
struct FeatureJob {
  const void* image;  // (batch, 3, height, width), strides in elements, pixels adjacent
  Dtype dtype;
  int64_t stride_batch, stride_colour, stride_row;
  int64_t batch, height, width;
  int window, stride;
  bool rgb;
  std::vector<int32_t> rows, columns;  // padded coordinate -> image coordinate (reflection)
  std::vector<double> taper;           // one axis, window entries
  double floor;                        // squared noise floor of rho
  void* features;                      // forward: result; backward: its gradient (read only)
  Dtype features_dtype;
  bool stream;        // write past the caches
  void* window_grad;  // backward: (token, plane, window, window), float or double
  void* image_grad;   // backward: contiguous (batch, 3, height, width) of `dtype`

  int planes() const { return rgb ? 3 : 1; }
  int margin() const { return (window - stride) / 2; }
  int64_t token_rows() const { return height / stride; }
  int64_t token_columns() const { return width / stride; }
  int64_t tokens() const { return batch * token_rows() * token_columns(); }
};

// One axis of a stitch: pixels [begin, end) come from one tile, or from two that are blended.
struct Segment {
  int64_t begin, end;
  int64_t tile, offset;            // offset of pixel `begin` in its tile
  int64_t next_tile, next_offset;  // the tile that takes over
  bool blend;
};

// The most channels that a kernel takes at once; more go in blocks.
constexpr int kRunChannels = 16;

// How channels and columns of one row lie in memory, strides in elements.
struct PixelLayout {
  Dtype dtype;
  int64_t stride_channel, stride_column;

  // Whether the values of a row, with all channels of each pixel together, are one dense run.
  bool interleaved(int64_t channels) const {
    return channels > 1 && channels <= kRunChannels && stride_channel == 1 &&
           stride_column == channels;
  }
};

struct StitchJob {
  const void* tiles;
  PixelLayout tiles_layout;
  int64_t stride_tile, stride_row;
  int64_t channels, grid_columns;
  void* image;
  PixelLayout image_layout;
  int64_t image_stride_row;
  double scale, shift;
  std::vector<Segment> rows, columns;
  // Of the next tile, per pixel; those of the columns per value where the tiles are interleaved.
  std::vector<float> row_weights, column_weights;
  bool stream;
};

struct ExtractJob {
  const void* image;
  PixelLayout image_layout;
  int64_t stride_row;
  int64_t channels, tile_height, tile_width, grid_columns;
  void* tiles;
  PixelLayout tiles_layout;
  int64_t tiles_stride_tile, tiles_stride_row;
  double scale, shift;
  std::vector<int32_t> rows, columns;  // image coordinates, tile after tile
  bool stream;
};

// Functions take a range of work items, so that the caller can split the work over threads.
struct Kernels {
  const char* name;
  int lanes;
  void (*features_forward)(const FeatureJob&, int64_t, int64_t);   // over groups
  void (*features_backward)(const FeatureJob&, int64_t, int64_t);  // over groups
  void (*features_gather)(const FeatureJob&, int64_t, int64_t);    // over batch * height rows
  void (*stitch)(const StitchJob&, int64_t, int64_t);              // over image rows
  void (*extract)(const ExtractJob&, int64_t, int64_t);            // over tiles * tile_height rows
};

extern const Kernels generic_kernels;
extern const Kernels generic_double_kernels;  // float64, for gradient checks: generic only
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#endif

// The best set that the processor has, unless limited by `set_level`.
const Kernels& kernels(bool float64 = false);

// Names of the sets that this processor can run, slowest first.
std::vector<const char*> levels();

// Limits the dispatch to the named set; false if the processor cannot run it.
bool set_level(const char* name);

}  // namespace freqdiff
