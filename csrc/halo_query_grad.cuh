// Gradients of halo_attention by q and bias on tensor cores, and the dots that k and v need.
//
// A CTA works on the queries and walks over the keys as in the forward kernel. With
// P = exp(logits - lse): dS = P (grad V^T - dots), dQ = scale dS K. The bias gets sums of dS; every
// warp has a table of its own in shared memory, so that the order of all sums is fixed.

#pragma once

#include "halo_tiles.cuh"

namespace freqdiff {

constexpr int kScratchPitch = 9;  // floats: the diagonals of 8 x 8 then lie in different banks
constexpr int kScratch = 16 * kScratchPitch;

// dots and lse (to base 2) of a warp's own ROWS queries, of `first` on, into shared memory.
// Queries outside the image get what makes their weights 0.
template <typename T, int D, int ROWS, typename Place>
__device__ __forceinline__ void load_dots(float* dots, float* lse, const HaloJob& job,
                                          const HaloItem& item, int first, Place&& place) {
  constexpr int kPieces = D / 8;
  const int lane = int(threadIdx.x) % 32, c = lane % kPieces;
#pragma unroll 2
  for (int i = lane / kPieces; i < ROWS; i += 32 / kPieces) {
    const int row = first + i;
    const HaloPlace at = place(row);
    float sum = 0.0f;
    if (at.inside) {
      const T* grad = job.grad.at<T>(item.batch, at.y, at.x, item.head) + c * 8;
      const T* out = job.out.at<T>(item.batch, at.y, at.x, item.head) + c * 8;
      const uint4 a = *reinterpret_cast<const uint4*>(grad);
      const uint4 b = *reinterpret_cast<const uint4*>(out);
      const uint32_t left[4] = {a.x, a.y, a.z, a.w}, right[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float2 x = Half<T>::unpack(left[j]), y = Half<T>::unpack(right[j]);
        sum = fmaf(x.x, y.x, fmaf(x.y, y.y, sum));
      }
    }
#pragma unroll
    for (int bits = 1; bits < kPieces; bits *= 2) sum += __shfl_xor_sync(~0u, sum, bits);
    if (c > 0) continue;
    dots[row] = sum;
    lse[row] = INFINITY;
    if (!at.inside) continue;
    const int64_t index = pixel_index(job, item.batch, at.y, at.x, item.head);
    static_cast<float*>(job.dots)[index] = sum;
    lse[row] = static_cast<const float*>(job.lse)[index] * kLog2E;
  }
}

// Adds the gradient of the logits of 16 queries and 8 keys to a warp's table. `entry` is that of
// the first query and the first key. Each lane sums up one diagonal: pairs at the same offset.
__device__ __forceinline__ void add_diagonals(float* table, float* scratch, const float (&grad)[4],
                                              int entry, int window, int span) {
  const int lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    scratch[(lane / 4 + i / 2 * 8) * kScratchPitch + lane % 4 * 2 + i % 2] = grad[i];
  }
  __syncwarp();
  // Two rows of 8 queries, or one of 16.
  const int half = window == 8 ? lane / 16 : 0;
  const int offset = window == 8 ? lane % 16 - 7 : lane - 15;
  if (offset <= 7) {
    float sum = 0.0f;
#pragma unroll
    for (int key = 0; key < 8; ++key) {
      const int query = key - offset;
      if (query >= 0 && query < window) sum += scratch[(half * 8 + query) * kScratchPitch + key];
    }
    table[entry - half * span + offset] += sum;
  }
  __syncwarp();
}

template <typename T, int D, int MT, bool kBias>
__global__ __launch_bounds__(kHaloThreads, 2) void halo_query_grad(HaloJob job, HaloPlan plan) {
  constexpr int kRows = 64 * MT, kPieces = D / 8;
  constexpr int KT = D == 128 ? 2 : 4;
  uint4* own = dynamic_shared<uint4>();
  uint4* own_grad = own + kRows * kPieces;
  uint4* stages = own_grad + kRows * kPieces;
  const int stage_pieces = plan.chunk_rows * plan.pitch * kPieces;
  int2* places = reinterpret_cast<int2*>(stages + 4 * stage_pieces);
  float* dots = reinterpret_cast<float*>(places + plan.places);
  float* lse = dots + kRows;
  float* scratch = lse + kRows;
  const int entries_padded = job.span() * job.span() + kTablePadding;
  float* table = scratch + kHaloWarps * kScratch;
  float* sums_of_bias = table + entries_padded;  // one table per warp

  const int groups = (job.columns() + plan.group - 1) / plan.group;
  const HaloItem item(job, blockIdx.x, plan.split, groups);
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int first_row = warp * 16 * MT;
  const HaloQuery first_query(job, item, first_row, kRows);
  const HaloWalk walk(job, item, plan, first_query.block);
  const int y0 = item.row * job.window - job.top - job.halo;
  const int chunks = (walk.last - walk.first + plan.chunk_rows - 1) / plan.chunk_rows;
  const auto place = [&](int row) {
    return HaloQuery(job, item, row, kRows).place(job, item, plan.group);
  };

  const auto load = [&](int chunk) {
    const int row = walk.first + chunk * plan.chunk_rows;
    const int rows = min(plan.chunk_rows, walk.last - row);
    uint4* keys = stages + chunk % 2 * 2 * stage_pieces;
    load_rectangle<T, D>(keys, job.k, job, item, y0 + row, walk.x0, rows, plan.pitch);
    load_rectangle<T, D>(keys + stage_pieces, job.v, job, item, y0 + row, walk.x0, rows,
                         plan.pitch);
  };
  load_own<T, D, kRows>(own, job.q, item, place);
  load_own<T, D, kRows>(own_grad, job.grad, item, place);
  load(0);
  commit_copies();
  if (chunks > 1) load(1);
  commit_copies();
  load_places(places, plan, job.span());
  load_dots<T, D, 16 * MT>(dots, lse, job, item, first_row, place);
  if (kBias) {
    load_table(table, job, item.head);
    for (int i = threadIdx.x; i < kHaloWarps * entries_padded; i += kHaloThreads) {
      sums_of_bias[i] = 0.0f;
    }
  }

  const float scale = float(job.scale) * kLog2E;
  const HaloEntries entries(job, first_query);
  const int first_entry =
      (job.window - 1 - first_query.y) * job.span() + job.window - 1 - first_query.x;
  uint32_t queries[MT][D / 16][4], grads[MT][D / 16][4];
  float sums[MT][D / 8][4] = {};
  float own_dots[MT][2], own_lse[MT][2];

  for (int chunk = 0; chunk < chunks; ++chunk) {
    wait_copies<1>();
    __syncthreads();
    if (chunk == 0) {
#pragma unroll
      for (int i = 0; i < MT; ++i) {
        load_left<D>(queries[i], own, first_row + 16 * i);
        load_left<D>(grads[i], own_grad, first_row + 16 * i);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          own_dots[i][half] = dots[first_row + 16 * i + 8 * half + lane / 4];
          own_lse[i][half] = lse[first_row + 16 * i + 8 * half + lane / 4];
        }
      }
    }
    const uint4* keys = stages + chunk % 2 * 2 * stage_pieces + walk.origin * kPieces;
    const uint4* values = keys + stage_pieces;
    const int chunk_row = walk.first + chunk * plan.chunk_rows;
    const int chunk_entry = chunk_row * job.span();
    const int count = min(plan.chunk_rows, walk.last - chunk_row) * plan.tiles;
    for (int number = 0; walk.active && number < count; number += KT) {
      const HaloTiles<KT> tiles = next_tiles<KT>(places, number, count);
      const bool masked = walk.masked || number + KT > count;
      uint32_t packed[KT / 2][MT][4];
#pragma unroll
      for (int j = 0; j < KT; ++j) {
        float x[MT][4], weight_grad[MT][4] = {};
#pragma unroll
        for (int i = 0; i < MT; ++i) {
          begin_logits<kBias>(
              x[i], table + entries.first + chunk_entry + tiles.entry[j] - i * entries.tile,
              entries.half);
        }
        multiply_pixels<T, D, MT>(x, queries, keys, tiles.pixel[j]);
        multiply_pixels<T, D, MT>(weight_grad, grads, values, tiles.pixel[j]);
        if (masked) mask_logits(x, plan, walk, number + j, count);
#pragma unroll
        for (int i = 0; i < MT; ++i) {
#pragma unroll
          for (int r = 0; r < 4; ++r) {
            x[i][r] = fast_exp2(fmaf(x[i][r], scale, -own_lse[i][r / 2])) *
                      (weight_grad[i][r] - own_dots[i][r / 2]);
          }
          if (kBias && number + j < count) {
            add_diagonals(sums_of_bias + warp * entries_padded, scratch + warp * kScratch, x[i],
                          first_entry + chunk_entry + tiles.entry[j] - i * entries.tile, job.window,
                          job.span());
          }
          packed[j / 2][i][j % 2 * 2] = Half<T>::pack(x[i][0], x[i][1]);
          packed[j / 2][i][j % 2 * 2 + 1] = Half<T>::pack(x[i][2], x[i][3]);
        }
      }
#pragma unroll
      for (int j = 0; j < KT; j += 2) {
        multiply_values<T, D, MT>(sums, packed[j / 2], keys, tiles.pixel[j], tiles.pixel[j + 1]);
      }
    }
    __syncthreads();
    if (chunk + 2 < chunks) load(chunk + 2);
    commit_copies();
  }

  const float factor = float(job.scale);
#pragma unroll
  for (int i = 0; i < MT; ++i) {
    stage_rows<T, D>(own, first_row + 16 * i, sums[i], factor, factor);
  }
  __syncwarp();
  store_own<D, 16 * MT>(job.q_grad, own, job, item, first_row, place);
  if (!kBias) return;
  const int span2 = job.span() * job.span();
  const int64_t slots = int64_t(gridDim.x) / job.heads;
  const int64_t slot =
      ((int64_t(item.batch) * job.rows() + item.row) * groups + item.column) * plan.split +
      item.part;
  float* part = static_cast<float*>(job.bias_parts) + (item.head * slots + slot) * span2;
  for (int i = threadIdx.x; i < span2; i += kHaloThreads) {
    float sum = sums_of_bias[i];
    for (int other = 1; other < kHaloWarps; ++other) {
      sum += sums_of_bias[other * entries_padded + i];
    }
    part[i] = sum;
  }
}

// bias_grad = sums over the slots of bias_parts, in a fixed order. grid: (entries / 32, heads).
constexpr int kReduceLanes = 16;
template <typename S>
__global__ __launch_bounds__(32 * kReduceLanes) void halo_bias_grad(HaloJob job, int64_t slots) {
  S* sums = dynamic_shared<S>();
  const int span2 = job.span() * job.span(), head = int(blockIdx.y);
  const int entry = int(blockIdx.x) * 32 + int(threadIdx.x) % 32, first = int(threadIdx.x) / 32;
  S sum = 0;
  if (entry < span2) {
    const S* parts = static_cast<const S*>(job.bias_parts) + head * slots * span2 + entry;
#pragma unroll 4
    for (int64_t slot = first; slot < slots; slot += kReduceLanes) sum += parts[slot * span2];
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (first > 0 || entry >= span2) return;
  for (int other = 1; other < kReduceLanes; ++other) sum += sums[other * 32 + threadIdx.x];
  store_as(job.bias_grad, job.bias_dtype, int64_t(head) * span2 + entry, sum);
}

}  // namespace freqdiff
