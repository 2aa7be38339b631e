// halo_attention without tensor cores: any floating dtype, depth, window and halo.
//
// A warp works on 4 queries (or keys, in the gather of dK and dV) at once. Its lanes hold 32 keys
// while products are formed and 32 entries of the depth while they are summed up. Results of more
// than 128 entries go in slices of 128, each of which forms the products again.

#pragma once

#include "halo_common.cuh"
#include "mma.cuh"

namespace freqdiff {

constexpr int kPlainRows = 4;                         // of a warp
constexpr int kPlainBlock = kPlainRows * kHaloWarps;  // of a CTA
constexpr int kPlainSlice = 128;                      // entries of the result
constexpr int kPlainStrips = kPlainSlice / 32;

// float or double, in which T is computed.
template <typename T>
struct PlainType {
  using type = float;
};
template <>
struct PlainType<double> {
  using type = double;
};

template <typename S, typename T>
__device__ __forceinline__ S plain_widen(T value) {
  if constexpr (sizeof(T) == 2) {
    return S(Half<T>::to_float(value));
  } else {
    return S(value);
  }
}
template <typename T, typename S>
__device__ __forceinline__ T plain_narrow(S value) {
  if constexpr (sizeof(T) == 2) {
    return Half<T>::from_float(float(value));
  } else {
    return T(value);
  }
}

template <typename S>
__device__ __forceinline__ S warp_sum(S value) {
  for (int bits = 16; bits > 0; bits /= 2) value += __shfl_xor_sync(~0u, value, bits);
  return value;
}
template <typename S>
__device__ __forceinline__ S warp_max(S value) {
  for (int bits = 16; bits > 0; bits /= 2) {
    value = fmax(value, __shfl_xor_sync(~0u, value, bits));
  }
  return value;
}

// A rectangle of the image, and its pixels by number.
struct PlainArea {
  int y, x, rows, columns;

  __device__ __forceinline__ int count() const { return rows * columns; }
  __device__ __forceinline__ int row(int i) const { return y + i / columns; }
  __device__ __forceinline__ int column(int i) const { return x + i % columns; }

  // What a block and `extra` pixels around it have in the image.
  static __device__ __forceinline__ PlainArea block(const HaloJob& job, int row, int column,
                                                    int extra) {
    const int y = row * job.window - job.top, x = column * job.window - job.left;
    PlainArea area;
    area.y = max(0, y - extra);
    area.x = max(0, x - extra);
    area.rows = min(job.height, y + job.window + extra) - area.y;
    area.columns = min(job.width, x + job.window + extra) - area.x;
    return area;
  }
};

// Shared memory of the plain kernels.
template <typename S>
struct PlainShared {
  S rows[kPlainBlock][32];  // own pixels, a slice of their depth
  S others[32][33];         // 32 pixels of the other side
  S weights[kHaloWarps][kPlainRows][32];
};

// Copies entries [d0, d0 + 32) of `count` pixels of an area, from `first` on; zeros elsewhere.
template <typename T, typename S, int PITCH>
__device__ __forceinline__ void stage_plain(S (*target)[PITCH], int rows, const HaloTensor& source,
                                            const HaloJob& job, const HaloItem& item,
                                            const PlainArea& area, int first, int d0) {
  const int lane = int(threadIdx.x) % 32;
  for (int i = int(threadIdx.x) / 32; i < rows; i += kHaloWarps) {
    const int number = first + i, d = d0 + lane;
    S value = 0;
    if (number < area.count() && d < job.depth) {
      value = plain_widen<S>(
          source.at<T>(item.batch, area.row(number), area.column(number), item.head)[d]);
    }
    target[i][lane] = value;
  }
}

// result[r] = products of the warp's own pixel r (of `mine`) with the lane's pixel (of `theirs`).
template <typename T, typename S>
__device__ __forceinline__ void plain_products(S (&result)[kPlainRows], PlainShared<S>& shared,
                                               const HaloJob& job, const HaloItem& item,
                                               const HaloTensor& mine, const PlainArea& own,
                                               int first_own, const HaloTensor& theirs,
                                               const PlainArea& area, int first) {
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  for (int r = 0; r < kPlainRows; ++r) result[r] = 0;
  for (int d0 = 0; d0 < job.depth; d0 += 32) {
    __syncthreads();
    stage_plain<T>(shared.rows, kPlainBlock, mine, job, item, own, first_own, d0);
    stage_plain<T>(shared.others, 32, theirs, job, item, area, first, d0);
    __syncthreads();
    for (int i = 0; i < 32; ++i) {
      const S value = shared.others[lane][i];
#pragma unroll
      for (int r = 0; r < kPlainRows; ++r) {
        result[r] += shared.rows[warp * kPlainRows + r][i] * value;
      }
    }
  }
}

// sums[r][c] += weights of the warp's own pixel r times the others' entries d0 + 32 c + lane. The
// lane brings the weights of its own pixel of the others.
template <typename T, typename S>
__device__ __forceinline__ void plain_sums(S (&sums)[kPlainRows][kPlainStrips],
                                           const S (&weights)[kPlainRows], PlainShared<S>& shared,
                                           const HaloJob& job, const HaloItem& item,
                                           const HaloTensor& theirs, const PlainArea& area,
                                           int first, int d0) {
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  for (int r = 0; r < kPlainRows; ++r) shared.weights[warp][r][lane] = weights[r];
#pragma unroll
  for (int c = 0; c < kPlainStrips; ++c) {
    if (d0 + 32 * c >= job.depth) break;
    __syncthreads();
    stage_plain<T>(shared.others, 32, theirs, job, item, area, first, d0 + 32 * c);
    __syncthreads();
    for (int j = 0; j < 32; ++j) {
      const S value = shared.others[j][lane];
#pragma unroll
      for (int r = 0; r < kPlainRows; ++r) sums[r][c] += shared.weights[warp][r][j] * value;
    }
  }
  __syncthreads();
}

// Entry of the bias table for a query and a key in image coordinates.
__device__ __forceinline__ int plain_entry(const HaloJob& job, int qy, int qx, int ky, int kx) {
  const int centre = job.window + job.halo - 1;
  return (ky - qy + centre) * job.span() + kx - qx + centre;
}

template <typename T, typename S>
__device__ __forceinline__ void plain_store(void* target, const HaloJob& job, const HaloItem& item,
                                            const PlainArea& own, int number, int d0,
                                            const S (&sums)[kPlainStrips], S factor) {
  if (number >= own.count()) return;
  const int64_t pixel =
      pixel_index(job, item.batch, own.row(number), own.column(number), item.head);
#pragma unroll
  for (int c = 0; c < kPlainStrips; ++c) {
    const int d = d0 + 32 * c + int(threadIdx.x) % 32;
    if (d < job.depth) {
      static_cast<T*>(target)[pixel * job.depth + d] = plain_narrow<T>(sums[c] * factor);
    }
  }
}

// grid.x: parts of 16 queries of each block, heads and blocks. grid.y: slices of the depth.
template <typename T>
__global__ __launch_bounds__(kHaloThreads) void plain_forward(HaloJob job, int split) {
  using S = typename PlainType<T>::type;
  PlainShared<S>& shared = *dynamic_shared<PlainShared<S>>();
  const HaloItem item(job, blockIdx.x, split, job.columns());
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const PlainArea own = PlainArea::block(job, item.row, item.column, 0);
  const PlainArea region = PlainArea::block(job, item.row, item.column, job.halo);
  const int first_own = item.part * kPlainBlock, first_row = first_own + warp * kPlainRows;
  const int d0 = int(blockIdx.y) * kPlainSlice;
  if (first_own >= own.count()) return;

  S sums[kPlainRows][kPlainStrips] = {}, top[kPlainRows], total[kPlainRows] = {};
  for (int r = 0; r < kPlainRows; ++r) top[r] = -INFINITY;
  for (int first = 0; first < region.count(); first += 32) {
    S x[kPlainRows];
    plain_products<T>(x, shared, job, item, job.q, own, first_own, job.k, region, first);
    const int key = first + lane;
#pragma unroll
    for (int r = 0; r < kPlainRows; ++r) {
      const int query = first_row + r;
      x[r] *= S(job.scale);
      if (key >= region.count()) {
        x[r] = -INFINITY;
      } else if (job.bias && query < own.count()) {
        const int entry = plain_entry(job, own.row(query), own.column(query), region.row(key),
                                      region.column(key));
        x[r] += load_as<S>(job.bias, job.bias_dtype,
                           int64_t(item.head) * job.span() * job.span() + entry);
      }
      const S now = fmax(top[r], warp_max(x[r]));
      const S finite = now == S(-INFINITY) ? S(0) : now;
      const S factor = exp(top[r] - finite);
      top[r] = now;
      x[r] = exp(x[r] - finite);
      total[r] = total[r] * factor + x[r];
      for (int c = 0; c < kPlainStrips; ++c) sums[r][c] *= factor;
    }
    plain_sums<T>(sums, x, shared, job, item, job.v, region, first, d0);
  }
  for (int r = 0; r < kPlainRows; ++r) {
    total[r] = warp_sum(total[r]);
    const int query = first_row + r;
    plain_store<T>(job.result, job, item, own, query, d0, sums[r], S(1) / total[r]);
    if (lane == 0 && d0 == 0 && query < own.count()) {
      static_cast<S*>(
          job.lse)[pixel_index(job, item.batch, own.row(query), own.column(query), item.head)] =
          top[r] + log(total[r]);
    }
  }
}

}  // namespace freqdiff
