// Keys and values of a region on their way through shared memory, for the forward kernel.
//
// The region is cut into tiles 8 keys wide and kKeyRows high, which a warp works on at once. A tile
// lies in one piece, the values behind the keys, so that all offsets within it are constants. A
// chunk is some tiles side by side, and fills one stage of the ring.

#pragma once

#include "halo_tiles.cuh"

namespace freqdiff {

// A stage of a CTA of one block, see most_tiles; not timed.
constexpr int kStageBytes = 16 << 10;

// Rows of keys in a tile, 2 or 4: as many as the registers allow.
template <int D>
constexpr int kKeyRows = D == 32 ? 4 : 2;
// The keys, and again the values, of a tile, in pieces of 16 bytes.
template <int D>
constexpr int kTilePieces = kKeyRows<D> * D;

// Tiles of a chunk at most, where a CTA has `group` blocks side by side. Those see different
// columns; all columns in one chunk then give every warp something to do.
template <int D>
constexpr int most_tiles(int group) {
  constexpr int kFit = kStageBytes / (32 * kTilePieces<D>);
  return group > 1 ? group + 2 : kFit > 0 ? kFit : 1;
}

// How a launch of the forward kernel is cut up.
struct HaloRing {
  int columns;   // tiles across the loaded region
  int chunk;     // tiles of a chunk, at most
  float scale;   // of the products of queries and keys
  float factor;  // 1 / scale
};

// Where a chunk begins in the loaded region: its row, and its column of tiles.
struct RingChunk {
  int row, column;

  // To the next one, of a region of columns `begin` to `end`. `kWhole`: a chunk has all columns.
  template <bool kWhole>
  __device__ __forceinline__ void advance(int begin, int end, int columns, int rows) {
    if (!kWhole) {
      column += columns;
      if (column < end) return;
      column = begin;
    }
    row += rows;
  }
};

// A thread's share of all tiles: piece `c` of one pixel of every 128 pieces. What lies outside the
// image is masked later; the nearest pixel in the image stands in for it, which costs fewer
// instructions than zeros. The block sees that pixel, so that its infinities do no more harm.
template <typename T, int D>
struct HaloLoader {
  static constexpr int kPieces = D / 8;
  static constexpr int kPasses = kTilePieces<D> / kHaloThreads;
  static_assert(kTilePieces<D> % kHaloThreads == 0);

  HaloPixels keys, values;
  int y, x, last_y, last_x, target;

  __device__ __forceinline__ HaloLoader(const HaloJob& job, const HaloItem& item, int y0, int x0,
                                        int last_y)
      : keys(job.k, item), values(job.v, item), last_y(last_y), last_x(job.width - 1) {
    const int c = int(threadIdx.x) % kPieces, pixel = int(threadIdx.x) / kPieces;
    keys.data += c * 16;
    values.data += c * 16;
    y = y0 + pixel / 8;
    x = x0 + pixel % 8;
    target = piece<D>(pixel, c);
  }

  // Asks for `count` tiles, kMost at most, from a row and a column of tiles on.
  template <int kMost>
  __device__ __forceinline__ void load(uint4* stage, int row, int column, int count) const {
    uint4* to = stage + target;
    const char *from_keys[kPasses], *from_values[kPasses];
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      const int at = min(y + row + i * (kHaloThreads / kPieces / 8), last_y);
      from_keys[i] = keys.at(at);
      from_values[i] = values.at(at);
      keep(from_keys[i]);
      keep(from_values[i]);
    }
    const int across = x + column * 8;
#pragma unroll
    for (int tile = 0; tile < kMost; ++tile, to += 2 * kTilePieces<D>) {
      if (tile >= count) break;
      const int at = max(min(across + 8 * tile, last_x), 0);
#pragma unroll
      for (int i = 0; i < kPasses; ++i) {
        copy_async(to + i * kHaloThreads, from_keys[i] + uint64_t(uint32_t(at)) * keys.column);
        copy_async(to + i * kHaloThreads + kTilePieces<D>,
                   from_values[i] + uint64_t(uint32_t(at)) * values.column);
      }
    }
  }
};

// Asks for the queries of a CTA; what lies outside the image is not stored in the end.
template <int D, int ROWS, typename Place>
__device__ __forceinline__ void load_queries(uint4* target, const HaloJob& job,
                                             const HaloItem& item, Place&& place) {
  constexpr int kPieces = D / 8;
  const int c = int(threadIdx.x) % kPieces;
  const HaloPixels queries(job.q, item);
#pragma unroll
  for (int i = 0; i < ROWS * kPieces / kHaloThreads; ++i) {
    const int row = int(threadIdx.x) / kPieces + i * (kHaloThreads / kPieces);
    const HaloPlace at = place(row);
    const int y = max(min(at.y, job.height - 1), 0), x = max(min(at.x, job.width - 1), 0);
    copy_async(target + piece<D>(row, c), queries.at(y, x) + c * 16);
  }
}

// Writes ROWS results of a warp, from `first` on, a multiple of 8, that stage_rows left in shared
// memory.
template <int D, int ROWS, typename Place>
__device__ __forceinline__ void store_results(const HaloPixels& results, const uint4* pixels,
                                              int first, Place&& place) {
  constexpr int kPieces = D / 8;
  const int lane = int(threadIdx.x) % 32, c = lane % kPieces;
#pragma unroll
  for (int i = 0; i < ROWS * kPieces / 32; ++i) {
    const int row = first + lane / kPieces + i * (32 / kPieces);
    const HaloPlace at = place(row);
    if (at.inside) {
      reinterpret_cast<uint4*>(results.at(at.y, at.x))[c] =
          pixels[first * kPieces + piece<D>(row - first, c)];
    }
  }
}

// The bias of one head over the scale, as load_table has it. Lanes read two neighbours at once,
// which have to lie at an even place: half of the lanes find them in a second copy, shifted by one
// entry and by half of the banks.
template <int W>
constexpr int kPairPitch = 4 * W;
// Keys of the last tiles that are masked anyway reach beyond the last row.
__host__ __device__ constexpr int pair_rows(int span) { return span + 3; }
template <int W>
__host__ __device__ constexpr int second_copy(int span) {
  return pair_rows(span) * kPairPitch<W> + 16;
}
template <int W>
constexpr size_t pair_bytes(int span) {
  return 4 * (size_t(second_copy<W>(span)) + pair_rows(span) * kPairPitch<W>);
}

template <int W>
__device__ __forceinline__ void load_pairs(float* table, const HaloJob& job, int head,
                                           float factor) {
  constexpr int kBatch = 8;  // numbers on their way at once
  const int span = job.span(), lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  with_float_type(job.bias_dtype, [&](auto type) {
    using B = decltype(type);
    const B* bias = static_cast<const B*>(job.bias) + int64_t(head) * span * span;
#pragma unroll 1
    for (int column = lane; column < 4 * W; column += 32) {
#pragma unroll 1
      for (int first = warp; first < 4 * W; first += kBatch * kHaloWarps) {
        float values[kBatch];
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          const int row = min(first + i * kHaloWarps, span - 1);
          values[i] = float(widen(bias[row * span + min(column, span - 1)])) * factor;
        }
        float* entry = table + first * kPairPitch<W> + column;
        float* second = entry + second_copy<W>(span) - 1;
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          const int offset = i * kHaloWarps * kPairPitch<W>;
          if (first + i * kHaloWarps >= span || column >= span) continue;
          entry[offset] = values[i];
          if (column > 0) second[offset] = values[i];
        }
      }
    }
  });
}

// The entry of the first key of the region and a lane's first query, of `query` on.
template <int W>
__device__ __forceinline__ const float* lane_pairs(const float* table, const HaloJob& job,
                                                   const HaloQuery& query) {
  const int lane = int(threadIdx.x) % 32;
  const int column = W - 1 - lane / 4 + lane % 4 * 2;
  return table + (W - 1 - query.y) * kPairPitch<W> + column +
         (column % 2 ? second_copy<W>(job.span()) - 1 : 0);
}

// What the products of row `r` of a tile are added to.
template <bool kBias, int W, int MT>
__device__ __forceinline__ void begin_logits(float (&x)[MT][4], const float* pairs, int r) {
#pragma unroll
  for (int i = 0; i < MT; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // The row 8 below is the next row of queries, or the other half of this one.
      const int offset =
          W == 8 ? (r - 2 * i - half) * kPairPitch<W> : (r - i) * kPairPitch<W> - 8 * half;
      float2 pair = make_float2(0.0f, 0.0f);
      if (kBias) pair = *reinterpret_cast<const float2*>(pairs + offset);
      x[i][2 * half] = pair.x;
      x[i][2 * half + 1] = pair.y;
    }
  }
}

}  // namespace freqdiff
