// Products and transposes of dense matrices that stay in the second-level cache.
// Included inside the namespace of one instruction set, after simd.h.

template <typename S>
struct Matrix {
  S* data;
  int64_t pitch;
  S* row(int64_t number) const { return data + number * pitch; }
};

// The left factor of a product, as stored or transposed.
template <typename S>
struct LeftFactor {
  const S* data;
  int64_t row, step;
};
template <typename S>
FREQDIFF_INLINE LeftFactor<S> as_stored(const Matrix<S>& a) {
  return {a.data, a.pitch, 1};
}
template <typename S>
FREQDIFF_INLINE LeftFactor<S> transposed(const Matrix<S>& a) {
  return {a.data, 1, a.pitch};
}

// Register tiles of kTileVectors x 4 rows, or 8 rows where they are narrow: the sums hide the
// latency of the multiplications and leave registers for one line of the right factor.
#if defined(FREQDIFF_AVX512)
constexpr int kTileVectors = 4;
#else
constexpr int kTileVectors = 2;
#endif
template <int Vectors>
constexpr int kTileRows = 2 * Vectors <= kTileVectors ? 8 : 4;

template <int Rows, int Vectors, typename S>
FREQDIFF_INLINE void product_tile(const S* a, int64_t a_row, int64_t a_step, const S* b,
                                  int64_t b_pitch, int depth, const S* start, int64_t start_pitch,
                                  S* c, int64_t c_pitch) {
  Vec<S> sums[Rows][Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) {
      sums[i][j] = start ? load(start + i * start_pitch + j * kLanes) : Vec<S>{};
    }
  }
  for (int k = 0; k < depth; ++k) {
    Vec<S> line[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) line[j] = load(b + k * b_pitch + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const S factor = a[i * a_row + k * a_step];
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) sums[i][j] += factor * line[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) store(c + i * c_pitch + j * kLanes, sums[i][j]);
  }
}

template <int Vectors, typename S>
void product_columns(int rows, int depth, const LeftFactor<S>& a, const S* b, int64_t b_pitch,
                     const S* start, int64_t start_pitch, S* c, int64_t c_pitch) {
  constexpr int kRows = kTileRows<Vectors>;
  for (int i = 0; i < rows; i += kRows) {
    product_tile<kRows, Vectors, S>(a.data + i * a.row, a.row, a.step, b, b_pitch, depth,
                                    start ? start + i * start_pitch : nullptr, start_pitch,
                                    c + i * c_pitch, c_pitch);
  }
}

// c = start + a b, without `start.data` c = a b; c may be start. `rows` is a multiple of 8 and
// `columns` one of kLanes. Every entry is summed up in the same order wherever it lies.
template <typename S>
void product(int rows, int columns, int depth, const LeftFactor<S>& a, const Matrix<S>& b,
             const Matrix<const S>& start, const Matrix<S>& c) {
  for (int j = 0; j < columns;) {
    const S* from = start.data ? start.data + j : nullptr;
    const auto run = [&](auto vectors) {
      product_columns<vectors, S>(rows, depth, a, b.data + j, b.pitch, from, start.pitch,
                                  c.data + j, c.pitch);
      j += vectors * kLanes;
    };
    const int left = (columns - j) / kLanes;
    if constexpr (kTileVectors > 2) {
      if (left >= 4) {
        run(std::integral_constant<int, 4>{});
        continue;
      }
    }
    if (left >= 2) {
      run(std::integral_constant<int, 2>{});
    } else {
      run(std::integral_constant<int, 1>{});
    }
  }
}

// `rows` and `columns` of the source are multiples of kLanes.
template <typename S>
void transpose_matrix(int rows, int columns, const Matrix<S>& source, const Matrix<S>& target) {
  for (int i = 0; i < rows; i += kLanes) {
    for (int j = 0; j < columns; j += kLanes) {
      Vec<S> lines[kLanes];
#pragma GCC unroll 16
      for (int k = 0; k < kLanes; ++k) lines[k] = load(source.row(i + k) + j);
      transpose<S>(lines);
#pragma GCC unroll 16
      for (int k = 0; k < kLanes; ++k) store(target.row(j + k) + i, lines[k]);
    }
  }
}
