// extract_tiles and stitch_tiles for the tests.

#include "entry.h"

#include "tiles.cuh"
#include "tiles_plan.h"

using namespace freqdiff;

namespace {

// Strides of tile, channel, row and column.
Placement placement(const void *data, int64_t dtype, const int64_t *strides) {
  return {const_cast<void *>(data), Dtype(dtype), strides[0], strides[1], strides[2], strides[3]};
}

} // namespace

extern "C" {

// shape: channels, height, width, tile height, tile width, number of rows and columns of tiles.
const char *run_extract(const void *image, int64_t image_type, void *tiles, int64_t tiles_type,
                        const int64_t *strides, const int64_t *shape, const int64_t *ys,
                        const int64_t *xs, double scale, double shift) {
  ExtractLaunch job{};
  job.image = placement(image, image_type, strides);
  job.tiles = placement(tiles, tiles_type, strides + 4);
  job.channels = int32_t(shape[0]);
  job.height = shape[1];
  job.width = shape[2];
  job.tile_height = int32_t(shape[3]);
  job.tile_width = int32_t(shape[4]);
  job.scale = scale;
  job.shift = shift;
  return report(run_extract_tiles(job, {ys, ys + shape[5]}, {xs, xs + shape[6]}, nullptr));
}

const char *run_stitch(const void *tiles, int64_t tiles_type, void *image, int64_t image_type,
                       const int64_t *strides, const int64_t *shape, const int64_t *ys,
                       const int64_t *xs, int64_t margin, double scale, double shift) {
  StitchLaunch job{};
  job.tiles = placement(tiles, tiles_type, strides);
  job.image = placement(image, image_type, strides + 4);
  job.channels = int32_t(shape[0]);
  job.grid_columns = int32_t(shape[6]);
  job.scale = scale;
  job.shift = shift;
  job.rows.tile_size = int32_t(shape[3]);
  job.columns.tile_size = int32_t(shape[4]);
  job.rows.margin = job.columns.margin = int32_t(margin);
  return report(run_stitch_tiles(job,
                                 plan_segments({ys, ys + shape[5]}, shape[3], shape[1], margin),
                                 plan_segments({xs, xs + shape[6]}, shape[4], shape[2], margin),
                                 nullptr));
}
}
