// halo_attention on tensor cores: 16-bit data, depth 32, 64 or 128, window 8 or 16.
//
// A CTA of 4 warps works on 64 MT queries of one head: on MT whole blocks of an 8 x 8 grid side by
// side, which share their halo, or on a part of a 16 x 16 block. Keys and values come in chunks of
// rows through two stages; the softmax is online, to base 2.

#pragma once

#include "halo_tiles.cuh"

namespace freqdiff {

template <typename T, int D, int MT, bool kBias>
__global__ __launch_bounds__(kHaloThreads) void halo_forward(HaloJob job, HaloPlan plan) {
  constexpr int kRows = 64 * MT, kPieces = D / 8;
  constexpr int KT = 4;
  // A larger sum of what is left over costs nothing in 16 bits: the maximum may lag behind by this.
  constexpr float kLag = 6.0f;
  uint4* own = dynamic_shared<uint4>();
  uint4* stages = own + kRows * kPieces;
  const int stage_pieces = plan.chunk_rows * plan.pitch * kPieces;
  int2* places = reinterpret_cast<int2*>(stages + 4 * stage_pieces);
  float* table = reinterpret_cast<float*>(places + plan.places);

  const int groups = (job.columns() + plan.group - 1) / plan.group;
  const HaloItem item(job, blockIdx.x, plan.split, groups);
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int first_row = warp * 16 * MT;
  const HaloQuery first_query(job, item, first_row, kRows);
  const HaloWalk walk(job, item, plan, first_query.block);
  const int y0 = item.row * job.window - job.top - job.halo;
  const int chunks = (walk.last - walk.first + plan.chunk_rows - 1) / plan.chunk_rows;

  const auto load = [&](int chunk) {
    const int row = walk.first + chunk * plan.chunk_rows;
    const int rows = min(plan.chunk_rows, walk.last - row);
    uint4* keys = stages + chunk % 2 * 2 * stage_pieces;
    load_rectangle<T, D>(keys, job.k, job, item, y0 + row, walk.x0, rows, plan.pitch);
    load_rectangle<T, D>(keys + stage_pieces, job.v, job, item, y0 + row, walk.x0, rows,
                         plan.pitch);
  };
  const auto place = [&](int row) {
    return HaloQuery(job, item, row, kRows).place(job, item, plan.group);
  };
  load_own<T, D, kRows>(own, job.q, item, place);
  load(0);
  commit_copies();
  if (chunks > 1) load(1);
  commit_copies();
  load_places(places, plan, job.span());
  if (kBias) load_table(table, job, item.head);

  const float scale = float(job.scale) * kLog2E;
  const HaloEntries entries(job, first_query);
  const float* first_entry = table + entries.first;
  uint32_t queries[MT][D / 16][4];
  float sums[MT][D / 8][4] = {};
  float top[MT][2], total[MT][2] = {};
#pragma unroll
  for (int i = 0; i < 2 * MT; ++i) top[i / 2][i % 2] = -3e38f;

  for (int chunk = 0; chunk < chunks; ++chunk) {
    wait_copies<1>();
    __syncthreads();
    if (chunk == 0) {
#pragma unroll
      for (int i = 0; i < MT; ++i) load_left<D>(queries[i], own, first_row + 16 * i);
    }
    const uint4* keys = stages + chunk % 2 * 2 * stage_pieces + walk.origin * kPieces;
    const uint4* values = keys + stage_pieces;
    const int chunk_row = walk.first + chunk * plan.chunk_rows;
    const float* chunk_entry = first_entry + chunk_row * job.span();
    const int count = min(plan.chunk_rows, walk.last - chunk_row) * plan.tiles;
    for (int number = 0; walk.active && number < count; number += KT) {
      const HaloTiles<KT> tiles = next_tiles<KT>(places, number, count);
      float x[KT][MT][4];
#pragma unroll
      for (int j = 0; j < KT; ++j) {
#pragma unroll
        for (int i = 0; i < MT; ++i) {
          begin_logits<kBias>(x[j][i], chunk_entry + tiles.entry[j] - i * entries.tile,
                              entries.half);
        }
        multiply_pixels<T, D, MT>(x[j], queries, keys, tiles.pixel[j]);
      }
      if (walk.masked || number + KT > count) {
#pragma unroll
        for (int j = 0; j < KT; ++j) mask_logits(x[j], plan, walk, number + j, count);
      }
      float highest[MT][2];
      bool rises = false;
#pragma unroll
      for (int i = 0; i < MT; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float most = -INFINITY;
#pragma unroll
          for (int j = 0; j < KT; ++j) {
            most = fmaxf(most, fmaxf(x[j][i][2 * half], x[j][i][2 * half + 1]));
          }
          highest[i][half] = row_max(most) * scale;
          rises |= highest[i][half] > top[i][half] + kLag;
        }
      }
      if (__any_sync(~0u, rises)) {
#pragma unroll
        for (int i = 0; i < 2 * MT; ++i) {
          float& before = top[i / 2][i % 2];
          const float now = fmaxf(before, highest[i / 2][i % 2]);
          const float factor = fast_exp2(before - now);
          before = now;
          total[i / 2][i % 2] *= factor;
#pragma unroll
          for (int n = 0; n < D / 8; ++n) {
            sums[i / 2][n][i % 2 * 2] *= factor;
            sums[i / 2][n][i % 2 * 2 + 1] *= factor;
          }
        }
      }
#pragma unroll
      for (int j = 0; j < KT; j += 2) {
        uint32_t weights[MT][4];
#pragma unroll
        for (int i = 0; i < MT; ++i) {
#pragma unroll
          for (int r = 0; r < 4; ++r) {
            const float* logits = x[j + r / 2][i] + r % 2 * 2;
            const float a = fast_exp2(fmaf(logits[0], scale, -top[i][r % 2]));
            const float b = fast_exp2(fmaf(logits[1], scale, -top[i][r % 2]));
            total[i][r % 2] += a + b;
            weights[i][r] = Half<T>::pack(a, b);
          }
        }
        multiply_values<T, D, MT>(sums, weights, values, tiles.pixel[j], tiles.pixel[j + 1]);
      }
    }
    __syncthreads();
    if (chunk + 2 < chunks) load(chunk + 2);
    commit_copies();
  }

#pragma unroll
  for (int i = 0; i < MT; ++i) {
    const float total0 = row_sum(total[i][0]), total1 = row_sum(total[i][1]);
    stage_rows<T, D>(own, first_row + 16 * i, sums[i], 1.0f / total0, 1.0f / total1);
    if (lane % 4 < 2) {
      const int row = first_row + 16 * i + lane % 4 * 8 + lane / 4;
      const HaloPlace at = place(row);
      const float lse = lane % 4 ? top[i][1] + log2f(total1) : top[i][0] + log2f(total0);
      if (at.inside) {
        const int64_t index = pixel_index(job, item.batch, at.y, at.x, item.head);
        static_cast<float*>(job.lse)[index] = lse * kLn2;
      }
    }
  }
  __syncwarp();
  store_own<D, 16 * MT>(job.result, own, job, item, first_row, place);
}

}  // namespace freqdiff
