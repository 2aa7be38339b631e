// Chooses and starts the kernels of halo_attention; without torch.

#pragma once

#include "halo_forward.cuh"
#include "halo_key_grad.cuh"
#include "halo_plain_grad.cuh"
#include "halo_query_grad.cuh"

namespace freqdiff {

// Whether the tensor-core kernels cover a job; what they do not is left to the plain ones. They
// look for the largest logit before they scale, and divide the bias by the scale.
inline bool has_halo_tiles(const HaloJob& job) {
  return job.scale > 1e-6 && job.scale < 1e6 &&
         (job.dtype == Dtype::kBfloat16 || job.dtype == Dtype::kFloat16) &&
         (job.depth == 32 || job.depth == 64 || job.depth == 128) &&
         (job.window == 8 || job.window == 16);
}

// Whether strides in bytes fit in 32 bits, as those kernels want it.
inline bool has_short_strides(const HaloJob& job) {
  const double row = double(job.width) * job.heads * job.depth;
  for (const HaloTensor* x : {&job.q, &job.k, &job.v, &job.grad, &job.out}) {
    if (max(double(x->row), double(x->column)) >= 1 << 30) return false;
  }
  return row < 1 << 30;
}

// Tiles of 16 rows that a warp works on at once; see forward_tiles.
constexpr int query_grad_tiles(int depth) { return depth == 32 ? 2 : 1; }

// Cuts up a launch with `rows` queries per CTA.
inline HaloPlan plan_halo(const HaloJob& job, int rows) {
  HaloPlan plan{};
  plan.group = halo_group(job.window, rows);
  plan.split = halo_split(job.window, rows);
  plan.tiles = (job.side() + 7) / 8;
  plan.pitch = (plan.group - 1) * job.window + 8 * plan.tiles;
  // Keys and values of one row.
  const int row_bytes = plan.pitch * job.depth * 4;
  // Enough in flight per stage, and three or more CTAs per multiprocessor of an H100; not timed.
  constexpr int kChunkBytes = 16 << 10;
  // Whole steps of 4 tiles.
  const int unit = plan.tiles % 4 == 0 ? 1 : plan.tiles % 2 == 0 ? 2 : 4;
  plan.chunk_rows = max(kChunkBytes / row_bytes / unit * unit, unit);
  // At least two chunks, so that work begins while the second is on its way.
  plan.chunk_rows = min(plan.chunk_rows, (job.side() / 2 + unit - 1) / unit * unit);
  plan.places = (plan.chunk_rows * plan.tiles + 3) / 4 * 4;
  plan.ctas = halo_ctas(job, rows);
  const size_t table = job.bias ? size_t(job.span() * job.span() + kTablePadding) * 4 : 0;
  plan.shared_bytes = size_t(rows) * job.depth * 2 + 2 * size_t(plan.chunk_rows) * row_bytes +
                      size_t(plan.places) * 8 + table;
  return plan;
}

// The number of CTAs along grid.x has this limit.
constexpr int64_t kMaxCtas = 0x7fffffff;

// False where the kernel would need more shared memory or CTAs than there are.
template <typename T, int D, int W>
bool launch_halo_forward(const HaloJob& job, size_t max_shared, cudaStream_t stream,
                         cudaError_t& error) {
  constexpr int MT = forward_tiles(D), kRows = 64 * MT, kGroup = halo_group(W, kRows);
  constexpr int kTileBytes = 2 * 16 * kTilePieces<D>;
  HaloRing ring{};
  ring.scale = float(job.scale);
  ring.factor = float(1.0 / job.scale);
  ring.columns = (kGroup - 1) * W / 8 + (job.side() + 7) / 8;
  ring.chunk = min(most_tiles<D>(kGroup), ring.columns);
  const size_t bytes = size_t(kRows) * D * 2 + 2 * size_t(ring.chunk) * kTileBytes +
                       (job.bias ? pair_bytes<W>(job.span()) : 0);
  const int64_t ctas = halo_ctas(job, kRows);
  if (bytes > max_shared || ctas > kMaxCtas) return false;
  auto* kernel = job.bias ? &halo_forward<T, D, MT, W, true> : &halo_forward<T, D, MT, W, false>;
  error = launch(kernel, dim3(unsigned(ctas)), kHaloThreads, bytes, stream, job, ring);
  return true;
}

template <typename T, int D>
bool launch_halo_forward(const HaloJob& job, size_t max_shared, cudaStream_t stream,
                         cudaError_t& error) {
  return job.window == 8 ? launch_halo_forward<T, D, 8>(job, max_shared, stream, error)
                         : launch_halo_forward<T, D, 16>(job, max_shared, stream, error);
}

template <typename T>
cudaError_t launch_plain_forward(const HaloJob& job, cudaStream_t stream) {
  const int split = (job.window * job.window + kPlainBlock - 1) / kPlainBlock;
  const int64_t ctas = int64_t(job.batch) * job.rows() * job.columns() * job.heads * split;
  if (ctas > kMaxCtas) return cudaErrorInvalidConfiguration;
  const unsigned slices = unsigned(job.depth + kPlainSlice - 1) / kPlainSlice;
  return launch(&plain_forward<T>, dim3(unsigned(ctas), slices), kHaloThreads,
                sizeof(PlainShared<typename PlainType<T>::type>), stream, job, split);
}

// Calls body(T{}) with the type of a job.
template <typename Body>
cudaError_t with_halo_type(Dtype dtype, Body&& body) {
  switch (dtype) {
    case Dtype::kBfloat16:
      return body(__nv_bfloat16{});
    case Dtype::kFloat16:
      return body(__half{});
    case Dtype::kFloat64:
      return body(double{});
    default:
      return body(float{});
  }
}

// result and lse. `max_shared`: what a CTA can have on this device.
inline cudaError_t attention_forward(const HaloJob& job, size_t max_shared, cudaStream_t stream) {
  return with_halo_type(job.dtype, [&](auto type) {
    using T = decltype(type);
    if constexpr (sizeof(T) == 2) {
      cudaError_t error = cudaSuccess;
      if (has_halo_tiles(job) && has_short_strides(job)) {
        if (job.depth == 32   ? launch_halo_forward<T, 32>(job, max_shared, stream, error)
            : job.depth == 64 ? launch_halo_forward<T, 64>(job, max_shared, stream, error)
                              : launch_halo_forward<T, 128>(job, max_shared, stream, error)) {
          return error;
        }
      }
    }
    return launch_plain_forward<T>(job, stream);
  });
}

// What a backward launches, and the scratch memory that it needs.
struct HaloGradPlan {
  bool tiles;  // on tensor cores
  HaloPlan query, key;
  int split;             // plain: parts of a block
  int64_t items, slots;  // plain: parts of all blocks of a head; tables per head
  int64_t bias_parts;    // number of float (float64: double)
};

inline HaloGradPlan plan_halo_grad(const HaloJob& job, size_t max_shared) {
  HaloGradPlan plan{};
  const int64_t span2 = int64_t(job.span()) * job.span();
  const int64_t blocks = int64_t(job.batch) * job.rows() * job.columns();
  if (has_halo_tiles(job) && has_short_strides(job)) {
    const int rows = 64 * query_grad_tiles(job.depth);
    const size_t table = size_t(span2 + kTablePadding) * 4;
    plan.query = plan_halo(job, rows);
    plan.query.shared_bytes += size_t(rows) * (size_t(job.depth) * 2 + 8) +
                               kHaloWarps * kScratch * 4 + (job.bias ? kHaloWarps * table : 0);
    plan.key.split = job.window * job.window / kChunkQueries;
    plan.key.ctas = blocks * job.heads * plan.key.split;
    plan.key.shared_bytes =
        6 * size_t(kChunkQueries) * job.depth * 2 + 4 * kChunkQueries * 4 + (job.bias ? table : 0);
    plan.tiles = plan.query.shared_bytes <= max_shared && plan.key.shared_bytes <= max_shared &&
                 plan.query.ctas <= kMaxCtas && plan.key.ctas <= kMaxCtas;
    plan.slots = job.heads ? plan.query.ctas / job.heads : 0;
  }
  if (!plan.tiles) {
    plan.split = (job.window * job.window + kPlainBlock - 1) / kPlainBlock;
    plan.items = blocks * plan.split;
    // As many tables as fit in 64 MB, and no more CTAs than keep a large GPU busy; not timed.
    const int64_t fits = (int64_t(64) << 20) / (span2 * 8 * kHaloWarps * job.heads);
    const int64_t most = job.bias ? min(fits, int64_t(1024)) : kMaxCtas / job.heads;
    const int64_t slots = min(plan.items, max(most, int64_t(1)));
    plan.slots = slots * kHaloWarps;
  }
  plan.bias_parts = job.bias ? job.heads * plan.slots * span2 : 0;
  return plan;
}

template <typename T, int D>
cudaError_t launch_halo_grads(const HaloJob& job, const HaloGradPlan& plan, cudaStream_t stream) {
  constexpr int MT = query_grad_tiles(D);
  auto* query = job.bias ? &halo_query_grad<T, D, MT, true> : &halo_query_grad<T, D, MT, false>;
  auto* key = job.bias ? &halo_key_grad<T, D, true> : &halo_key_grad<T, D, false>;
  const cudaError_t error = launch(query, dim3(unsigned(plan.query.ctas)), kHaloThreads,
                                   plan.query.shared_bytes, stream, job, plan.query);
  if (error != cudaSuccess) return error;
  return launch(key, dim3(unsigned(plan.key.ctas)), kHaloThreads, plan.key.shared_bytes, stream,
                job, plan.key);
}

template <typename T>
cudaError_t launch_plain_grads(const HaloJob& job, const HaloGradPlan& plan, cudaStream_t stream) {
  constexpr size_t kShared = sizeof(PlainShared<typename PlainType<T>::type>);
  const int64_t ctas = plan.items * job.heads, slots = plan.slots / kHaloWarps;
  if (ctas > kMaxCtas) return cudaErrorInvalidConfiguration;
  const unsigned slices = unsigned(job.depth + kPlainSlice - 1) / kPlainSlice;
  const cudaError_t error =
      launch(&plain_query_grad<T>, dim3(unsigned(slots * job.heads), slices), kHaloThreads, kShared,
             stream, job, plan.split, plan.items, slots);
  if (error != cudaSuccess) return error;
  return launch(&plain_key_grad<T>, dim3(unsigned(ctas), slices), kHaloThreads, kShared, stream,
                job, plan.split);
}

// q_grad, k_grad, v_grad, bias_grad where there is a bias, and dots. `bias_parts` holds what the
// plan asks for.
inline cudaError_t attention_backward(const HaloJob& job, const HaloGradPlan& plan,
                                      cudaStream_t stream) {
  return with_halo_type(job.dtype, [&](auto type) {
    using T = decltype(type);
    using S = typename PlainType<T>::type;
    cudaError_t error = cudaSuccess;
    if (!plan.tiles) {
      error = launch_plain_grads<T>(job, plan, stream);
    } else if constexpr (sizeof(T) == 2) {
      error = job.depth == 32   ? launch_halo_grads<T, 32>(job, plan, stream)
              : job.depth == 64 ? launch_halo_grads<T, 64>(job, plan, stream)
                                : launch_halo_grads<T, 128>(job, plan, stream);
    }
    if (error != cudaSuccess || !job.bias) return error;
    const dim3 grid(unsigned(job.span() * job.span() + 31) / 32, unsigned(job.heads));
    return launch(&halo_bias_grad<S>, grid, 32 * kReduceLanes, 32 * kReduceLanes * sizeof(S),
                  stream, job, plan.slots);
  });
}

}  // namespace freqdiff
