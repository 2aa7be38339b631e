// rasterize_paths and filter_grid on the CPU: arguments, tiles and threads. The kernels are in
// filter_cpu.h, the meaning in kernels/reference_filter.py.

#include <algorithm>

#include "check.h"
#include "parallel.h"

namespace freqdiff {
namespace {

// The most pixels that are computed together: a tile with the pixels around it and the weights of
// its taps stays in the second-level cache.
constexpr int64_t kTileHeight = 96, kTileWidth = 192;
// Points of paths that are worth another thread.
constexpr int64_t kGrainPoints = 1 << 12;

bool is_double(const Tensor& tensor, const char* name) {
  const ScalarType type = tensor.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, name, " has dtype ",
                  torch::headeronly::toString(type), ", expected float32 or float64");
  return type == ScalarType::Double;
}

void check_same_dtype(const char* name, const Tensor& tensor, const char* other,
                      const Tensor& expected) {
  STD_TORCH_CHECK(tensor.scalar_type() == expected.scalar_type(), name, " has dtype ",
                  torch::headeronly::toString(tensor.scalar_type()), ", expected that of ", other,
                  ", ", torch::headeronly::toString(expected.scalar_type()));
}

Tensor rasterize_paths(const Tensor& displacements, const Tensor& weights, int64_t radius) {
  FREQDIFF_CHECK_CPU(displacements);
  FREQDIFF_CHECK_CPU(weights);
  FREQDIFF_CHECK(displacements.dim() >= 2, "rank of displacements", displacements.dim(),
                 "at least 2: (..., N, 2)");
  FREQDIFF_CHECK_DIM(weights, displacements.dim() - 1, "(..., N)");
  FREQDIFF_CHECK_SIZE(displacements, displacements.dim() - 1, 2);
  FREQDIFF_CHECK(radius >= 0, "radius", radius, "at least 0");
  check_same_dtype("weights", weights, "displacements", displacements);
  std::vector<int64_t> shape;
  for (int64_t axis = 0; axis < weights.dim(); ++axis) {
    FREQDIFF_CHECK_SIZE(weights, axis, displacements.size(axis));
    shape.push_back(weights.size(axis));
  }
  RasterJob job{};
  job.points = shape.back();
  shape.back() = 2 * radius + 1;
  shape.push_back(2 * radius + 1);
  const bool wide = is_double(displacements, "displacements");
  const Tensor shifts = torch::stable::contiguous(displacements);
  const Tensor shares = torch::stable::contiguous(weights);
  Tensor result = empty_cpu(shape, displacements.scalar_type());
  job.displacements = shifts.const_data_ptr();
  job.weights = shares.const_data_ptr();
  job.kernels = result.mutable_data_ptr();
  job.radius = radius;
  const int64_t pixels = shape.back() * shape.back();
  const Kernels& set = kernels(wide);
  const int64_t grain = std::max<int64_t>(1, kGrainPoints / (job.points + pixels / 16 + 1));
  parallel_pieces(result.numel() / pixels, grain,
                  [&](int64_t begin, int64_t end) { set.raster(job, begin, end); });
  return result;
}

// Cuts one axis into tiles that lie between two nodes each; a single node serves them all.
std::vector<FilterSpan> plan_axis(int64_t size, int64_t nodes, int64_t step, int64_t longest) {
  const bool single = nodes == 1;
  const int64_t block = single ? size : step;
  std::vector<FilterSpan> spans;
  for (int64_t start = 0; start < size; start += block) {
    const int64_t length = std::min(block, size - start);
    const int64_t pieces = (length + longest - 1) / longest;
    const int64_t node = single ? 0 : start / step;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      spans.push_back({start + length * piece / pieces, start + length * (piece + 1) / pieces, node,
                       single ? 0 : node + 1, start});
    }
  }
  return spans;
}

int64_t longest_of(const std::vector<FilterSpan>& spans) {
  int64_t longest = 0;
  for (const FilterSpan& span : spans) longest = std::max(longest, span.end - span.begin);
  return longest;
}

void check_nodes(const char* axis, int64_t nodes, int64_t size, int64_t step) {
  const int64_t expected = (size + step - 1) / step + 1;
  STD_TORCH_CHECK(nodes == 1 || nodes == expected, "kernels has ", nodes, " nodes along ", axis,
                  ", expected 1 or ", expected, " (", size, " pixels, step ", step, ")");
}

Tensor filter_grid(const Tensor& image, const Tensor& kernels, int64_t step) {
  FREQDIFF_CHECK_CPU(image);
  FREQDIFF_CHECK_CPU(kernels);
  FREQDIFF_CHECK_DIM(image, 4, "(B, C, H + k - 1, W + k - 1)");
  FREQDIFF_CHECK_DIM(kernels, 5, "(1 or B, ny, nx, k, k)");
  FREQDIFF_CHECK(step >= 1, "step", step, "at least 1");
  check_same_dtype("kernels", kernels, "image", image);
  const bool wide = is_double(image, "image");
  FilterJob job{};
  job.side = kernels.size(3);
  FREQDIFF_CHECK_SIZE(kernels, 4, job.side);
  FREQDIFF_CHECK(job.side % 2 == 1, "size of the kernels", job.side, "an odd number");
  job.batch = image.size(0);
  job.channels = image.size(1);
  job.height = image.size(2) - job.side + 1;
  job.width = image.size(3) - job.side + 1;
  STD_TORCH_CHECK(job.height > 0 && job.width > 0, "image is ", image.size(2), " x ", image.size(3),
                  " pixels, expected at least the size of the kernels, ", job.side);
  if (kernels.size(0) != 1) FREQDIFF_CHECK_SIZE(kernels, 0, job.batch);
  check_nodes("y", kernels.size(1), job.height, step);
  check_nodes("x", kernels.size(2), job.width, step);

  const Tensor pixels = image.stride(3) == 1 ? image : torch::stable::contiguous(image);
  const Tensor nodes = torch::stable::contiguous(kernels);
  Tensor result = empty_cpu({job.batch, job.channels, job.height, job.width}, image.scalar_type());
  job.image = pixels.const_data_ptr();
  job.stride_batch = pixels.stride(0);
  job.stride_channel = pixels.stride(1);
  job.stride_row = pixels.stride(2);
  job.kernels = nodes.const_data_ptr();
  job.stride_kernels = nodes.size(0) == 1 ? 0 : nodes.stride(0);
  job.node_columns = nodes.size(2);
  job.step = step;
  job.rows = plan_axis(job.height, nodes.size(1), step, kTileHeight);
  job.columns = plan_axis(job.width, nodes.size(2), step, kTileWidth);
  job.tile_height = longest_of(job.rows);
  job.tile_width = longest_of(job.columns);
  job.result = result.mutable_data_ptr();
  job.stream = should_stream(result.numel() * int64_t(result.element_size()));
  const Kernels& set = freqdiff::kernels(wide);
  parallel_pieces(job.batch * int64_t(job.rows.size() * job.columns.size()), 1,
                  [&](int64_t begin, int64_t end) { set.filter(job, begin, end); });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(freqdiff, CPU, library) {
  library.impl("rasterize_paths", TORCH_BOX(&rasterize_paths));
  library.impl("filter_grid", TORCH_BOX(&filter_grid));
}

}  // namespace freqdiff
