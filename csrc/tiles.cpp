// extract_tiles and stitch_tiles on the CPU: arguments, plans and threads. The kernels are in
// tiles_cpu.h, the meaning in kernels/reference.py.

#include <algorithm>
#include <cmath>

#include "parallel.h"
#include "reflect.h"
#include "tiles_check.h"
#include "tiles_plan.h"

namespace freqdiff {
namespace {

constexpr double kPi = 3.14159265358979323846;
// Pixels that are worth another thread.
constexpr int64_t kGrainPixels = 1 << 15;

struct AxisPlan {
  std::vector<Segment> segments;
  std::vector<float> weights;
};

AxisPlan plan_axis(const char* axis, const Integers& starts, int64_t tile, int64_t size,
                   int64_t margin) {
  check_cover(axis, starts, tile, size, margin);
  AxisPlan plan{plan_segments(starts, tile, size, margin), std::vector<float>(size_t(size), 0.0f)};
  for (const Segment& part : plan.segments) {
    if (!part.blend) continue;
    const int64_t band = tile - (part.offset - part.next_offset) - 2 * margin;
    for (int64_t x = part.begin; x < part.end; ++x) {
      const double k = double(part.next_offset + x - part.begin - margin);
      plan.weights[x] = float(0.5 - 0.5 * std::cos(kPi * (k + 0.5) / double(band)));
    }
  }
  return plan;
}

Tensor extract_tiles(const Tensor& image, Integers tile, Integers ys, Integers xs, ScalarType type,
                     double scale, double shift) {
  FREQDIFF_CHECK_CPU(image);
  FREQDIFF_CHECK_DIM(image, 3, "(C, H, W)");
  check_pair("tile", tile);
  STD_TORCH_CHECK(image.size(1) > 0 && image.size(2) > 0, "image has no pixels, expected some");
  const int64_t channels = image.size(0), count = int64_t(ys.size() * xs.size());
  const int64_t height = tile[0], width = tile[1];
  const int64_t step = std::max<int64_t>(channels, 1);
  Tensor tiles = empty_cpu({count, channels, height, width},
                           {height * width * step, 1, width * step, step}, type);

  ExtractJob job{};
  job.image = image.const_data_ptr();
  job.image_layout = {stored_type(image.scalar_type(), "image"), image.stride(0), image.stride(2)};
  job.stride_row = image.stride(1);
  job.channels = channels;
  job.tile_height = height;
  job.tile_width = width;
  job.grid_columns = int64_t(xs.size());
  job.tiles = tiles.mutable_data_ptr();
  job.tiles_layout = {stored_type(type, "dtype"), 1, channels};
  job.tiles_stride_tile = height * width * channels;
  job.tiles_stride_row = width * channels;
  job.scale = scale;
  job.shift = shift;
  for (int64_t y : ys) append_reflected(y, height, image.size(1), job.rows);
  for (int64_t x : xs) append_reflected(x, width, image.size(2), job.columns);
  job.stream = should_stream(tiles.numel() * int64_t(tiles.element_size()));

  const Kernels& set = kernels(job.image_layout.dtype == Dtype::kFloat64);
  const int64_t grain = std::max<int64_t>(1, kGrainPixels / width);
  parallel_pieces(count * height, grain,
                  [&](int64_t begin, int64_t end) { set.extract(job, begin, end); });
  return tiles;
}

Tensor stitch_tiles(const Tensor& tiles, Integers ys, Integers xs, Integers size, int64_t margin,
                    ScalarType type, double scale, double shift, bool channels_last) {
  FREQDIFF_CHECK_CPU(tiles);
  FREQDIFF_CHECK_DIM(tiles, 4, "(N, C, th, tw)");
  FREQDIFF_CHECK_SIZE(tiles, 0, int64_t(ys.size() * xs.size()));
  check_pair("size", size);
  FREQDIFF_CHECK(margin >= 0, "margin", margin, "at least 0");
  const int64_t channels = tiles.size(1), height = size[0], width = size[1];
  const int64_t step = std::max<int64_t>(channels, 1);
  const Integers strides =
      channels_last ? Integers{1, width * step, step} : Integers{height * width, width, 1};
  Tensor image = empty_cpu({channels, height, width}, strides, type);

  AxisPlan rows = plan_axis("y", ys, tiles.size(2), height, margin);
  AxisPlan columns = plan_axis("x", xs, tiles.size(3), width, margin);
  StitchJob job{};
  job.tiles = tiles.const_data_ptr();
  job.tiles_layout = {stored_type(tiles.scalar_type(), "tiles"), tiles.stride(1), tiles.stride(3)};
  job.stride_tile = tiles.stride(0);
  job.stride_row = tiles.stride(2);
  job.channels = channels;
  job.grid_columns = int64_t(xs.size());
  job.image = image.mutable_data_ptr();
  job.image_layout = {stored_type(type, "dtype"), strides[0], strides[2]};
  job.image_stride_row = strides[1];
  job.scale = scale;
  job.shift = shift;
  job.rows = std::move(rows.segments);
  job.row_weights = std::move(rows.weights);
  job.columns = std::move(columns.segments);
  const int64_t repeats = job.tiles_layout.interleaved(channels) ? channels : 1;
  for (float weight : columns.weights) {
    job.column_weights.insert(job.column_weights.end(), repeats, weight);
  }
  job.stream = should_stream(image.numel() * int64_t(image.element_size()));

  const Kernels& set = kernels(job.tiles_layout.dtype == Dtype::kFloat64);
  const int64_t grain = std::max<int64_t>(1, kGrainPixels / width);
  parallel_pieces(height, grain, [&](int64_t begin, int64_t end) { set.stitch(job, begin, end); });
  return image;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(freqdiff, CPU, library) {
  library.impl("extract_tiles", TORCH_BOX(&extract_tiles));
  library.impl("stitch_tiles", TORCH_BOX(&stitch_tiles));
}

}  // namespace freqdiff
