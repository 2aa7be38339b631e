// What all kernels of halo_attention share: the job and its geometry.
//
// The image is cut into window x window blocks of queries on a grid anchored to the frame. A block
// sees the keys of its region: the block and `halo` pixels around it, side = window + 2 halo.

#pragma once

#include "stored.cuh"

namespace freqdiff {

constexpr int kHaloThreads = 128;
constexpr int kHaloWarps = kHaloThreads / 32;

// (batch, row, column, head, depth) of which the depth is dense; strides in elements.
struct HaloTensor {
  const void* data;
  int64_t batch, row, column, head;

  template <typename T>
  __device__ __forceinline__ const T* at(int b, int y, int x, int h) const {
    return static_cast<const T*>(data) + b * batch + y * row + x * column + h * head;
  }
};

// One call. Results and `lse` and `dots` are dense (batch, height, width, heads[, depth]).
struct HaloJob {
  HaloTensor q, k, v;
  HaloTensor grad, out;  // of backward: the gradient of the result, and the result
  Dtype dtype;           // of q, k, v, grad, out and the results
  const void* bias;      // dense (heads, span, span) or null
  Dtype bias_dtype;
  void* result;                    // forward
  void* lse;                       // float, or double where the dtype is; backward reads it
  void* dots;                      // sum of grad out per query, written by the dQ kernel
  void *q_grad, *k_grad, *v_grad;  // backward
  void *bias_parts, *bias_grad;  // (heads, slots, span, span) float or double; (heads, span, span)
  int batch, height, width, heads, depth;
  int window, halo;
  int top, left;  // how far the first block begins above and left of the image
  double scale;

  __host__ __device__ int side() const { return window + 2 * halo; }
  __host__ __device__ int span() const { return 2 * (window + halo) - 1; }
  __host__ __device__ int rows() const { return (top + height + window - 1) / window; }
  __host__ __device__ int columns() const { return (left + width + window - 1) / window; }
};

// Blocks side by side in a CTA of `rows` queries, and CTAs per block.
constexpr int halo_group(int window, int rows) {
  return rows > window * window ? rows / (window * window) : 1;
}
constexpr int halo_split(int window, int rows) {
  return rows < window * window ? window * window / rows : 1;
}
// CTAs of a launch.
inline int64_t halo_ctas(const HaloJob& job, int rows) {
  const int group = halo_group(job.window, rows), split = halo_split(job.window, rows);
  return int64_t(job.batch) * job.rows() * ((job.columns() + group - 1) / group) * job.heads *
         split;
}

// The block, or group of blocks, that a CTA works on. Heads come first and then neighbours, so
// that CTAs that run together find each other's pixels in the L2 cache.
struct HaloItem {
  int part, head, column, row, batch;

  // 32 bits where they suffice: divisions of 64 take hundreds of instructions.
  template <typename Index>
  __device__ __forceinline__ HaloItem(const HaloJob& job, Index index, int split, int columns) {
    part = int(index % Index(split));
    index /= Index(split);
    head = int(index % Index(job.heads));
    index /= Index(job.heads);
    column = int(index % Index(columns));
    index /= Index(columns);
    batch = job.batch > 1 ? int(index / Index(job.rows())) : 0;
    row = int(index - Index(batch) * Index(job.rows()));
  }
};

__device__ __forceinline__ int64_t pixel_index(const HaloJob& job, int b, int y, int x, int h) {
  return ((int64_t(b) * job.height + y) * job.width + x) * job.heads + h;
}

// Entry `index` of a dense floating array of any dtype, as S.
template <typename S>
__device__ __forceinline__ S load_as(const void* data, Dtype dtype, int64_t index) {
  S value = 0;
  with_float_type(dtype, [&](auto type) { value = S(widen(as<decltype(type)>(data)[index])); });
  return value;
}

template <typename S>
__device__ __forceinline__ void store_as(void* data, Dtype dtype, int64_t index, S value) {
  with_float_type(dtype, [&](auto type) {
    using T = decltype(type);
    as<T>(data)[index] = narrow<T>(value);
  });
}

}  // namespace freqdiff
