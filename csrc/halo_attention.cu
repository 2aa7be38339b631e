// halo_attention and its backward on CUDA: arguments and results. The kernels are in halo_*.cuh,
// the meaning in kernels/reference_attention.py.

#include <optional>
#include <tuple>

#include "check_cuda.h"
#include "halo_attention.cuh"

namespace freqdiff {
namespace {

constexpr int64_t kMaxWindow = 4096;  // so that pixels of a region count in 32 bits
constexpr int64_t kMaxSide = 1 << 30;

// `tensor` is called by its name here and in the message.
#define FREQDIFF_CHECK_LIKE(tensor, q)   \
  FREQDIFF_CHECK_SAME_DEVICE(tensor, q); \
  check_like(tensor, q, #tensor)

void check_like(const Tensor& tensor, const Tensor& q, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == 5, name, " has ", tensor.dim(),
                  " dimensions, expected 5: (B, H, W, heads, d)");
  for (int i = 0; i < 5; ++i) {
    STD_TORCH_CHECK(tensor.size(i) == q.size(i), name, " has size ", tensor.size(i),
                    " in dimension ", i, ", expected that of q, ", q.size(i));
  }
  STD_TORCH_CHECK(tensor.scalar_type() == q.scalar_type(), name, " has dtype ",
                  torch::headeronly::toString(tensor.scalar_type()), ", expected that of q, ",
                  torch::headeronly::toString(q.scalar_type()));
}

std::vector<int64_t> shape_of(const Tensor& tensor, int dims) {
  std::vector<int64_t> shape;
  for (int i = 0; i < dims; ++i) shape.push_back(tensor.size(i));
  return shape;
}

// The tensor itself, or a dense copy where the kernels could not read it in pieces of 16 bytes.
Tensor readable(const Tensor& tensor, bool pieces) {
  bool good = tensor.size(4) == 1 || tensor.stride(4) == 1;
  if (pieces) {
    const int64_t unit = 16 / int64_t(tensor.element_size());
    good = good && reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
    for (int i = 0; i < 4; ++i) {
      good = good && (tensor.size(i) == 1 || tensor.stride(i) % unit == 0);
    }
  }
  if (good) return tensor;
  Tensor copy = empty_cuda(shape_of(tensor, 5), tensor.scalar_type(), tensor);
  torch::stable::copy_(copy, tensor);
  return copy;
}

HaloTensor view(const Tensor& tensor) {
  return {tensor.const_data_ptr(), tensor.stride(0), tensor.stride(1), tensor.stride(2),
          tensor.stride(3)};
}

HaloJob make_job(const Tensor& q, const Tensor& k, const Tensor& v,
                 const std::optional<Tensor>& bias, int64_t window, int64_t halo, double scale,
                 const std::vector<int64_t>& origin) {
  FREQDIFF_CHECK_CUDA(q);
  FREQDIFF_CHECK_DIM(q, 5, "(B, H, W, heads, d)");
  FREQDIFF_CHECK_LIKE(k, q);
  FREQDIFF_CHECK_LIKE(v, q);
  for (int i = 0; i < 5; ++i) {
    STD_TORCH_CHECK((i == 0 || q.size(i) > 0) && q.size(i) < kMaxSide, "q has size ", q.size(i),
                    " in dimension ", i, ", expected ", i == 0 ? 0 : 1, " to ", kMaxSide - 1);
  }
  FREQDIFF_CHECK(window >= 1 && window <= kMaxWindow, "window", window, "1 to 4096");
  FREQDIFF_CHECK(halo >= 0 && halo <= window, "halo", halo, "0 to the window");
  STD_TORCH_CHECK(origin.size() == 2, "origin has ", origin.size(), " numbers, expected 2");
  HaloJob job{};
  job.dtype = stored_type(q.scalar_type(), "q");
  STD_TORCH_CHECK(is_floating(job.dtype), "q holds integers, expected a floating dtype");
  if (bias) {
    const Tensor& table = *bias;
    FREQDIFF_CHECK_SAME_DEVICE(table, q);
    STD_TORCH_CHECK(table.dim() == 3, "bias has ", table.dim(),
                    " dimensions, expected 3: (heads, R, R)");
    const int64_t span = 2 * (window + halo) - 1;
    const int64_t expected[] = {q.size(3), span, span};
    for (int i = 0; i < 3; ++i) {
      STD_TORCH_CHECK(table.size(i) == expected[i], "bias has size ", table.size(i),
                      " in dimension ", i, ", expected ", expected[i]);
    }
    job.bias_dtype = stored_type(table.scalar_type(), "bias");
    STD_TORCH_CHECK(is_floating(job.bias_dtype), "bias holds integers, expected a floating dtype");
  }
  job.batch = int(q.size(0));
  job.height = int(q.size(1));
  job.width = int(q.size(2));
  job.heads = int(q.size(3));
  job.depth = int(q.size(4));
  job.window = int(window);
  job.halo = int(halo);
  job.top = int((origin[0] % window + window) % window);
  job.left = int((origin[1] % window + window) % window);
  job.scale = scale;
  return job;
}

ScalarType wide_type(const HaloJob& job) {
  return job.dtype == Dtype::kFloat64 ? ScalarType::Double : ScalarType::Float;
}

size_t max_shared(const Tensor& q) {
  int bytes = 0;
  FREQDIFF_LAUNCHED(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                           q.get_device_index()));
  return size_t(bytes);
}

std::optional<Tensor> dense(const std::optional<Tensor>& bias) {
  if (!bias) return std::nullopt;
  return torch::stable::contiguous(*bias);
}

std::tuple<Tensor, Tensor> halo_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                          std::optional<Tensor> bias, int64_t window, int64_t halo,
                                          double scale, std::vector<int64_t> origin) {
  HaloJob job = make_job(q, k, v, bias, window, halo, scale, origin);
  const OnDeviceOf scope(q);
  Tensor result = empty_cuda(shape_of(q, 5), q.scalar_type(), q);
  Tensor lse = empty_cuda(shape_of(q, 4), wide_type(job), q);
  if (job.batch == 0) return {result, lse};
  const bool pieces = has_halo_tiles(job);
  const Tensor inputs[] = {readable(q, pieces), readable(k, pieces), readable(v, pieces)};
  const std::optional<Tensor> table = dense(bias);
  job.q = view(inputs[0]);
  job.k = view(inputs[1]);
  job.v = view(inputs[2]);
  if (table) job.bias = table->const_data_ptr();
  job.result = result.mutable_data_ptr();
  job.lse = lse.mutable_data_ptr();
  FREQDIFF_LAUNCHED(attention_forward(job, max_shared(q), scope.stream));
  return {result, lse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> halo_attention_backward(
    const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v,
    std::optional<Tensor> bias, const Tensor& out, const Tensor& lse, int64_t window, int64_t halo,
    double scale, std::vector<int64_t> origin) {
  HaloJob job = make_job(q, k, v, bias, window, halo, scale, origin);
  FREQDIFF_CHECK_LIKE(grad, q);
  FREQDIFF_CHECK_LIKE(out, q);
  FREQDIFF_CHECK_SAME_DEVICE(lse, q);
  FREQDIFF_CHECK_DIM(lse, 4, "(B, H, W, heads)");
  for (int i = 0; i < 4; ++i) FREQDIFF_CHECK_SIZE(lse, i, q.size(i));
  const ScalarType wide = wide_type(job);
  FREQDIFF_CHECK(lse.scalar_type() == wide, "dtype of lse",
                 torch::headeronly::toString(lse.scalar_type()), torch::headeronly::toString(wide));
  const OnDeviceOf scope(q);
  Tensor grads[3];
  for (Tensor& one : grads) one = empty_cuda(shape_of(q, 5), q.scalar_type(), q);
  std::vector<int64_t> table_shape = {0};
  if (bias) table_shape = shape_of(*bias, 3);
  Tensor bias_grad = empty_cuda(table_shape, bias ? bias->scalar_type() : q.scalar_type(), q);
  if (job.batch == 0) {
    torch::stable::zero_(bias_grad);
    return {grads[0], grads[1], grads[2], bias_grad};
  }
  const bool pieces = has_halo_tiles(job);
  const Tensor inputs[] = {readable(q, pieces), readable(k, pieces), readable(v, pieces),
                           readable(grad, pieces), readable(out, pieces)};
  const Tensor sums = torch::stable::contiguous(lse);
  const std::optional<Tensor> table = dense(bias);
  Tensor dots = empty_cuda(shape_of(q, 4), wide, q);
  job.q = view(inputs[0]);
  job.k = view(inputs[1]);
  job.v = view(inputs[2]);
  job.grad = view(inputs[3]);
  job.out = view(inputs[4]);
  if (table) job.bias = table->const_data_ptr();
  job.lse = const_cast<void*>(sums.const_data_ptr());
  job.dots = dots.mutable_data_ptr();
  job.q_grad = grads[0].mutable_data_ptr();
  job.k_grad = grads[1].mutable_data_ptr();
  job.v_grad = grads[2].mutable_data_ptr();
  job.bias_grad = bias_grad.mutable_data_ptr();
  const HaloGradPlan plan = plan_halo_grad(job, max_shared(q));
  Tensor parts = empty_cuda({plan.bias_parts}, wide, q);
  job.bias_parts = parts.mutable_data_ptr();
  FREQDIFF_LAUNCHED(attention_backward(job, plan, scope.stream));
  return {grads[0], grads[1], grads[2], bias_grad};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(freqdiff, CUDA, library) {
  library.impl("halo_attention", TORCH_BOX(&halo_attention));
  library.impl("halo_attention_backward", TORCH_BOX(&halo_attention_backward));
}

}  // namespace freqdiff
