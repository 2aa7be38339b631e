// halo_attention and its backward on the CPU: arguments, tables and threads. The kernels are in
// attention_cpu.h and attention_gradient_cpu.h, the meaning in kernels/reference_attention.py.

#include <algorithm>
#include <optional>
#include <tuple>

#include "check.h"
#include "parallel.h"

namespace freqdiff {
namespace {

using Integers = std::vector<int64_t>;

AttentionJob::Operand operand(const Tensor& tensor) {
  AttentionJob::Operand result{tensor.const_data_ptr(), {}};
  for (int axis = 0; axis < 5; ++axis) result.strides[axis] = tensor.stride(axis);
  return result;
}

void check_like(const char* name, const Tensor& tensor, const Tensor& q) {
  STD_TORCH_CHECK(tensor.is_cpu(), name, " is not on the CPU, expected a CPU tensor");
  STD_TORCH_CHECK(tensor.scalar_type() == q.scalar_type(), name, " has dtype ",
                  torch::headeronly::toString(tensor.scalar_type()), ", expected that of q, ",
                  torch::headeronly::toString(q.scalar_type()));
  STD_TORCH_CHECK(tensor.dim() == 5, name, " has ", tensor.dim(),
                  " dimensions, expected 5: (B, H, W, heads, d)");
  for (int axis = 0; axis < 5; ++axis) {
    STD_TORCH_CHECK(tensor.size(axis) == q.size(axis), name, " has size ", tensor.size(axis),
                    " in dimension ", axis, ", expected that of q, ", q.size(axis));
  }
}

AttentionJob make_job(const Tensor& q, const Tensor& k, const Tensor& v, int64_t window,
                      int64_t halo, double scale, const Integers& origin) {
  FREQDIFF_CHECK_CPU(q);
  FREQDIFF_CHECK_DIM(q, 5, "(B, H, W, heads, d)");
  check_like("k", k, q);
  check_like("v", v, q);
  for (int axis = 1; axis < 5; ++axis) {
    STD_TORCH_CHECK(q.size(axis) > 0, "q has size 0 in dimension ", axis, ", expected more");
  }
  // The largest window whose pairs can still be counted in 32 bits.
  FREQDIFF_CHECK(window >= 1 && window <= 4096, "window", window, "1 to 4096");
  FREQDIFF_CHECK(halo >= 0 && halo <= window, "halo", halo, "0 to the window");
  FREQDIFF_CHECK(origin.size() == 2, "length of origin", origin.size(), "2");
  AttentionJob job{};
  job.dtype = stored_type(q.scalar_type(), "q");
  FREQDIFF_CHECK(is_floating(job.dtype), "dtype of q", torch::headeronly::toString(q.scalar_type()),
                 "floating");
  job.q = operand(q);
  job.k = operand(k);
  job.v = operand(v);
  job.batch = q.size(0);
  job.height = q.size(1);
  job.width = q.size(2);
  job.heads = q.size(3);
  job.depth = q.size(4);
  job.window = int(window);
  job.halo = int(halo);
  job.top = (origin[0] % window + window) % window;
  job.left = (origin[1] % window + window) % window;
  job.scale = scale;
  job.phases = 1;
  return job;
}

bool is_double(const AttentionJob& job) { return job.dtype == Dtype::kFloat64; }

ScalarType sum_type(const AttentionJob& job) {
  return is_double(job) ? ScalarType::Double : ScalarType::Float;
}

// The table of relative positions as one row per query and one column per key.
template <typename S>
void expand(const AttentionJob& job, const S* table, int lanes, S* pairs) {
  const int window = job.window, side = job.keys_side(), span = job.span();
  const int64_t queries = job.padded_queries(lanes), pitch = job.key_pitch(lanes);
  parallel_pieces(job.heads * queries, 64, [&](int64_t begin, int64_t end) {
    for (int64_t work = begin; work < end; ++work) {
      S* line = pairs + work * pitch;
      std::fill_n(line, pitch, S(0));
      const int query = int(work % queries);
      if (query >= window * window) continue;
      const S* first = table + work / queries * span * span + (window - 1 - query / window) * span +
                       window - 1 - query % window;
      for (int row = 0; row < side; ++row) {
        std::copy_n(first + int64_t(row) * span, side, line + int64_t(row) * side);
      }
    }
  });
}

// Sets `job.bias`; the result is the memory behind it.
std::optional<Tensor> expand_bias(AttentionJob& job, const std::optional<Tensor>& bias, int lanes) {
  if (!bias) return std::nullopt;
  STD_TORCH_CHECK(bias->is_cpu() && bias->dim() == 3 && bias->size(0) == job.heads &&
                      bias->size(1) == job.span() && bias->size(2) == job.span(),
                  "bias has ", bias->dim(),
                  " dimensions, expected (heads, R, R) on the CPU, R = ", job.span());
  const Tensor table = torch::stable::contiguous(torch::stable::to(*bias, sum_type(job)));
  Tensor pairs =
      empty_cpu({job.heads, job.padded_queries(lanes), job.key_pitch(lanes)}, sum_type(job));
  job.bias = pairs.mutable_data_ptr();
  if (is_double(job)) {
    expand(job, static_cast<const double*>(table.const_data_ptr()), lanes,
           static_cast<double*>(pairs.mutable_data_ptr()));
  } else {
    expand(job, static_cast<const float*>(table.const_data_ptr()), lanes,
           static_cast<float*>(pairs.mutable_data_ptr()));
  }
  return pairs;
}

// The sum over the first dimension, in double, as `type`.
template <typename S>
Tensor sum_parts(const Tensor& parts, const Integers& shape, ScalarType type) {
  Tensor result =
      empty_cpu(shape, std::is_same_v<S, double> ? ScalarType::Double : ScalarType::Float);
  const S* source = static_cast<const S*>(parts.const_data_ptr());
  S* target = static_cast<S*>(result.mutable_data_ptr());
  const int64_t count = result.numel(), rows = parts.size(0);
  for (int64_t i = 0; i < count; ++i) {
    double sum = 0;
    for (int64_t row = 0; row < rows; ++row) sum += double(source[row * count + i]);
    target[i] = S(sum);
  }
  return torch::stable::to(result, type);
}

Tensor zeros(const Integers& shape, ScalarType type) {
  Tensor result = empty_cpu(shape, type);
  char* data = static_cast<char*>(result.mutable_data_ptr());
  parallel_pieces(result.numel() * int64_t(result.element_size()), 1 << 20,
                  [&](int64_t begin, int64_t end) { std::fill(data + begin, data + end, 0); });
  return result;
}

std::tuple<Tensor, Tensor> halo_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                          std::optional<Tensor> bias, int64_t window, int64_t halo,
                                          double scale, Integers origin) {
  AttentionJob job = make_job(q, k, v, window, halo, scale, origin);
  const Kernels& set = kernels(is_double(job));
  const std::optional<Tensor> pairs = expand_bias(job, bias, set.lanes);
  Tensor out = empty_cpu({job.batch, job.height, job.width, job.heads, job.depth}, q.scalar_type());
  Tensor lse = empty_cpu({job.batch, job.height, job.width, job.heads}, sum_type(job));
  job.out = out.mutable_data_ptr();
  job.lse = lse.mutable_data_ptr();
  parallel_pieces(job.batch * job.block_rows() * job.block_columns() * job.heads, 1,
                  [&](int64_t begin, int64_t end) { set.attention_forward(job, begin, end); });
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> halo_attention_backward(
    const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v,
    std::optional<Tensor> bias, const Tensor& out, const Tensor& lse, int64_t window, int64_t halo,
    double scale, Integers origin) {
  AttentionJob job = make_job(q, k, v, window, halo, scale, origin);
  check_like("grad", grad, q);
  check_like("out", out, q);
  FREQDIFF_CHECK_CPU(lse);
  FREQDIFF_CHECK_DIM(lse, 4, "(B, H, W, heads)");
  for (int axis = 0; axis < 4; ++axis) FREQDIFF_CHECK_SIZE(lse, axis, q.size(axis));
  FREQDIFF_CHECK(lse.scalar_type() == sum_type(job), "dtype of lse",
                 torch::headeronly::toString(lse.scalar_type()), "float32, float64 for float64");
  const Kernels& set = kernels(is_double(job));
  const std::optional<Tensor> pairs = expand_bias(job, bias, set.lanes);
  const Tensor dense_lse = torch::stable::contiguous(lse);
  job.lse = const_cast<void*>(dense_lse.const_data_ptr());
  job.grad = operand(grad);
  job.forward_out = operand(out);

  const Integers shape{job.batch, job.height, job.width, job.heads, job.depth};
  Tensor q_grad = empty_cpu(shape, q.scalar_type());
  Tensor k_sum = zeros(shape, sum_type(job)), v_sum = zeros(shape, sum_type(job));
  job.q_grad = q_grad.mutable_data_ptr();
  job.k_sum = k_sum.mutable_data_ptr();
  job.v_sum = v_sum.mutable_data_ptr();
  Tensor bias_sum = empty_cpu(
      {bias ? job.batch * job.block_rows() : 0, job.heads, job.span(), job.span()}, sum_type(job));
  job.bias_sum = bias_sum.mutable_data_ptr();
  // Rows of one phase see no common keys.
  job.phases = halo == 0 ? 1 : 2 * halo <= window ? 2 : 3;
  for (job.phase = 0; job.phase < job.phases && job.phase < job.block_rows(); ++job.phase) {
    parallel_pieces(job.batch * job.phase_rows() * job.heads, 1,
                    [&](int64_t begin, int64_t end) { set.attention_backward(job, begin, end); });
  }
  Tensor bias_grad = empty_cpu({0}, q.scalar_type());
  if (bias) {
    const Integers table{job.heads, job.span(), job.span()};
    bias_grad = is_double(job) ? sum_parts<double>(bias_sum, table, bias->scalar_type())
                               : sum_parts<float>(bias_sum, table, bias->scalar_type());
  }
  return {q_grad, torch::stable::to(k_sum, q.scalar_type()),
          torch::stable::to(v_sum, q.scalar_type()), bias_grad};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(freqdiff, CPU, library) {
  library.impl("halo_attention", TORCH_BOX(&halo_attention));
  library.impl("halo_attention_backward", TORCH_BOX(&halo_attention_backward));
}

}  // namespace freqdiff
