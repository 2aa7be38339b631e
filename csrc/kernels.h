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

// What the square of a slot's real part and of its imaginary part add to the power of a band.
struct BandTerm {
  int32_t slot;
  double real, imag;
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
  std::vector<std::vector<BandTerm>> bands;  // instead of features: the terms of each band
  double band_floor;                         // power that every band adds

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

// Attention of blocks of the frame's grid, each to itself and `halo` pixels around.
struct AttentionJob {
  // (batch, height, width, heads, depth), strides in elements.
  struct Operand {
    const void* data;
    int64_t strides[5];
  };
  Dtype dtype;  // of q, k, v, grad, out and the gradients; sums and bias are float or double
  Operand q, k, v;
  int64_t batch, height, width, heads, depth;
  int window, halo;
  int64_t top, left;  // offset of pixel (0, 0) in its block
  double scale;
  // One row per query of a block, one column per key; null without bias.
  const void* bias;  // (heads, padded_queries, key_pitch)
  void* out;         // forward: contiguous
  void* lse;         // (batch, height, width, heads)

  Operand grad, forward_out;  // backward only, like the rest
  void* q_grad;               // contiguous, of `dtype`
  void *k_sum, *v_sum;        // contiguous, sums that start at 0
  void* bias_sum;             // (batch * block_rows, heads, span, span)
  int phase, phases;          // rows of blocks with this number modulo `phases`

  int keys_side() const { return window + 2 * halo; }
  int span() const { return 2 * (window + halo) - 1; }
  int64_t block_rows() const { return (top + height + window - 1) / window; }
  int64_t block_columns() const { return (left + width + window - 1) / window; }
  int64_t phase_rows() const { return (block_rows() - phase + phases - 1) / phases; }
  // Padded to whole vectors of `lanes` and whole rows of register tiles.
  int padded_queries(int lanes) const { return padded(window * window, lanes > 8 ? lanes : 8); }
  int padded_keys(int lanes) const {
    return padded(keys_side() * keys_side(), lanes > 8 ? lanes : 8);
  }
  int padded_depth(int lanes) const { return padded(int(depth), lanes); }
  // Rows of powers of two would collide in the cache.
  int key_pitch(int lanes) const { return padded_keys(lanes) + lanes; }
  static int padded(int count, int unit) { return (count + unit - 1) / unit * unit; }
};

// x' = kx x + k0 x0 with x0 = cx x + cf f + cy y. All tensors lie alike, image after image.
struct StepJob {
  const void *x, *f, *y;  // y may be null
  Dtype x_dtype, f_dtype, y_dtype;
  void* result;  // of x_dtype
  int64_t image_size;
  std::vector<double> coefficients;  // cx, cf, cy, kx, k0 of each image
  bool clamp;                        // x0 to [-1, 1]
  bool stream;
};

// Motion paths to kernels. All tensors are contiguous, of float or double.
struct RasterJob {
  const void* displacements;  // (paths, points, 2)
  const void* weights;        // (paths, points)
  void* kernels;              // (paths, 2 radius + 1, 2 radius + 1)
  int64_t points, radius;
};

// One axis of a tile of filter_grid: pixels [begin, end) between two nodes, the first of which lies
// at `origin`. The nodes are the same where one serves the whole axis.
struct FilterSpan {
  int64_t begin, end;
  int64_t node, next;
  int64_t origin;

  // How far the centre of pixel `begin + offset` lies from the first node towards the next one.
  template <typename S>
  S share(int64_t offset, int64_t step) const {
    return (S(begin + offset - origin) + S(0.5)) / S(step);
  }
};

// A convolution whose kernel is interpolated between the nodes of a grid. Everything is of float or
// double, strides are in elements, pixels are adjacent.
struct FilterJob {
  const void* image;  // (batch, channels, height + side - 1, width + side - 1)
  int64_t stride_batch, stride_channel, stride_row;
  int64_t batch, channels, height, width;
  const void* kernels;     // (batch, rows, node_columns, side, side), contiguous
  int64_t stride_kernels;  // of the batch, 0 where all images share them
  int64_t node_columns, side, step;
  std::vector<FilterSpan> rows, columns;  // the tiles
  int64_t tile_height, tile_width;        // of the largest
  void* result;                           // (batch, channels, height, width), contiguous
  bool stream;
};

// Functions take a range of work items, so that the caller can split the work over threads.
struct Kernels {
  const char* name;
  int lanes;
  void (*features_forward)(const FeatureJob&, int64_t, int64_t);   // over groups
  void (*features_backward)(const FeatureJob&, int64_t, int64_t);  // over groups
  void (*features_gather)(const FeatureJob&, int64_t, int64_t);    // over batch * height rows
  void (*bands_forward)(const FeatureJob&, int64_t, int64_t);      // over groups
  void (*stitch)(const StitchJob&, int64_t, int64_t);              // over image rows
  void (*extract)(const ExtractJob&, int64_t, int64_t);            // over tiles * tile_height rows
  void (*attention_forward)(const AttentionJob&, int64_t, int64_t);   // over blocks * heads
  void (*attention_backward)(const AttentionJob&, int64_t, int64_t);  // batch * phase_rows * heads
  void (*step)(const StepJob&, int64_t, int64_t);                     // over values
  void (*raster)(const RasterJob&, int64_t, int64_t);                 // over paths
  void (*filter)(const FilterJob&, int64_t, int64_t);                 // over batch * tiles
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
