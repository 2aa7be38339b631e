// Kernels of halo_attention: the keys and values of one block and head are packed once, then groups
// of queries pass over them. Pixels outside the image are packed as zeros; their keys are masked
// and their queries not stored. Included inside the namespace of one instruction set, after
// matrix.h and tiles_cpu.h.

// Queries that are computed together, so that their logits stay in the first-level cache.
constexpr int kForwardQueries = 16;
// In the backward their logits and gradients stay in the second level.
constexpr int kBackwardQueries = 64;

// Memory of one thread, kept between calls and handed out in at most 32 pieces. The address
// sanitizer guards the end of every piece.
template <typename S>
class Scratch {
 public:
  ~Scratch() { release(); }
  // `count`: the sum of what all pieces hold.
  void reserve(int64_t count) {
    count += kPieces * (kUnit + kGap);
    if (count > size_) {
      release();
      data_ = static_cast<S*>(::operator new(size_t(count) * sizeof(S), std::align_val_t(64)));
      size_ = count;
    }
    guard(0, size_, false);
    used_ = 0;
  }
  Matrix<S> take(int64_t rows, int64_t pitch) {
    const Matrix<S> piece{data_ + used_, pitch};
    const int64_t end = used_ + rows * pitch;
    used_ += rounded(rows * pitch) + kGap;
    if (used_ > size_) std::abort();  // more pieces than were reserved
    guard(end, used_, true);
    return piece;
  }
  static int64_t rounded(int64_t count) { return (count + kUnit - 1) / kUnit * kUnit; }

 private:
  static constexpr int64_t kUnit = 16, kPieces = 32;
  void release() {
    guard(0, size_, false);
    if (data_) ::operator delete(data_, std::align_val_t(64));
  }
#if defined(__SANITIZE_ADDRESS__)
  static constexpr int64_t kGap = 16;
  void guard(int64_t begin, int64_t end, bool closed) {
    if (closed) {
      __asan_poison_memory_region(data_ + begin, size_t(end - begin) * sizeof(S));
    } else {
      __asan_unpoison_memory_region(data_ + begin, size_t(end - begin) * sizeof(S));
    }
  }
#else
  static constexpr int64_t kGap = 0;
  void guard(int64_t, int64_t, bool) {}
#endif
  S* data_ = nullptr;
  int64_t size_ = 0, used_ = 0;
};

// The pixels of a square around a block, and which of its rows and columns lie in the image.
struct Square {
  int64_t y, x;
  int side, first_row, last_row, first_column, last_column;

  Square(const AttentionJob& job, int64_t block_row, int64_t block_column, int extra)
      : y(block_row * job.window - job.top - extra),
        x(block_column * job.window - job.left - extra),
        side(job.window + 2 * extra),
        first_row(int(std::max<int64_t>(0, -y))),
        last_row(int(std::min<int64_t>(side, job.height - y))),
        first_column(int(std::max<int64_t>(0, -x))),
        last_column(int(std::min<int64_t>(side, job.width - x))) {}

  int pixels() const { return side * side; }
  bool inside() const {
    return first_row == 0 && last_row == side && first_column == 0 && last_column == side;
  }
  // body(number in the square, y, x) for each pixel in the image.
  template <typename Body>
  FREQDIFF_INLINE void each(Body&& body) const {
    for (int row = first_row; row < last_row; ++row) {
      for (int column = first_column; column < last_column; ++column) {
        body(row * side + column, y + row, x + column);
      }
    }
  }
};

// Reads one head of the pixels of a square: `rows` gets one line per pixel, `columns` one per entry
// of the head. Either may be missing; `spare` holds what was read first then. Padding is 0.
template <typename S>
void pack(const AttentionJob& job, const AttentionJob::Operand& source, int64_t batch, int64_t head,
          const Square& square, int padded_pixels, Matrix<S> rows, Matrix<S> columns, S* spare) {
  const int64_t* strides = source.strides;
  const int depth = int(job.depth), padded_depth = job.padded_depth(kLanes);
  const bool by_pixel = strides[4] == 1 || strides[2] != 1;
  const bool whole = square.inside() && square.pixels() == padded_pixels && depth == padded_depth;
  Matrix<S> first = by_pixel ? rows : columns;
  if (!first.data) first = {spare, by_pixel ? padded_depth : padded_pixels};
  if (!whole) {
    const int lines = by_pixel ? padded_pixels : padded_depth;
    std::fill_n(first.data, lines * first.pitch, S(0));
  }
  with_float_type<S>(job.dtype, [&](auto type) {
    using T = decltype(type);
    const T* base = static_cast<const T*>(source.data) + batch * strides[0] + head * strides[3];
    if (by_pixel) {
      square.each([&](int number, int64_t y, int64_t x) {
        read_run<S, T>(base + y * strides[1] + x * strides[2], strides[4], depth,
                       first.row(number));
      });
      return;
    }
    for (int i = 0; i < depth; ++i) {
      for (int row = square.first_row; row < square.last_row; ++row) {
        read_run<S, T>(
            base + i * strides[4] + (square.y + row) * strides[1] + square.x + square.first_column,
            1, square.last_column - square.first_column,
            first.row(i) + row * square.side + square.first_column);
      }
    }
  });
  if (by_pixel && columns.data) {
    transpose_matrix<S>(padded_pixels, padded_depth, first, columns);
  } else if (!by_pixel && rows.data) {
    transpose_matrix<S>(padded_depth, padded_pixels, first, rows);
  }
}

// -inf for keys outside the image and for padding, else 0. Returns whether there are any.
template <typename S>
bool find_masked(const Square& square, int padded_keys, S* mask) {
  if (square.inside() && square.pixels() == padded_keys) return false;
  std::fill_n(mask, padded_keys, -std::numeric_limits<S>::infinity());
  square.each([&](int number, int64_t, int64_t) { mask[number] = S(0); });
  return true;
}

template <typename S>
FREQDIFF_INLINE Vec<S> masked(const Vec<S>& value, const S* mask, S replacement) {
  return load(mask) < S(0) ? Vec<S>{} + replacement : value;
}

template <typename S>
void scale_rows(const Matrix<S>& values, int64_t count, S factor) {
  for (int64_t i = 0; i < count; ++i) values.data[i] *= factor;
}

// Turns 4 rows of logits into exponentials less their maximum; gives the maxima and the sums.
template <typename S>
void exponentials(const Matrix<S>& logits, int columns, const S* mask, S* maxima, S* sums) {
  constexpr int kRows = 4;
  const auto larger = [](const Vec<S>& a, const Vec<S>& b)
                          __attribute__((always_inline)) { return a > b ? a : b; };
  const auto add = [](const Vec<S>& a, const Vec<S>& b)
                       __attribute__((always_inline)) { return a + b; };
  Vec<S> most[kRows], sum[kRows];
  for (int i = 0; i < kRows; ++i) {
    most[i] = Vec<S>{} - std::numeric_limits<S>::infinity();
    sum[i] = Vec<S>{};
  }
  for (int j = 0; j < columns; j += kLanes) {
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      Vec<S> x = load(logits.row(i) + j);
      if (mask) {
        x = masked<S>(x, mask + j, -std::numeric_limits<S>::infinity());
        store(logits.row(i) + j, x);
      }
      most[i] = larger(x, most[i]);
    }
  }
  for (int i = 0; i < kRows; ++i) most[i] = over_lanes<S>(most[i], larger);
  for (int j = 0; j < columns; j += kLanes) {
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      const Vec<S> x = exp(load(logits.row(i) + j) - most[i]);
      store(logits.row(i) + j, x);
      sum[i] += x;
    }
  }
  for (int i = 0; i < kRows; ++i) {
    maxima[i] = most[i][0];
    sums[i] = over_lanes<S>(sum[i], add)[0];
  }
}

// Offset of one pixel and head in a contiguous (batch, height, width, heads) tensor.
FREQDIFF_INLINE int64_t offset_of(const AttentionJob& job, int64_t batch, int64_t y, int64_t x,
                                  int64_t head) {
  return ((batch * job.height + y) * job.width + x) * job.heads + head;
}

template <typename S>
void attention_forward(const AttentionJob& job, int64_t begin, int64_t end) {
  thread_local Scratch<S> scratch;
  const int queries = job.padded_queries(kLanes), keys = job.padded_keys(kLanes);
  const int depth = job.padded_depth(kLanes), pitch = job.key_pitch(kLanes);
  scratch.reserve(int64_t(queries) * (depth + 1) +
                  int64_t(depth) * (pitch + 2 * std::max(keys, queries) + kForwardQueries) +
                  int64_t(kForwardQueries) * pitch + keys);
  const Matrix<S> q = scratch.take(queries, depth), k = scratch.take(depth, pitch),
                  v = scratch.take(keys, depth), logits = scratch.take(kForwardQueries, pitch),
                  sums = scratch.take(kForwardQueries, depth);
  S* lse = scratch.take(1, queries).data;
  S* mask_row = scratch.take(1, keys).data;
  S* spare = scratch.take(std::max(keys, queries), depth).data;
  const Matrix<S> none{nullptr, 0};

  for (int64_t work = begin; work < end; ++work) {
    const int64_t head = work % job.heads, block = work / job.heads;
    const int64_t column = block % job.block_columns();
    const int64_t row = block / job.block_columns() % job.block_rows();
    const int64_t batch = block / job.block_columns() / job.block_rows();
    const Square own(job, row, column, 0), seen(job, row, column, job.halo);
    pack<S>(job, job.q, batch, head, own, queries, q, none, spare);
    pack<S>(job, job.k, batch, head, seen, keys, none, k, spare);
    pack<S>(job, job.v, batch, head, seen, keys, v, none, spare);
    scale_rows<S>(q, int64_t(queries) * depth, S(job.scale));
    const S* mask = find_masked<S>(seen, keys, mask_row) ? mask_row : nullptr;
    const S* bias = static_cast<const S*>(job.bias);
    if (bias) bias += head * queries * pitch;

    for (int first = 0; first < queries; first += kForwardQueries) {
      const int count = std::min(kForwardQueries, queries - first);
      const Matrix<const S> start{bias ? bias + int64_t(first) * pitch : nullptr, pitch};
      product<S>(count, keys, int(job.depth), as_stored(Matrix<S>{q.row(first), depth}), k, start,
                 logits);
      alignas(64) S maxima[kForwardQueries]{}, totals[kForwardQueries];
      std::fill_n(totals, kForwardQueries, S(1));
      for (int i = 0; i < count; i += 4) {
        exponentials<S>({logits.row(i), pitch}, keys, mask, maxima + i, totals + i);
      }
      product<S>(count, depth, keys, as_stored(logits), v, {nullptr, 0}, sums);
      for (int i = 0; i < count; i += kLanes) {
        store(lse + first + i, load(maxima + i) + log(load(totals + i)));
      }
      with_float_type<S>(job.dtype, [&](auto type) {
        using T = decltype(type);
        own.each([&](int number, int64_t y, int64_t x) {
          if (number < first || number >= first + count) return;
          T* target = static_cast<T*>(job.out) + offset_of(job, batch, y, x, head) * job.depth;
          write_run<S, T>(sums.row(number - first), int(job.depth), S(1) / totals[number - first],
                          S(0), target, 1, false);
        });
      });
    }
    own.each([&](int number, int64_t y, int64_t x) {
      static_cast<S*>(job.lse)[offset_of(job, batch, y, x, head)] = lse[number];
    });
  }
}
