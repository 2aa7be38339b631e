// fft_features, its backward and fft_bands on the CPU: arguments, tables and threads. The kernels
// are in fft_features_cpu.h and fft_bands_cpu.h, the meaning in kernels/reference.py.

#include <algorithm>
#include <cmath>

#include "parallel.h"
#include "reflect.h"
#include "spectrum_check.h"

namespace freqdiff {
namespace {

constexpr double kPi = 3.14159265358979323846;

FeatureJob make_job(const Tensor& image, int64_t window, int64_t stride, const std::string& taper,
                    const std::string& layout) {
  FREQDIFF_CHECK_CPU(image);
  check_windows(image, window, stride, taper, layout);
  FeatureJob job{};
  job.image = image.const_data_ptr();
  job.dtype = stored_type(image.scalar_type(), "image");
  job.stride_batch = image.stride(0);
  job.stride_colour = image.stride(1);
  job.stride_row = image.stride(2);
  job.batch = image.size(0);
  job.height = image.size(2);
  job.width = image.size(3);
  job.window = int(window);
  job.stride = int(stride);
  job.rgb = layout == "rgb";
  append_reflected(-job.margin(), job.height + 2 * job.margin(), job.height, job.rows);
  append_reflected(-job.margin(), job.width + 2 * job.margin(), job.width, job.columns);
  for (int n = 0; n < window; ++n) {
    job.taper.push_back(taper == "none" ? 1.0 : 0.5 - 0.5 * std::cos(2 * kPi * (n + 0.5) / window));
  }
  job.floor = double(window * window) / (255.0 * 255.0 * 12.0);
  return job;
}

// The kernels want the pixels of a row side by side.
Tensor with_adjacent_pixels(const Tensor& image) {
  return image.dim() == 4 && image.stride(3) != 1 ? torch::stable::contiguous(image) : image;
}

std::vector<int64_t> features_shape(const FeatureJob& job) {
  return {job.batch, job.token_rows(), job.token_columns(),
          int64_t(job.planes()) * 3 * job.window * job.window / 2};
}

int64_t groups(const FeatureJob& job, const Kernels& set) {
  return (job.tokens() + set.lanes - 1) / set.lanes;
}

Tensor fft_features(const Tensor& input, int64_t window, int64_t stride, const std::string& taper,
                    const std::string& layout, ScalarType type) {
  const Tensor image = with_adjacent_pixels(input);
  FeatureJob job = make_job(image, window, stride, taper, layout);
  job.features_dtype = features_type(type, image, "dtype");
  Tensor features = empty_cpu(features_shape(job), type);
  job.features = features.mutable_data_ptr();
  job.stream = should_stream(features.numel() * int64_t(features.element_size()));
  const Kernels& set = kernels(job.dtype == Dtype::kFloat64);
  parallel_pieces(groups(job, set), 1,
                  [&](int64_t begin, int64_t end) { set.features_forward(job, begin, end); });
  return features;
}

Tensor fft_features_backward(const Tensor& grad_input, const Tensor& input, int64_t window,
                             int64_t stride, const std::string& taper, const std::string& layout) {
  const Tensor image = with_adjacent_pixels(input);
  FeatureJob job = make_job(image, window, stride, taper, layout);
  FREQDIFF_CHECK(is_floating(job.dtype), "dtype of image", "uint8", "floating");
  FREQDIFF_CHECK_CPU(grad_input);
  FREQDIFF_CHECK_DIM(grad_input, 4, "(B, H/S, W/S, channels)");
  const std::vector<int64_t> shape = features_shape(job);
  for (int axis = 0; axis < 4; ++axis) FREQDIFF_CHECK_SIZE(grad_input, axis, shape[axis]);
  const Tensor grad = torch::stable::contiguous(grad_input);

  const bool wide = job.dtype == Dtype::kFloat64;
  Tensor window_grad = empty_cpu({job.tokens(), job.planes(), window, window},
                                 wide ? ScalarType::Double : ScalarType::Float);
  Tensor image_grad = empty_cpu({job.batch, 3, job.height, job.width}, image.scalar_type());
  job.features = const_cast<void*>(grad.const_data_ptr());
  job.features_dtype = features_type(grad.scalar_type(), image, "dtype of grad");
  job.window_grad = window_grad.mutable_data_ptr();
  job.image_grad = image_grad.mutable_data_ptr();
  const Kernels& set = kernels(wide);
  parallel_pieces(groups(job, set), 1,
                  [&](int64_t begin, int64_t end) { set.features_backward(job, begin, end); });
  parallel_pieces(job.batch * job.height, 16,
                  [&](int64_t begin, int64_t end) { set.features_gather(job, begin, end); });
  return image_grad;
}

// Band of the entry (u, v) of a half spectrum, with the roundings of reference.band_shares.
int64_t band_of(int u, int v, int window, int64_t radial, int64_t angular) {
  const double fu = double(2 * u < window ? u : u - window) / window, fv = double(v) / window;
  const int64_t ring = int64_t(double(radial) * std::hypot(fu, fv) / 0.5);
  double angle = std::atan2(fu, fv);
  if (angle < 0) angle += kPi;
  const int64_t sector = int64_t(double(angular) * angle / kPi);
  return std::min(ring, radial - 1) * angular + std::min(sector, angular - 1);
}

// The terms of every band: entries of the half spectrum, found in the slots that hold them.
void append_bands(FeatureJob& job, int64_t radial, int64_t angular) {
  const int window = job.window, half = window / 2;
  job.bands.resize(size_t(radial * angular));
  std::vector<double> counts(job.bands.size());
  const auto add = [&](int u, int v, int row, int column, double real, double imag) {
    const int64_t band = band_of(u, v, window, radial, angular);
    const double count = v == 0 || v == half ? 1 : 2;
    counts[band] += count;
    job.bands[band].push_back({int32_t(row * half + column), count * real, count * imag});
  };
  for (int u = 0; u < window; ++u) {
    for (int v = 1; v < half; ++v) add(u, v, u, v, 1, 1);
    // A mirrored pair shares a slot; the real entries are one half of theirs.
    const int mirrored = window - u;
    if (u == 0 || u == half) {
      if (u != 0) add(u, 0, u, 0, 1, 0);
      add(u, half, u, 0, 0, 1);
    } else {
      add(u, 0, std::min(u, mirrored), 0, 1, 1);
      add(u, half, std::max(u, mirrored), 0, 1, 1);
    }
  }
  double mean_square = 0;
  for (double weight : job.taper) mean_square += weight * weight / window;
  const double gain = double(window * window) * mean_square * mean_square;
  for (size_t band = 0; band < job.bands.size(); ++band) {
    for (BandTerm& term : job.bands[band]) {
      term.real /= counts[band] * gain;
      term.imag /= counts[band] * gain;
    }
  }
  job.band_floor = 1.0 / (255.0 * 255.0 * 12.0);
}

Tensor fft_bands(const Tensor& input, int64_t window, int64_t stride, const std::string& taper,
                 const std::string& layout, int64_t radial, int64_t angular, ScalarType type) {
  const Tensor image = with_adjacent_pixels(input);
  FeatureJob job = make_job(image, window, stride, taper, layout);
  job.features_dtype = features_type(type, image, "dtype");
  FREQDIFF_CHECK(radial > 0, "radial", radial, "at least 1");
  FREQDIFF_CHECK(angular > 0, "angular", angular, "at least 1");
  append_bands(job, radial, angular);
  Tensor result = empty_cpu(
      {job.batch, job.token_rows(), job.token_columns(), int64_t(job.planes()) * radial * angular},
      type);
  job.features = result.mutable_data_ptr();
  const Kernels& set = kernels(job.dtype == Dtype::kFloat64);
  parallel_pieces(groups(job, set), 1,
                  [&](int64_t begin, int64_t end) { set.bands_forward(job, begin, end); });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(freqdiff, CPU, library) {
  library.impl("fft_features", TORCH_BOX(&fft_features));
  library.impl("fft_features_backward", TORCH_BOX(&fft_features_backward));
  library.impl("fft_bands", TORCH_BOX(&fft_bands));
}

}  // namespace freqdiff
