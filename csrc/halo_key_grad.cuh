// Gradients of halo_attention by k and v on tensor cores.
//
// A CTA of 4 warps gathers for 8 x 8 keys, a warp for a patch of 4 x 4, over the queries of up to
// 3 x 3 blocks that see them: dV = P^T grad, dK = scale dS^T Q, with the products transposed, keys
// down and queries across. A patch skips the blocks that see none of it: where the halo is half a
// window, every patch works on 4 blocks, as much as the forward kernel does.

#pragma once

#include "halo_tiles.cuh"

namespace freqdiff {

constexpr int kChunkQueries = 64;

// Whether keys [begin, begin + size) of a block, along one axis, are seen by the block `step` on.
struct HaloSight {
  bool some, all;

  __device__ __forceinline__ HaloSight(const HaloJob& job, int begin, int size, int step) {
    const int low = step > 0 ? job.window - job.halo : 0;
    const int high = step < 0 ? job.halo : job.window;
    some = begin < high && begin + size > low;
    all = begin >= low && begin + size <= high;
  }
};

// One chunk of queries around a block of keys.
struct HaloChunk {
  int dy, dx;  // which neighbour of the block
  int first;   // query of that block
  int y, x;    // image coordinates of the first query

  __device__ __forceinline__ HaloChunk(const HaloJob& job, const HaloItem& item, int index) {
    const int per_block = job.window * job.window / kChunkQueries;
    const int block = index / per_block;
    dy = block / 3 - 1;
    dx = block % 3 - 1;
    first = index % per_block * kChunkQueries;
    y = (item.row + dy) * job.window - job.top + first / job.window;
    x = (item.column + dx) * job.window - job.left;
  }

  static __device__ __forceinline__ int count(const HaloJob& job) {
    return 9 * job.window * job.window / kChunkQueries;
  }

  // The first chunk from `index` on that is in the image and sees some of the CTA's keys.
  static __device__ __forceinline__ int next(const HaloJob& job, const HaloItem& item, int key_y,
                                             int key_x, int index) {
    for (; index < count(job); ++index) {
      const HaloChunk chunk(job, item, index);
      if (chunk.y < job.height && chunk.y + kChunkQueries / job.window > 0 && chunk.x < job.width &&
          chunk.x + job.window > 0 && HaloSight(job, key_y, 8, chunk.dy).some &&
          HaloSight(job, key_x, 8, chunk.dx).some) {
        break;
      }
    }
    return index;
  }
};

// x[j] (16 x 8) += the warp's own 16 pixels from `row` on (16 x D) times the transpose of the 8
// pixels from first + 8 j on. The own pixels are in `left` if they are kept in registers.
template <typename T, int D, int KT, bool kKeep>
__device__ __forceinline__ void multiply_own(float (&x)[KT][1][4],
                                             const uint32_t (&left)[1][D / 16][4], const uint4* own,
                                             int row, const uint4* pixels, int first) {
  if constexpr (kKeep) {
#pragma unroll
    for (int j = 0; j < KT; ++j) multiply_pixels<T, D, 1>(x[j], left, pixels, first + 8 * j);
  } else {
    const int lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int s = 0; s < D / 32; ++s) {
      uint32_t low[4], high[4];
      load_matrices(low, own + piece<D>(row + lane % 16, 4 * s + lane / 16));
      load_matrices(high, own + piece<D>(row + lane % 16, 4 * s + 2 + lane / 16));
#pragma unroll
      for (int j = 0; j < KT; ++j) {
        uint32_t right[4];
        load_matrices(right,
                      pixels + (first + 8 * j) * (D / 8) + piece<D>(lane % 8, 4 * s + lane / 8));
        mma<T>(x[j][0], low, {right[0], right[1]});
        mma<T>(x[j][0], high, {right[2], right[3]});
      }
    }
  }
}

template <typename T, int D, bool kBias>
__global__ __launch_bounds__(kHaloThreads, D == 32 ? 3 : 2) void halo_key_grad(HaloJob job,
                                                                               HaloPlan plan) {
  constexpr int kRows = 64, kPieces = D / 8;
  constexpr int KT = D == 32 ? 4 : 2;
  // The fragments of keys and values stay in registers where there is room.
  constexpr bool kKeep = D < 128;
  constexpr int kStagePieces = kChunkQueries * kPieces;
  uint4* own_keys = dynamic_shared<uint4>();
  uint4* own_values = own_keys + kRows * kPieces;
  uint4* stages = own_values + kRows * kPieces;  // twice queries and their gradients
  float* numbers = reinterpret_cast<float*>(stages + 4 * kStagePieces);  // twice lse and dots
  float* table = numbers + 4 * kChunkQueries;

  const HaloItem item(job, blockIdx.x, plan.split, job.columns());
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  // In the block: of the CTA, and of the warp's patch.
  const int cta_y = item.part / 2 * 8, cta_x = item.part % 2 * 8;
  const int patch_y = cta_y + warp / 2 * 4, patch_x = cta_x + warp % 2 * 4;
  const auto place = [&](int row) {
    const int y = cta_y + row / 32 * 4 + row % 16 / 4, x = cta_x + row / 16 % 2 * 4 + row % 4;
    return HaloPlace(job, item.row * job.window - job.top + y,
                     item.column * job.window - job.left + x);
  };

  const auto load = [&](int index, int stage) {
    const HaloChunk chunk(job, item, index);
    uint4* queries = stages + stage * 2 * kStagePieces;
    const int rows = kChunkQueries / job.window;
    load_rectangle<T, D>(queries, job.q, job, item, chunk.y, chunk.x, rows, job.window);
    load_rectangle<T, D>(queries + kStagePieces, job.grad, job, item, chunk.y, chunk.x, rows,
                         job.window);
    if (threadIdx.x >= kChunkQueries) return;
    const int i = int(threadIdx.x);
    const HaloPlace at(job, chunk.y + i / job.window, chunk.x + i % job.window);
    const int64_t pixel = pixel_index(job, item.batch, at.y, at.x, item.head);
    float* lse = numbers + stage * 2 * kChunkQueries;
    // Queries outside the image weigh nothing.
    lse[i] = at.inside ? static_cast<const float*>(job.lse)[pixel] * kLog2E : INFINITY;
    lse[kChunkQueries + i] = at.inside ? static_cast<const float*>(job.dots)[pixel] : 0.0f;
  };
  const auto next = [&](int index) { return HaloChunk::next(job, item, cta_y, cta_x, index); };

  const int count = HaloChunk::count(job);
  int now = next(0), following = next(now + 1);
  load_own<T, D, kRows>(own_keys, job.k, item, place);
  load_own<T, D, kRows>(own_values, job.v, item, place);
  if (now < count) load(now, 0);
  commit_copies();
  if (following < count) load(following, 1);
  commit_copies();
  if (kBias) load_table(table, job, item.head);

  const float scale = float(job.scale) * kLog2E;
  const int bits = job.window == 8 ? 3 : 4;
  const int span = job.span(), centre = job.window + job.halo - 1;
  uint32_t keys[1][D / 16][4], values[1][D / 16][4];
  float key_sums[1][D / 8][4] = {}, value_sums[1][D / 8][4] = {};

  for (int turn = 0; now < count; ++turn) {
    wait_copies<1>();
    __syncthreads();
    if (kKeep && turn == 0) {
      load_left<D>(keys[0], own_keys, warp * 16);
      load_left<D>(values[0], own_values, warp * 16);
    }
    const HaloChunk chunk(job, item, now);
    const uint4* queries = stages + turn % 2 * 2 * kStagePieces;
    const uint4* grads = queries + kStagePieces;
    const float* lse = numbers + turn % 2 * 2 * kChunkQueries;
    const float* dots = lse + kChunkQueries;
    const HaloSight down(job, patch_y, 4, chunk.dy), across(job, patch_x, 4, chunk.dx);
    const bool all = down.all && across.all;
    bool seen[2];
    int entry[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int y = patch_y + 2 * half + lane / 16, x = patch_x + lane / 4 % 4;
      seen[half] = HaloSight(job, y, 1, chunk.dy).some && HaloSight(job, x, 1, chunk.dx).some;
      // The centre of the table, where any entry will do: all queries then stay within it.
      entry[half] = (centre + (seen[half] ? y - chunk.dy * job.window : 0)) * span + centre +
                    (seen[half] ? x - chunk.dx * job.window : 0) - lane % 4 * 2;
    }
    const bool visible = down.some && across.some;
#pragma unroll 1
    for (int tile = 0; visible && tile < kChunkQueries / 8; tile += KT) {
      uint32_t packed_weights[KT / 2][1][4], packed_grads[KT / 2][1][4];
      float weights[KT][1][4], weight_grads[KT][1][4] = {};
#pragma unroll
      for (int j = 0; j < KT; ++j) {
        const int first = chunk.first + (tile + j) * 8;
        const int query = (first >> bits) * span + (first & (job.window - 1));
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          weights[j][0][r] = kBias ? table[entry[r / 2] - query - r % 2] : 0.0f;
        }
      }
      multiply_own<T, D, KT, kKeep>(weights, keys, own_keys, warp * 16, queries, tile * 8);
#pragma unroll
      for (int j = 0; j < KT; ++j) {
        float (&x)[4] = weights[j][0];
        const float2 sums = *reinterpret_cast<const float2*>(lse + (tile + j) * 8 + lane % 4 * 2);
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const float weight = fast_exp2(fmaf(x[r], scale, -(r % 2 ? sums.y : sums.x)));
          x[r] = all || seen[r / 2] ? weight : 0.0f;
        }
        packed_weights[j / 2][0][j % 2 * 2] = Half<T>::pack(x[0], x[1]);
        packed_weights[j / 2][0][j % 2 * 2 + 1] = Half<T>::pack(x[2], x[3]);
      }
      multiply_own<T, D, KT, kKeep>(weight_grads, values, own_values, warp * 16, grads, tile * 8);
#pragma unroll
      for (int j = 0; j < KT; ++j) {
        float (&x)[4] = weight_grads[j][0];
        const float2 sums = *reinterpret_cast<const float2*>(dots + (tile + j) * 8 + lane % 4 * 2);
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          x[r] = weights[j][0][r] * (x[r] - (r % 2 ? sums.y : sums.x));
        }
        packed_grads[j / 2][0][j % 2 * 2] = Half<T>::pack(x[0], x[1]);
        packed_grads[j / 2][0][j % 2 * 2 + 1] = Half<T>::pack(x[2], x[3]);
      }
#pragma unroll
      for (int j = 0; j < KT; j += 2) {
        const int first = (tile + j) * 8;
        multiply_values<T, D, 1>(value_sums, packed_weights[j / 2], grads, first, first + 8);
        multiply_values<T, D, 1>(key_sums, packed_grads[j / 2], queries, first, first + 8);
      }
    }
    __syncthreads();
    now = following;
    following = now < count ? next(now + 1) : count;
    if (following < count) load(following, turn % 2);
    commit_copies();
  }

  const float factor = float(job.scale);
  stage_rows<T, D>(own_keys, warp * 16, key_sums[0], factor, factor);
  stage_rows<T, D>(own_values, warp * 16, value_sums[0], 1.0f, 1.0f);
  __syncwarp();
  store_own<D, 16>(job.k_grad, own_keys, job, item, warp * 16, place);
  store_own<D, 16>(job.v_grad, own_values, job, item, warp * 16, place);
}

}  // namespace freqdiff
