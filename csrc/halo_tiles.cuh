// What the tensor-core kernels of halo_attention share: pixels in shared memory, products with
// them, and the walk over the keys of a block.

#pragma once

#include "halo_common.cuh"
#include "mma.cuh"

namespace freqdiff {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// How a launch of a tensor-core kernel is cut up.
struct HaloPlan {
  int group;       // blocks side by side in a CTA
  int split;       // CTAs per block
  int tiles;       // tiles of 8 keys across a region
  int pitch;       // pixels across the loaded region
  int chunk_rows;  // rows of the region per stage
  int places;      // tiles of a stage, in whole groups of 4
  int64_t ctas;
  size_t shared_bytes;
};

// 2^x to about 2 ulp, which is far below what 16-bit data keep.
__device__ __forceinline__ float fast_exp2(float x) {
#ifdef __CUDACC__
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return exp2f(x);
#endif
}

// Shared memory holds pixels of D 16-bit values in pieces of 16 bytes. This is where piece `c` of
// pixel `p` lies: the pieces c of 8 neighbouring pixels fall into different banks.
template <int D>
__device__ __forceinline__ int piece(int p, int c) {
  return p * (D / 8) + (c ^ (D == 32 ? p >> 1 & 3 : p & 7));
}

// Pixels of one image and one head. Strides are in bytes and fit in 32 bits, and nothing is
// negative: so an address takes two instructions.
struct HaloPixels {
  char* data;
  uint32_t row, column;

  __device__ __forceinline__ HaloPixels(void* data, int64_t offset, uint32_t row, uint32_t column)
      : data(static_cast<char*>(data) + offset), row(row), column(column) {}

  // 16-bit data to be read.
  __device__ __forceinline__ HaloPixels(const HaloTensor& x, const HaloItem& item)
      : HaloPixels(const_cast<void*>(x.data), 2 * (item.batch * x.batch + item.head * x.head),
                   2 * uint32_t(x.row), 2 * uint32_t(x.column)) {}

  // A dense result, `bytes` per pixel and head, where `first` counts those before the image's.
  __device__ __forceinline__ HaloPixels(void* data, const HaloJob& job, int64_t first,
                                        uint32_t bytes)
      : HaloPixels(data, first * bytes, job.width * job.heads * bytes, job.heads * bytes) {}

  __device__ __forceinline__ char* at(int y) const { return data + uint64_t(uint32_t(y)) * row; }
  __device__ __forceinline__ char* at(int y, int x) const {
    return at(y) + uint64_t(uint32_t(x)) * column;
  }
};

// Asks for a rectangle of pixels; what lies outside the image becomes zeros. `pitch` is a multiple
// of 8.
template <typename T, int D>
__device__ __forceinline__ void load_rectangle(uint4* target, const HaloTensor& source,
                                               const HaloJob& job, const HaloItem& item, int y0,
                                               int x0, int rows, int pitch) {
  constexpr int kPieces = D / 8, kStep = kHaloThreads / kPieces;
  const int c = int(threadIdx.x) % kPieces, first = int(threadIdx.x) / kPieces;
  const int step_rows = kStep / pitch, step_columns = kStep % pitch;
  const HaloPixels pixels(source, item);
  int row = first / pitch, column = first % pitch;
  for (uint4* to = target + piece<D>(first, c); row < rows; to += kHaloThreads) {
    const int y = y0 + row, x = x0 + column;
    const bool inside = unsigned(y) < unsigned(job.height) && unsigned(x) < unsigned(job.width);
    copy_async(to, inside ? pixels.at(y, x) + c * 16 : pixels.data, inside);
    row += step_rows;
    column += step_columns;
    if (column >= pitch) {
      column -= pitch;
      ++row;
    }
  }
}

// The bias of one head over the scale, which the products of queries and keys are added to: so it
// costs no arithmetic. The entries behind the table are read for keys that are masked anyway.
constexpr int kTablePadding = 8;
__device__ __forceinline__ void load_table(float* table, const HaloJob& job, int head) {
  const int entries = job.span() * job.span();
  const float factor = float(1.0 / job.scale);
  for (int i = threadIdx.x; i < entries + kTablePadding; i += kHaloThreads) {
    table[i] = i < entries
                   ? load_as<float>(job.bias, job.bias_dtype, int64_t(head) * entries + i) * factor
                   : 0.0f;
  }
}

// Rows of D values as the left factor of a tensor-core product: 16 rows from `row` on, which is a
// multiple of 8.
template <int D>
__device__ __forceinline__ void load_left(uint32_t (&registers)[D / 16][4], const uint4* pixels,
                                          int row) {
  const int lane = int(threadIdx.x) % 32;
  for (int s = 0; s < D / 16; ++s) {
    load_matrices(registers[s], pixels + row * (D / 8) + piece<D>(lane % 16, 2 * s + lane / 16));
  }
}

// c (16 x 8) += left (16 x D) times the transpose of 8 neighbouring pixels from `first` on, which
// is a multiple of 8, so that the banks of a lane do not depend on it.
template <typename T, int D, int MT>
__device__ __forceinline__ void multiply_pixels(float (&c)[MT][4],
                                                const uint32_t (&left)[MT][D / 16][4],
                                                const uint4* pixels, int first) {
  const int lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int s = 0; s < D / 32; ++s) {
    uint32_t right[4];
    load_matrices(right, pixels + first * (D / 8) + piece<D>(lane % 8, 4 * s + lane / 8));
#pragma unroll
    for (int i = 0; i < MT; ++i) {
      mma<T>(c[i], left[i][2 * s], {right[0], right[1]});
      mma<T>(c[i], left[i][2 * s + 1], {right[2], right[3]});
    }
  }
}

// c (16 x D) += left (16 x 16) times two groups of 8 neighbouring pixels (16 x D), each from a
// multiple of 8 on.
template <typename T, int D, int MT>
__device__ __forceinline__ void multiply_values(float (&c)[MT][D / 8][4],
                                                const uint32_t (&left)[MT][4], const uint4* pixels,
                                                int first, int second) {
  const int lane = int(threadIdx.x) % 32;
  const uint4* group = pixels + (lane / 8 % 2 ? second : first) * (D / 8);
#pragma unroll
  for (int n = 0; n < D / 8; n += 2) {
    uint32_t right[4];
    load_transposed(right, group + piece<D>(lane % 8, n + lane / 16));
#pragma unroll
    for (int i = 0; i < MT; ++i) {
      mma<T>(c[i][n], left[i], {right[0], right[1]});
      mma<T>(c[i][n + 1], left[i], {right[2], right[3]});
    }
  }
}

// Lays 16 rows of D results into shared memory as pixels from `row` on, which is a multiple of 8.
template <typename T, int D>
__device__ __forceinline__ void stage_rows(uint4* pixels, int row, const float (&c)[D / 8][4],
                                           float factor0, float factor1) {
  const int lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int n = 0; n < D / 8; ++n) {
    uint4* place = pixels + row * (D / 8) + piece<D>(lane / 4, n);
    uint32_t* low = reinterpret_cast<uint32_t*>(place) + lane % 4;
    uint32_t* high = reinterpret_cast<uint32_t*>(place + D) + lane % 4;
    *low = Half<T>::pack(c[n][0] * factor0, c[n][1] * factor0);
    *high = Half<T>::pack(c[n][2] * factor1, c[n][3] * factor1);
  }
}

// Sum or maximum over the four lanes that hold one row of a product.
__device__ __forceinline__ float row_sum(float value) {
  value += __shfl_xor_sync(~0u, value, 1);
  return value + __shfl_xor_sync(~0u, value, 2);
}
__device__ __forceinline__ float row_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(~0u, value, 1));
  return fmaxf(value, __shfl_xor_sync(~0u, value, 2));
}

// A pixel of a CTA's own in image coordinates, and whether it is in the image.
struct HaloPlace {
  int y, x;
  bool inside;

  __device__ __forceinline__ HaloPlace(const HaloJob& job, int y, int x)
      : y(y),
        x(x),
        inside(unsigned(y) < unsigned(job.height) && unsigned(x) < unsigned(job.width)) {}
};

// The queries of a CTA: `row` counts them over its blocks.
struct HaloQuery {
  int block;  // which of the group
  int y, x;   // in the block

  __device__ __forceinline__ HaloQuery(const HaloJob& job, const HaloItem& item, int row,
                                       int rows_per_cta) {
    const int bits = job.window == 8 ? 3 : 4;
    const int index = item.part * rows_per_cta + row;
    block = index >> (2 * bits);
    y = index >> bits & (job.window - 1);
    x = index & (job.window - 1);
  }

  __device__ __forceinline__ HaloPlace place(const HaloJob& job, const HaloItem& item,
                                             int group) const {
    return {job, item.row * job.window - job.top + y,
            (item.column * group + block) * job.window - job.left + x};
  }
};

// Asks for ROWS pixels, place(row) each.
template <typename T, int D, int ROWS, typename Place>
__device__ __forceinline__ void load_own(uint4* target, const HaloTensor& source,
                                         const HaloItem& item, Place&& place) {
  constexpr int kPieces = D / 8;
  const int c = int(threadIdx.x) % kPieces;
  const T* base = source.at<T>(item.batch, 0, 0, item.head) + c * 8;
  for (int row = int(threadIdx.x) / kPieces; row < ROWS; row += kHaloThreads / kPieces) {
    const HaloPlace at = place(row);
    const T* from = at.inside ? base + at.y * source.row + at.x * source.column : base;
    copy_async(target + piece<D>(row, c), from, at.inside);
  }
}

// Writes ROWS pixels of a warp, from `first` on, that stage_rows left in shared memory.
template <int D, int ROWS, typename Place>
__device__ __forceinline__ void store_own(void* target, const uint4* pixels, const HaloJob& job,
                                          const HaloItem& item, int first, Place&& place) {
  constexpr int kPieces = D / 8;
  const int lane = int(threadIdx.x) % 32, c = lane % kPieces;
  for (int row = first + lane / kPieces; row < first + ROWS; row += 32 / kPieces) {
    const HaloPlace at = place(row);
    if (!at.inside) continue;
    const int64_t index = pixel_index(job, item.batch, at.y, at.x, item.head);
    static_cast<uint4*>(target)[index * kPieces + c] = pixels[piece<D>(row, c)];
  }
}

// The keys of a block as its warps walk through them: tiles of 8 side by side, row by row.
struct HaloWalk {
  int x0;           // image column of the region of the first block
  int first, last;  // rows of the region that are in the image
  int low, high;    // columns of the own block's region that are in the image
  int origin;       // of the own block's region in the loaded one
  bool masked;      // whether tiles hold columns that the block does not see
  bool active;      // whether the own block is in the image at all

  __device__ __forceinline__ HaloWalk(const HaloJob& job, const HaloItem& item,
                                      const HaloPlan& plan, int block) {
    const int y0 = item.row * job.window - job.top - job.halo;
    x0 = item.column * plan.group * job.window - job.left - job.halo;
    first = max(0, -y0);
    last = min(job.side(), job.height - y0);
    origin = block * job.window;
    low = max(0, -(x0 + origin));
    high = min(job.side(), job.width - (x0 + origin));
    masked = low > 0 || high < plan.tiles * 8;
    active = item.column * plan.group + block < job.columns();
  }
};

// A run of KT tiles: where they lie in the stage and in the bias table. Where there is no tile,
// keys that the block sees stand in with weight 0. Where the side is no multiple of 8, so do pixels
// beside the region, whose infinities, if there were any, would become NaN.
template <int KT>
struct HaloTiles {
  int pixel[KT], entry[KT];
};

// Those of all tiles of a chunk, laid out in shared memory once: working them out in every step
// would cost more instructions than the softmax. Whole groups of 4.
__device__ __forceinline__ void load_places(int2* places, const HaloPlan& plan, int span) {
  const int count = plan.chunk_rows * plan.tiles;
  for (int i = threadIdx.x; i < (count + 3) / 4 * 4; i += kHaloThreads) {
    const int row = i / plan.tiles, x = (i - row * plan.tiles) * 8;
    places[i] = i < count ? make_int2(row * plan.pitch + x, row * span + x) : make_int2(0, 0);
  }
}

template <int KT>
__device__ __forceinline__ HaloTiles<KT> next_tiles(const int2* places, int number, int count) {
  HaloTiles<KT> tiles;
#pragma unroll
  for (int j = 0; j < KT; j += 2) {
    const int4 pair = *reinterpret_cast<const int4*>(places + number + j);
    tiles.pixel[j] = pair.x;
    tiles.entry[j] = pair.y;
    tiles.pixel[j + 1] = pair.z;
    tiles.entry[j + 1] = pair.w;
  }
  if (number + KT > count) {
#pragma unroll
    for (int j = 0; j < KT; ++j) {
      if (number + j >= count) tiles.pixel[j] = tiles.entry[j] = 0;
    }
  }
  return tiles;
}

// What the products of a tile are added to. `table` begins at the entry of the lane's first row and
// column, and its second row `step` before.
template <bool kBias>
__device__ __forceinline__ void begin_logits(float (&x)[4], const float* table, int step) {
#pragma unroll
  for (int i = 0; i < 4; ++i) x[i] = kBias ? table[i % 2 - i / 2 * step] : 0.0f;
}

// Masks the keys that a block does not see, in the tile that is `number` of a chunk of `count`.
template <int MT>
__device__ __forceinline__ void mask_logits(float (&x)[MT][4], const HaloPlan& plan,
                                            const HaloWalk& walk, int number, int count) {
  const int column = number % plan.tiles * 8 + int(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (number < count && column + r >= walk.low && column + r < walk.high) continue;
#pragma unroll
    for (int i = 0; i < MT; ++i) x[i][r] = x[i][r + 2] = -INFINITY;
  }
}

// Where the bias of a lane's queries lies in the table, for the first key of their region.
struct HaloEntries {
  int first;  // of the lane's first row and its first column
  int half;   // how far back that of the row 8 below is
  int tile;   // and that of the row 16 below

  __device__ __forceinline__ HaloEntries(const HaloJob& job, const HaloQuery& query) {
    const int lane = int(threadIdx.x) % 32;
    first = (job.window - 1 - query.y) * job.span() + job.window - 1 + lane % 4 * 2 - lane / 4;
    half = job.window == 8 ? job.span() : 8;
    tile = job.window == 8 ? 2 * job.span() : job.span();
  }
};

}  // namespace freqdiff
