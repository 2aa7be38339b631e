// extract_tiles and stitch_tiles on CUDA: arguments and results. The kernels are in tiles.cuh, the
// meaning in kernels/reference.py.

#include "check_cuda.h"
#include "tiles.cuh"
#include "tiles_check.h"
#include "tiles_plan.h"

namespace freqdiff {
namespace {

Dtype dtype_of(const Tensor& tensor, const char* name) {
  return stored_type(tensor.scalar_type(), name);
}

Tensor extract_tiles(const Tensor& image, Integers tile, Integers ys, Integers xs, ScalarType type,
                     double scale, double shift) {
  FREQDIFF_CHECK_CUDA(image);
  FREQDIFF_CHECK_DIM(image, 3, "(C, H, W)");
  check_pair("tile", tile);
  STD_TORCH_CHECK(image.size(1) > 0 && image.size(2) > 0, "image has no pixels, expected some");
  const OnDeviceOf scope(image);
  const int64_t channels = image.size(0), height = tile[0], width = tile[1];
  const int64_t step = std::max<int64_t>(channels, 1);
  const Integers strides{height * width * step, 1, width * step, step};
  Tensor tiles =
      empty_cuda({int64_t(ys.size() * xs.size()), channels, height, width}, strides, type, image);
  ExtractLaunch job{};
  job.image = {const_cast<void*>(image.const_data_ptr()),
               dtype_of(image, "image"),
               0,
               image.stride(0),
               image.stride(1),
               image.stride(2)};
  job.tiles = {tiles.mutable_data_ptr(),
               stored_type(type, "dtype"),
               strides[0],
               strides[1],
               strides[2],
               strides[3]};
  job.height = image.size(1);
  job.width = image.size(2);
  job.channels = int32_t(channels);
  job.tile_height = int32_t(height);
  job.tile_width = int32_t(width);
  job.scale = scale;
  job.shift = shift;
  FREQDIFF_LAUNCHED(run_extract_tiles(job, ys, xs, scope.stream));
  return tiles;
}

Tensor stitch_tiles(const Tensor& tiles, Integers ys, Integers xs, Integers size, int64_t margin,
                    ScalarType type, double scale, double shift, bool channels_last) {
  FREQDIFF_CHECK_CUDA(tiles);
  FREQDIFF_CHECK_DIM(tiles, 4, "(N, C, th, tw)");
  FREQDIFF_CHECK_SIZE(tiles, 0, int64_t(ys.size() * xs.size()));
  check_pair("size", size);
  FREQDIFF_CHECK(margin >= 0, "margin", margin, "at least 0");
  check_cover("y", ys, tiles.size(2), size[0], margin);
  check_cover("x", xs, tiles.size(3), size[1], margin);
  const OnDeviceOf scope(tiles);
  const int64_t channels = tiles.size(1), height = size[0], width = size[1];
  const int64_t step = std::max<int64_t>(channels, 1);
  const Integers strides =
      channels_last ? Integers{1, width * step, step} : Integers{height * width, width, 1};
  Tensor image = empty_cuda({channels, height, width}, strides, type, tiles);
  StitchLaunch job{};
  job.tiles = {const_cast<void*>(tiles.const_data_ptr()),
               dtype_of(tiles, "tiles"),
               tiles.stride(0),
               tiles.stride(1),
               tiles.stride(2),
               tiles.stride(3)};
  job.image = {
      image.mutable_data_ptr(), stored_type(type, "dtype"), 0, strides[0], strides[1], strides[2]};
  job.channels = int32_t(channels);
  job.grid_columns = int32_t(xs.size());
  job.scale = scale;
  job.shift = shift;
  job.rows.tile_size = int32_t(tiles.size(2));
  job.columns.tile_size = int32_t(tiles.size(3));
  job.rows.margin = job.columns.margin = int32_t(margin);
  FREQDIFF_LAUNCHED(run_stitch_tiles(job, plan_segments(ys, tiles.size(2), height, margin),
                                     plan_segments(xs, tiles.size(3), width, margin),
                                     scope.stream));
  return image;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(freqdiff, CUDA, library) {
  library.impl("extract_tiles", TORCH_BOX(&extract_tiles));
  library.impl("stitch_tiles", TORCH_BOX(&stitch_tiles));
}

}  // namespace freqdiff
