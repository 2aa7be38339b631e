// halo_attention on tensor cores: 16-bit data, depth 32, 64 or 128, window 8 or 16.
//
// A CTA of 4 warps works on 64 MT queries of one head: on MT whole blocks of an 8 x 8 grid side by
// side, which share their halo, or on a part of a 16 x 16 block. Keys and values come in chunks
// through a ring of stages (halo_ring.cuh); the softmax is online, to base 2.

#pragma once

#include "halo_ring.cuh"

namespace freqdiff {

// Tiles of 16 queries that a warp works on at once. Two where the registers allow it: each fragment
// of keys then serves two products.
constexpr int forward_tiles(int depth) { return depth == 128 ? 1 : 2; }
// CTAs that a multiprocessor shall hold, which bounds the registers. (H200, bfloat16: 194 us for
// 270 x 480 pixels of 8 heads of 32, window 8, halo 4, and 228 us for 135 x 240 of 8 of 64, window
// 16, halo 8. With 3 and 2, and products with values that wait for the exponentials of the next
// tile, 197 and 233 us.)
constexpr int forward_ctas(int depth) { return depth == 32 ? 4 : depth == 64 ? 3 : 2; }

// The running softmax of MT tiles of 16 queries. A lane holds the rows lane / 4 and 8 below.
template <typename T, int D, int MT>
struct HaloSoftmax {
  static constexpr int RT = kKeyRows<D>;
  // Weights are relative to `top`, a logit that may lag behind the largest one, as long as a lane's
  // weights of a tile and a row add up to less than this. Float16 could hold more, but the largest
  // weight is exact where it is 1, which counts where it is much larger than the others.
  static constexpr float kLimit = 64.0f;
  using Weights = uint32_t[RT / 2][MT][4];  // left factors of products, two rows of keys each

  float scale;  // of the logits, to base 2
  float sums[MT][D / 8][4] = {};
  float top[MT][2], total[MT][2] = {};  // the latter of the lane's share

  __device__ __forceinline__ explicit HaloSoftmax(float scale) : scale(scale) {
#pragma unroll
    for (int i = 0; i < 2 * MT; ++i) top[i / 2][i % 2] = -3e38f;
  }

  // The weights of a tile of keys, and their sums.
  __device__ __forceinline__ void weigh(Weights& weights, float (&sum)[MT][2],
                                        const float (&x)[RT][MT][4]) const {
#pragma unroll
    for (int j = 0; j < RT; j += 2) {
#pragma unroll
      for (int i = 0; i < MT; ++i) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const float* logits = x[j + r / 2][i] + r % 2 * 2;
          const float a = fast_exp2(fmaf(logits[0], scale, -top[i][r % 2]));
          const float b = fast_exp2(fmaf(logits[1], scale, -top[i][r % 2]));
          sum[i][r % 2] = j + r / 2 > 0 ? sum[i][r % 2] + (a + b) : a + b;
          weights[j / 2][i][r] = Half<T>::pack(a, b);
        }
      }
    }
  }

  // The largest logit of every row, or `top` if that is larger.
  __device__ __forceinline__ void find_top(float (&now)[MT][2], const float (&x)[RT][MT][4]) const {
#pragma unroll
    for (int i = 0; i < MT; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float most = fmaxf(x[0][i][2 * half], x[0][i][2 * half + 1]);
#pragma unroll
        for (int j = 1; j < RT; ++j) {
          most = fmaxf(most, fmaxf(x[j][i][2 * half], x[j][i][2 * half + 1]));
        }
        now[i][half] = fmaxf(top[i][half], row_max(most) * scale);
      }
    }
  }

  // Makes `top` fit the logits of a tile.
  __device__ __forceinline__ void raise(const float (&x)[RT][MT][4]) {
    float now[MT][2];
    find_top(now, x);
#pragma unroll
    for (int i = 0; i < MT; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float factor = fast_exp2(top[i][half] - now[i][half]);
        top[i][half] = now[i][half];
        total[i][half] *= factor;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
          sums[i][n][2 * half] *= factor;
          sums[i][n][2 * half + 1] *= factor;
        }
      }
    }
  }

  // The weights of a tile. Only where they are too large, in infinities and NaN too, does `top`
  // have to rise, which spares the search for the largest logit of every tile.
  __device__ __forceinline__ void weigh_next(Weights& weights, const float (&x)[RT][MT][4]) {
    float sum[MT][2];
    weigh(weights, sum, x);
    bool fit = true;
#pragma unroll
    for (int i = 0; i < 2 * MT; ++i) fit = fit && sum[i / 2][i % 2] < kLimit;
    if (__any_sync(~0u, !fit)) {
      raise(x);
      weigh(weights, sum, x);
    }
#pragma unroll
    for (int i = 0; i < 2 * MT; ++i) total[i / 2][i % 2] += sum[i / 2][i % 2];
  }

  // Adds the products of weights and values.
  __device__ __forceinline__ void add(const Weights& weights, const uint4* values) {
#pragma unroll
    for (int j = 0; j < RT; j += 2) {
      multiply_values<T, D, MT>(sums, weights[j / 2], values, 8 * j, 8 * j + 8);
    }
  }
};

// Masks the keys of a tile that are outside the image or the region. The others are in its rows up
// to `rows` and in columns `low` to `high`, counted from its first.
template <int RT, int MT>
__device__ __forceinline__ void mask_keys(float (&x)[RT][MT][4], int rows, int low, int high) {
  const int column = int(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const bool seen = column + r >= low && column + r < high;
#pragma unroll
    for (int j = 0; j < RT; ++j) {
      if (seen && j < rows) continue;
#pragma unroll
      for (int i = 0; i < MT; ++i) x[j][i][r] = x[j][i][r + 2] = -INFINITY;
    }
  }
}

template <typename T, int D, int MT, int W, bool kBias>
__global__ __launch_bounds__(kHaloThreads, forward_ctas(D)) void halo_forward(HaloJob job,
                                                                              HaloRing ring) {
  job.window = W;  // known to the compiler now
  constexpr int kRows = 64 * MT, kPieces = D / 8;
  constexpr int kGroup = halo_group(W, kRows), kSplit = halo_split(W, kRows);
  constexpr int RT = kKeyRows<D>, kTile = kTilePieces<D>;
  uint4* own = dynamic_shared<uint4>();
  uint4* stages = own + kRows * kPieces;
  const int stage_pieces = ring.chunk * 2 * kTile;
  float* table = reinterpret_cast<float*>(stages + 2 * stage_pieces);

  const int groups = (job.columns() + kGroup - 1) / kGroup;
  const HaloItem item(job, blockIdx.x, kSplit, groups);
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int first_row = warp * 16 * MT;
  const HaloQuery query(job, item, first_row, kRows);
  const auto place = [&](int row) {
    return HaloQuery(job, item, row, kRows).place(job, item, kGroup);
  };

  const int cta_row = item.row * W - job.top + item.part * (W / kSplit);
  if (cta_row >= job.height || cta_row + W / kSplit <= 0) return;

  // The loaded region: where it begins, and what of it is in the image.
  const int y0 = item.row * W - job.top - job.halo;
  const int x0 = item.column * kGroup * W - job.left - job.halo;
  const int first = max(0, -y0), last = min(job.side(), job.height - y0);
  const int begin = max(0, -x0) / 8, end = (min(8 * ring.columns, job.width - x0) + 7) / 8;
  // Columns that the warp's queries see.
  const int low = max(query.block * W, -x0);
  const int high = min(query.block * W + job.side(), job.width - x0);
  const int top_row = y0 + job.halo + query.y;
  const bool active = item.column * kGroup + query.block < job.columns() && top_row < job.height &&
                      top_row + 16 * MT / W > 0;

  const HaloLoader<T, D> loader(job, item, y0, x0, y0 + last - 1);
  RingChunk coming{first, begin};
  const auto load = [&](int stage) {
    if (coming.row < last) {
      loader.template load<most_tiles<D>(kGroup)>(stages + stage * stage_pieces, coming.row,
                                                  coming.column,
                                                  min(ring.chunk, end - coming.column));
      coming.advance<kGroup != 1>(begin, end, ring.chunk, RT);
    }
    commit_copies();
  };
  load_queries<D, kRows>(own, job, item, place);
  load(0);
  if (kBias) load_pairs<W>(table, job, item.head, ring.factor);

  wait_copies<0>();
  __syncthreads();
  uint32_t queries[MT][D / 16][4];
#pragma unroll
  for (int i = 0; i < MT; ++i) load_left<D>(queries[i], own, first_row + 16 * i);
  HaloSoftmax<T, D, MT> softmax(ring.scale * kLog2E);
  const float* pairs = lane_pairs<W>(table, job, query);

  bool fresh = true;
  int stage = 0;
  for (RingChunk chunk{first, begin}; chunk.row < last;
       chunk.advance<kGroup != 1>(begin, end, ring.chunk, RT)) {
    wait_copies<0>();
    __syncthreads();
    load(stage ^ 1);
    const uint4* keys = stages + stage * stage_pieces;
    stage ^= 1;
    if (!active) continue;
    const int own_begin = max(chunk.column, low / 8);
    const int own_end = min(chunk.column + ring.chunk, (high + 7) / 8);
    keys += (own_begin - chunk.column) * 2 * kTile;
    const float* entry =
        pairs + chunk.row * kPairPitch<W> + (own_begin - query.block * (W / 8)) * 8;
#pragma unroll 1
    for (int column = own_begin; column < own_end; ++column, keys += 2 * kTile, entry += 8) {
      float x[RT][MT][4];
#pragma unroll
      for (int r = 0; r < RT; ++r) {
        begin_logits<kBias, W, MT>(x[r], entry, r);
        multiply_pixels<T, D, MT>(x[r], queries, keys, 8 * r);
      }
      if (chunk.row + RT > last || column * 8 < low || column * 8 + 8 > high) {
        mask_keys(x, last - chunk.row, low - column * 8, high - column * 8);
      }
      if (fresh) {  // There is nothing to scale yet.
        softmax.find_top(softmax.top, x);
        fresh = false;
      }
      typename HaloSoftmax<T, D, MT>::Weights weights;
      softmax.weigh_next(weights, x);
      softmax.add(weights, keys + kTile);
    }
  }

  // Four lanes hold the same 2 MT rows; each of them writes the lse of one.
  float own_total = 1.0f, own_top = 0.0f;
#pragma unroll
  for (int i = 0; i < MT; ++i) {
    float factors[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = row_sum(softmax.total[i][half]);
      factors[half] = __fdividef(1.0f, total);
      if (lane % 4 == 2 * i + half) {
        own_total = total;
        own_top = softmax.top[i][half];
      }
    }
    stage_rows<T, D>(own, first_row + 16 * i, softmax.sums[i], factors[0], factors[1]);
  }
  const int64_t corner = pixel_index(job, item.batch, 0, 0, item.head);
  const HaloPlace at = place(first_row + lane % 4 * 8 + lane / 4);
  if (lane % 4 < 2 * MT && at.inside) {
    const HaloPixels lse(job.lse, job, corner, sizeof(float));
    *reinterpret_cast<float*>(lse.at(at.y, at.x)) = (own_top + log2f(own_total)) * kLn2;
  }
  __syncwarp();
  const HaloPixels results(job.result, job, corner, 2 * D);
  store_results<D, 16 * MT>(results, own, first_row, place);
}

}  // namespace freqdiff
