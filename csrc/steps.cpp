// ddim_step on the CPU: arguments, layouts and threads. The kernel is in steps_cpu.h, the meaning
// in kernels/reference.py.

#include <algorithm>
#include <numeric>
#include <optional>

#include "check.h"
#include "parallel.h"

namespace freqdiff {
namespace {

using Integers = std::vector<int64_t>;

// Values that are worth another thread.
constexpr int64_t kGrainValues = 1 << 15;

Integers shape_of(const Tensor& tensor) {
  return Integers(tensor.sizes().begin(), tensor.sizes().end());
}

Integers strides_of(const Tensor& tensor) {
  return Integers(tensor.strides().begin(), tensor.strides().end());
}

// Whether the values fill their memory without gaps, one image after the other.
bool images_are_dense(const Tensor& tensor) {
  Integers axes{1, 2, 3};
  std::sort(axes.begin(), axes.end(),
            [&](int64_t a, int64_t b) { return tensor.stride(a) < tensor.stride(b); });
  axes.push_back(0);
  int64_t step = 1;
  for (int64_t axis : axes) {
    if (tensor.size(axis) == 1) continue;
    if (tensor.stride(axis) != step) return false;
    step *= tensor.size(axis);
  }
  return true;
}

bool lies_like(const Tensor& tensor, const Tensor& other) {
  for (int axis = 0; axis < 4; ++axis) {
    if (tensor.size(axis) > 1 && tensor.stride(axis) != other.stride(axis)) return false;
  }
  return true;
}

Tensor laid_out(const Tensor& tensor, const Integers& strides, ScalarType type) {
  Tensor result = empty_cpu(shape_of(tensor), strides, type);
  return torch::stable::copy_(result, tensor);
}

void check_like(const char* name, const Tensor& tensor, const Tensor& x) {
  STD_TORCH_CHECK(tensor.is_cpu(), name, " is not on the CPU, expected a CPU tensor");
  STD_TORCH_CHECK(tensor.dim() == 4, name, " has ", tensor.dim(),
                  " dimensions, expected 4: (B, C, H, W)");
  for (int axis = 0; axis < 4; ++axis) {
    STD_TORCH_CHECK(tensor.size(axis) == x.size(axis), name, " has size ", tensor.size(axis),
                    " in dimension ", axis, ", expected that of x, ", x.size(axis));
  }
  STD_TORCH_CHECK(is_floating(stored_type(tensor.scalar_type(), name)), name, " has dtype ",
                  torch::headeronly::toString(tensor.scalar_type()), ", expected a floating one");
}

// The values (B, 5), rounded to what x is computed in.
std::vector<double> rounded_coefficients(const Tensor& coefficients, const Tensor& x) {
  FREQDIFF_CHECK_CPU(coefficients);
  FREQDIFF_CHECK_DIM(coefficients, 2, "(B, 5)");
  FREQDIFF_CHECK_SIZE(coefficients, 0, x.size(0));
  FREQDIFF_CHECK_SIZE(coefficients, 1, 5);
  const bool wide = x.scalar_type() == ScalarType::Double;
  const Tensor rounded =
      torch::stable::to(coefficients, wide ? ScalarType::Double : ScalarType::Float);
  const Tensor values = torch::stable::contiguous(torch::stable::to(rounded, ScalarType::Double));
  const double* first = static_cast<const double*>(values.const_data_ptr());
  return std::vector<double>(first, first + values.numel());
}

// x, f and y lie alike and dense; either all of them are float64 or none.
Tensor run_step(const Tensor& x, const Tensor& f, const std::optional<Tensor>& y,
                std::vector<double> coefficients, bool clamp) {
  Tensor result = empty_cpu(shape_of(x), strides_of(x), x.scalar_type());
  StepJob job{};
  job.x = x.const_data_ptr();
  job.f = f.const_data_ptr();
  job.y = y ? y->const_data_ptr() : nullptr;
  job.x_dtype = stored_type(x.scalar_type(), "x");
  job.f_dtype = stored_type(f.scalar_type(), "f");
  job.y_dtype = y ? stored_type(y->scalar_type(), "y") : job.x_dtype;
  job.result = result.mutable_data_ptr();
  job.image_size = x.numel() / std::max<int64_t>(1, x.size(0));
  job.coefficients = std::move(coefficients);
  job.clamp = clamp;
  job.stream = should_stream(x.numel() * int64_t(x.element_size()));
  const Kernels& set = kernels(job.x_dtype == Dtype::kFloat64);
  parallel_pieces(x.numel(), kGrainValues,
                  [&](int64_t begin, int64_t end) { set.step(job, begin, end); });
  return result;
}

Tensor ddim_step(const Tensor& x, const Tensor& f, std::optional<Tensor> y,
                 const Tensor& coefficients, bool clamp) {
  check_like("x", x, x);
  check_like("f", f, x);
  if (y) check_like("y", *y, x);
  const std::vector<double> values = rounded_coefficients(coefficients, x);

  const auto is_double = [](const Tensor& tensor) {
    return tensor.scalar_type() == ScalarType::Double;
  };
  const bool wide = is_double(x) || is_double(f) || (y && is_double(*y));
  const auto computed_type = [&](const Tensor& tensor) {
    return wide ? ScalarType::Double : tensor.scalar_type();
  };
  // A clone fills the gaps and keeps the order of the axes, which is where the result goes.
  const Integers result_strides = strides_of(images_are_dense(x) ? x : torch::stable::clone(x));
  Tensor like = images_are_dense(x) ? x : torch::stable::contiguous(x);
  const Integers strides = strides_of(like);
  const auto prepared = [&](const Tensor& tensor) {
    const bool ready = lies_like(tensor, like) && computed_type(tensor) == tensor.scalar_type();
    return ready ? tensor : laid_out(tensor, strides, computed_type(tensor));
  };
  std::optional<Tensor> anchor;
  if (y) anchor = prepared(*y);
  const Tensor result = run_step(prepared(x), prepared(f), anchor, values, clamp);
  if (result.scalar_type() == x.scalar_type() && strides == result_strides) return result;
  return laid_out(result, result_strides, x.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(freqdiff, CPU, library) {
  library.impl("ddim_step", TORCH_BOX(&ddim_step));
}

}  // namespace freqdiff
