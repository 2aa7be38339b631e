// ddim_step on CUDA: arguments and result. The kernels are in ddim_step.cuh, the meaning in
// kernels/reference.py.

#include <optional>

#include "check_cuda.h"
#include "ddim_step.cuh"

namespace freqdiff {
namespace {

StepOperand operand(const Tensor& tensor, const char* name) {
  StepOperand result{tensor.const_data_ptr(), stored_type(tensor.scalar_type(), name), {}};
  STD_TORCH_CHECK(is_floating(result.dtype), name, " holds integers, expected a floating dtype");
  for (int i = 0; i < 4; ++i) result.strides[i] = tensor.stride(i);
  return result;
}

Tensor ddim_step(const Tensor& x, const Tensor& f, std::optional<Tensor> y,
                 const Tensor& coefficients, bool clamp) {
  FREQDIFF_CHECK_CUDA(x);
  FREQDIFF_CHECK_DIM(x, 4, "(B, C, H, W)");
  FREQDIFF_CHECK_SAME_DEVICE(f, x);
  FREQDIFF_CHECK_SAME_DEVICE(coefficients, x);
  FREQDIFF_CHECK_DIM(f, 4, "(B, C, H, W)");
  FREQDIFF_CHECK_DIM(coefficients, 2, "(B, 5)");
  FREQDIFF_CHECK_SIZE(coefficients, 0, x.size(0));
  FREQDIFF_CHECK_SIZE(coefficients, 1, 5);
  for (int i = 0; i < 4; ++i) FREQDIFF_CHECK_SIZE(f, i, x.size(i));
  const ScalarType type = coefficients.scalar_type();
  FREQDIFF_CHECK(type == ScalarType::Float || type == ScalarType::Double, "dtype of coefficients",
                 torch::headeronly::toString(type), "float32 or float64");
  const OnDeviceOf scope(x);
  const Tensor packed = torch::stable::contiguous(coefficients);
  Tensor out = torch::stable::empty_like(x);
  StepLaunch job{};
  job.x = operand(x, "x");
  job.f = operand(f, "f");
  if (y) {
    const Tensor& anchor = *y;
    FREQDIFF_CHECK_SAME_DEVICE(anchor, x);
    FREQDIFF_CHECK_DIM(anchor, 4, "(B, C, H, W)");
    for (int i = 0; i < 4; ++i) FREQDIFF_CHECK_SIZE(anchor, i, x.size(i));
    job.y = operand(anchor, "y");
  }
  job.out = out.mutable_data_ptr();
  for (int i = 0; i < 4; ++i) {
    job.sizes[i] = x.size(i);
    job.out_strides[i] = out.stride(i);
  }
  job.coefficients = packed.const_data_ptr();
  job.double_coefficients = type == ScalarType::Double;
  job.clamp = clamp;
  FREQDIFF_LAUNCHED(run_ddim_step(job, scope.stream));
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(freqdiff, CUDA, library) {
  library.impl("ddim_step", TORCH_BOX(&ddim_step));
}

}  // namespace freqdiff
