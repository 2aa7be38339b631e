// extract_tiles and stitch_tiles on the device. A thread owns one column of the result, or four
// side by side, and walks down its rows, so that where a column comes from is found once;
// neighbouring threads write neighbouring values. The meaning is in kernels/reference.py.

#pragma once

#include <algorithm>
#include <vector>

#include "kernels.h"
#include "stored.cuh"

namespace freqdiff {

constexpr int kTileThreads = 256;
// Rows whose loads are under way at the same time, for the latency of memory; not timed. Fewer of
// several columns each, for their registers.
template <int kColumns>
constexpr int kTileBatch = kColumns == 1 ? 8 : 4;
// Columns of a thread where memory is laid out for it; not timed.
constexpr int kWideColumns = 4;
// What fits in the parameters of a kernel (4 KiB); more takes several launches.
constexpr int kTileSegments = 96, kTileStarts = 128;

struct Placement {
  void* data;
  Dtype dtype;
  int64_t stride_tile, stride_channel, stride_row, stride_column;  // in elements
};

// Values side by side, read and written at once.
template <typename T, int kColumns>
struct alignas(sizeof(T) * kColumns) TilePack {
  T values[kColumns];
};

// Values of some columns in kTileBatch rows at `offset` elements from the starts of the rows.
template <typename S, int kColumns>
__device__ __forceinline__ void read_rows(const Placement& from, const int64_t* rows,
                                          int64_t offset,
                                          S (&values)[kTileBatch<kColumns>][kColumns]) {
  with_type_of<S>(from.dtype, [&](auto type) {
    using Pack = TilePack<decltype(type), kColumns>;
    const auto* source = as<decltype(type)>(static_cast<const void*>(from.data)) + offset;
    Pack stored[kTileBatch<kColumns>];
#pragma unroll
    for (int i = 0; i < kTileBatch<kColumns>; ++i) {
      stored[i] = *reinterpret_cast<const Pack*>(source + rows[i]);
    }
#pragma unroll
    for (int i = 0; i < kTileBatch<kColumns>; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) values[i][j] = widen(stored[i].values[j]);
    }
  });
}

template <typename S, int kColumns>
__device__ __forceinline__ void write_rows(const Placement& to, int64_t offset, int count, S scale,
                                           S shift,
                                           const S (&values)[kTileBatch<kColumns>][kColumns]) {
  with_stored_type(to.dtype, [&](auto type) {
    using T = decltype(type);
    using Pack = TilePack<T, kColumns>;
    T* target = as<T>(to.data) + offset;
#pragma unroll
    for (int i = 0; i < kTileBatch<kColumns>; ++i) {
      Pack pack;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) pack.values[j] = narrow<T>(values[i][j] * scale + shift);
      if (i < count) *reinterpret_cast<Pack*>(target + i * to.stride_row) = pack;
    }
  });
}

// Extract.

struct ExtractLaunch {
  Placement image, tiles;  // tiles are channels last
  int64_t height, width;   // of the image
  int32_t channels, tile_height, tile_width;
  int32_t grid_columns, first_row, first_column;  // tiles of this launch in the grid of all tiles
  int32_t column_count;                           // tiles side by side in this launch
  int32_t row_blocks, column_blocks;              // blocks per tile
  double scale, shift;
  int32_t ys[kTileStarts], xs[kTileStarts];
};

constexpr int kExtractRows = 32;

// Reflects a coordinate into [0, size) as often as needed, without repeating the border.
__device__ __forceinline__ int64_t folded(int64_t i, int64_t size) {
  if (i >= 0 && i < size) return i;
  if (size == 1) return 0;
  const int64_t period = 2 * (size - 1);
  i %= period;
  i = i < 0 ? i + period : i;
  return i < size ? i : period - i;
}

template <typename S>
__global__ void __launch_bounds__(kTileThreads) extract_tiles_kernel(ExtractLaunch job) {
  int64_t* rows = dynamic_shared<int64_t>();
  const int column_block = blockIdx.x % job.column_blocks;
  const int row_block = blockIdx.x / job.column_blocks % job.row_blocks;
  const int tile = blockIdx.x / job.column_blocks / job.row_blocks;
  const int grid_row = tile / job.column_count, grid_column = tile % job.column_count;
  const int first = row_block * kExtractRows;
  if (threadIdx.x < kExtractRows) {
    // Rows below the tile repeat its last one; they are read but not written.
    const int row = min(first + int(threadIdx.x), job.tile_height - 1);
    rows[threadIdx.x] = folded(int64_t(job.ys[grid_row]) + row, job.height) * job.image.stride_row;
  }
  __syncthreads();
  const int value = column_block * kTileThreads + int(threadIdx.x);
  if (value >= job.tile_width * job.channels) return;
  const int column = value / job.channels, channel = value % job.channels;
  const int64_t source =
      folded(int64_t(job.xs[grid_column]) + column, job.width) * job.image.stride_column +
      channel * job.image.stride_channel;
  const int64_t number =
      int64_t(job.first_row + grid_row) * job.grid_columns + job.first_column + grid_column;
  const int64_t target = number * job.tiles.stride_tile + value;
  for (int row = 0; row < kExtractRows && first + row < job.tile_height; row += kTileBatch<1>) {
    S values[kTileBatch<1>][1];
    read_rows<S, 1>(job.image, rows + row, source, values);
    write_rows<S, 1>(job.tiles, target + int64_t(first + row) * job.tiles.stride_row,
                     job.tile_height - first - row, S(job.scale), S(job.shift), values);
  }
}

static_assert(sizeof(ExtractLaunch) <= 4096, "the parameters of a kernel");

inline cudaError_t run_extract_tiles(ExtractLaunch job, const std::vector<int64_t>& ys,
                                     const std::vector<int64_t>& xs, cudaStream_t stream) {
  if (job.channels == 0) return cudaSuccess;
  job.grid_columns = int32_t(xs.size());
  job.row_blocks = (job.tile_height + kExtractRows - 1) / kExtractRows;
  job.column_blocks = (job.tile_width * job.channels + kTileThreads - 1) / kTileThreads;
  auto* kernel = job.image.dtype == Dtype::kFloat64 ? &extract_tiles_kernel<double>
                                                    : &extract_tiles_kernel<float>;
  for (size_t top = 0; top < ys.size(); top += kTileStarts) {
    const size_t row_count = std::min<size_t>(kTileStarts, ys.size() - top);
    std::copy_n(ys.begin() + int64_t(top), row_count, job.ys);
    for (size_t left = 0; left < xs.size(); left += kTileStarts) {
      const size_t column_count = std::min<size_t>(kTileStarts, xs.size() - left);
      std::copy_n(xs.begin() + int64_t(left), column_count, job.xs);
      job.first_row = int32_t(top);
      job.first_column = int32_t(left);
      job.column_count = int32_t(column_count);
      const unsigned blocks = unsigned(row_count * column_count) * unsigned(job.row_blocks) *
                              unsigned(job.column_blocks);
      const cudaError_t error =
          launch(kernel, blocks, kTileThreads, kExtractRows * sizeof(int64_t), stream, job);
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

// Stitch.

// Segment of kernels.h in what a kernel can take many of; `next_offset` is -1 for one tile alone.
struct TileSegment {
  int32_t begin, tile, offset, next_offset;
};

struct StitchAxis {
  int32_t begin, end;  // pixels of this launch
  int32_t count, tile_size, margin;
  TileSegment segments[kTileSegments];
};

struct StitchLaunch {
  Placement tiles, image;
  int32_t channels, grid_columns, column_blocks;
  double scale, shift;
  StitchAxis rows, columns;
};

static_assert(sizeof(StitchLaunch) <= 4096, "the parameters of a kernel");

// Where a pixel of one axis comes from: first + weight (second - first).
struct PixelSource {
  int32_t tile, offset, next_offset;
  int32_t step, band;  // of the weight; no second where the band is 0

  __device__ __forceinline__ float weight(int ahead = 0) const;
};

__device__ __forceinline__ double cosine_of_pi(double x) {
#ifdef __CUDACC__
  return cospi(x);
#else
  return cos(3.14159265358979323846 * x);
#endif
}

__device__ __forceinline__ float PixelSource::weight(int ahead) const {
  return band == 0 ? 0.0f : float(0.5 - 0.5 * cosine_of_pi((step + ahead + 0.5) / band));
}

__device__ inline PixelSource find_source(const StitchAxis& axis, int position) {
  int low = 0, high = axis.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (axis.segments[middle].begin <= position) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const TileSegment segment = axis.segments[low];
  const int inside = position - segment.begin;
  if (segment.next_offset < 0) return {segment.tile, segment.offset + inside, 0, 0, 0};
  const int band = axis.tile_size - (segment.offset - segment.next_offset) - 2 * axis.margin;
  const int k = segment.next_offset + inside - axis.margin;
  return {segment.tile, segment.offset + inside, segment.next_offset + inside, k, band};
}

constexpr int kStitchRows = 16;

struct StitchRows {
  int64_t first[kStitchRows], second[kStitchRows];
  float weights[kStitchRows];
};

// The pixels of kTileBatch rows of one row of tiles.
template <typename S, int kColumns>
__device__ __forceinline__ void blend_along_x(const StitchLaunch& job, const int64_t* rows,
                                              int64_t first, int64_t second, bool blended,
                                              const S (&weights)[kColumns],
                                              S (&values)[kTileBatch<kColumns>][kColumns]) {
  read_rows<S, kColumns>(job.tiles, rows, first, values);
  if (blended) {
    S others[kTileBatch<kColumns>][kColumns];
    read_rows<S, kColumns>(job.tiles, rows, second, others);
#pragma unroll
    for (int i = 0; i < kTileBatch<kColumns>; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        values[i][j] += weights[j] * (others[i][j] - values[i][j]);
      }
    }
  }
}

// Columns of the result are values of interleaved pixels, or pixels whose channels come in turn;
// those of a thread come from the same tiles.
template <typename S, bool kInterleaved, int kColumns = 1>
__global__ void __launch_bounds__(kTileThreads) stitch_tiles_kernel(StitchLaunch job) {
  StitchRows& rows = *dynamic_shared<StitchRows>();
  const int top = job.rows.begin + int(blockIdx.x / job.column_blocks) * kStitchRows;
  const int height = min(kStitchRows, job.rows.end - top);
  if (threadIdx.x < kStitchRows) {
    // Rows below the last one repeat it; they are read but not written.
    const PixelSource source = find_source(job.rows, top + min(int(threadIdx.x), height - 1));
    const int64_t tile = int64_t(source.tile) * job.grid_columns * job.tiles.stride_tile;
    rows.first[threadIdx.x] = tile + source.offset * job.tiles.stride_row;
    rows.second[threadIdx.x] = source.band == 0 ? rows.first[threadIdx.x]
                                                : tile + job.grid_columns * job.tiles.stride_tile +
                                                      source.next_offset * job.tiles.stride_row;
    rows.weights[threadIdx.x] = source.weight();
  }
  __syncthreads();

  const int repeats = kInterleaved ? job.channels : 1;
  const int value = int(blockIdx.x % job.column_blocks) * kTileThreads + int(threadIdx.x);
  const int x = job.columns.begin + value / repeats * kColumns;
  if (x >= job.columns.end) return;
  const PixelSource column = find_source(job.columns, x);
  S weights[kColumns];
#pragma unroll
  for (int j = 0; j < kColumns; ++j) weights[j] = S(column.weight(j));
  int64_t first = column.tile * job.tiles.stride_tile + column.offset * job.tiles.stride_column;
  int64_t second =
      (column.tile + 1) * job.tiles.stride_tile + column.next_offset * job.tiles.stride_column;
  int64_t target = x * job.image.stride_column;
  int channel = kInterleaved ? value % repeats : 0;
  const int last_channel = kInterleaved ? channel : job.channels - 1;
  first += channel * job.tiles.stride_channel;
  second += channel * job.tiles.stride_channel;
  target += channel * job.image.stride_channel;
  for (; channel <= last_channel; ++channel) {
#pragma unroll 1
    for (int row = 0; row < height; row += kTileBatch<kColumns>) {
      S values[kTileBatch<kColumns>][kColumns];
      blend_along_x<S, kColumns>(job, rows.first + row, first, second, column.band != 0, weights,
                                 values);
      bool blended = false;
#pragma unroll
      for (int i = 0; i < kTileBatch<kColumns>; ++i) blended |= rows.weights[row + i] != 0.0f;
      if (blended) {
        S lower[kTileBatch<kColumns>][kColumns];
        blend_along_x<S, kColumns>(job, rows.second + row, first, second, column.band != 0, weights,
                                   lower);
#pragma unroll
        for (int i = 0; i < kTileBatch<kColumns>; ++i) {
          // Without the choice an infinity would become NaN in the rows that are not blended.
          const S weight = S(rows.weights[row + i]);
#pragma unroll
          for (int j = 0; j < kColumns; ++j) {
            const S value = values[i][j];
            values[i][j] = weight == S(0) ? value : value + weight * (lower[i][j] - value);
          }
        }
      }
      write_rows<S, kColumns>(job.image, target + (top + row) * job.image.stride_row, height - row,
                              S(job.scale), S(job.shift), values);
    }
    first += job.tiles.stride_channel;
    second += job.tiles.stride_channel;
    target += job.image.stride_channel;
  }
}

// Segments from number `first` on, as many as fit; returns the number of the next.
inline size_t fill_axis(const std::vector<Segment>& segments, size_t first, StitchAxis& axis) {
  const size_t last = std::min(first + kTileSegments, segments.size());
  axis.begin = int32_t(segments[first].begin);
  axis.end = int32_t(segments[last - 1].end);
  axis.count = int32_t(last - first);
  for (size_t i = first; i < last; ++i) {
    const Segment& segment = segments[i];
    axis.segments[i - first] = {int32_t(segment.begin), int32_t(segment.tile),
                                int32_t(segment.offset),
                                segment.blend ? int32_t(segment.next_offset) : -1};
  }
  return last;
}

// Whether rows of one kind of storage can be read or written several columns at a time.
inline bool is_wide(const Placement& at) {
  const int64_t strides = at.stride_tile | at.stride_channel | at.stride_row;
  const auto address = reinterpret_cast<uintptr_t>(at.data);
  return at.stride_column == 1 && strides % kWideColumns == 0 &&
         address % uintptr_t(kWideColumns * bytes_of(at.dtype)) == 0;
}

// Whether all groups of columns begin at whole groups in each tile that they come from.
inline bool is_wide(const std::vector<Segment>& columns) {
  int64_t places = 0;
  for (const Segment& segment : columns) {
    places |= segment.begin | segment.end | segment.offset;
    if (segment.blend) places |= segment.next_offset;
  }
  return places % kWideColumns == 0;
}

inline cudaError_t run_stitch_tiles(StitchLaunch job, const std::vector<Segment>& rows,
                                    const std::vector<Segment>& columns, cudaStream_t stream) {
  if (job.channels == 0) return cudaSuccess;
  const bool both_float = job.tiles.dtype != Dtype::kFloat64 && job.image.dtype != Dtype::kFloat64;
  const bool interleaved = job.channels > 1 && job.image.stride_channel == 1;
  const bool wide =
      both_float && !interleaved && is_wide(job.tiles) && is_wide(job.image) && is_wide(columns);
  const bool exact = job.tiles.dtype == Dtype::kFloat64;
  auto* kernel =
      interleaved ? (exact ? &stitch_tiles_kernel<double, true> : &stitch_tiles_kernel<float, true>)
      : wide      ? &stitch_tiles_kernel<float, false, kWideColumns>
      : exact     ? &stitch_tiles_kernel<double, false>
                  : &stitch_tiles_kernel<float, false>;
  for (size_t top = 0; top < rows.size();) {
    top = fill_axis(rows, top, job.rows);
    for (size_t left = 0; left < columns.size();) {
      left = fill_axis(columns, left, job.columns);
      const int64_t values = int64_t(job.columns.end - job.columns.begin) *
                             (interleaved ? job.channels : 1) / (wide ? kWideColumns : 1);
      job.column_blocks = int32_t((values + kTileThreads - 1) / kTileThreads);
      const int row_blocks = (job.rows.end - job.rows.begin + kStitchRows - 1) / kStitchRows;
      const cudaError_t error = launch(kernel, unsigned(row_blocks) * unsigned(job.column_blocks),
                                       kTileThreads, sizeof(StitchRows), stream, job);
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

}  // namespace freqdiff
