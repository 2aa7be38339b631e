// Kernels of rasterize_paths and filter_grid. Included inside the namespace of one instruction set,
// after tiles_cpu.h and attention_cpu.h.

// The two pixels of one axis that a shift falls between; `part` is the share of the second.
template <typename S>
struct Split {
  int64_t first, second;
  S part;

  Split(S shift, int64_t radius) {
    const S limit = S(radius);
    // Comparisons that are false for NaN: it stays in `part` and never becomes an index.
    const S limited = shift < -limit ? -limit : shift > limit ? limit : shift;
    const S whole = std::floor(limited);
    part = limited - whole;
    first = radius + (whole > -limit ? int64_t(whole) : -radius);
    second = std::min(first + 1, 2 * radius);
  }
};

template <typename S>
void raster_paths(const RasterJob& job, int64_t begin, int64_t end) {
  const int64_t side = 2 * job.radius + 1;
  for (int64_t path = begin; path < end; ++path) {
    const S* shifts = static_cast<const S*>(job.displacements) + path * job.points * 2;
    const S* weights = static_cast<const S*>(job.weights) + path * job.points;
    S* kernel = static_cast<S*>(job.kernels) + path * side * side;
    std::fill_n(kernel, side * side, S(0));
    for (int64_t n = 0; n < job.points; ++n) {
      const Split<S> y(shifts[2 * n], job.radius), x(shifts[2 * n + 1], job.radius);
      const S lower = weights[n] * y.part, upper = weights[n] - lower;
      S *above = kernel + y.first * side, *below = kernel + y.second * side;
      const S above_right = upper * x.part, below_right = lower * x.part;
      above[x.first] += upper - above_right;
      above[x.second] += above_right;
      below[x.first] += lower - below_right;
      below[x.second] += below_right;
    }
  }
}

// Vectors of a row that are summed up at once: with two sums each they fill the registers, and a
// block of 192 pixels takes them all.
#if defined(FREQDIFF_AVX512)
constexpr int kFilterVectors = 12;
#elif defined(FREQDIFF_AVX2)
constexpr int kFilterVectors = 6;
#else
constexpr int kFilterVectors = 4;
#endif

// Taps of one group of sums.
constexpr int kSumTaps = 64;

// What is summed up while a tile is filtered: two sums for every pixel that is read, because a load
// that crosses a cache line takes twice as long as a multiplication. (With one sum for one read, a
// 12 pixel disk took 77 ms instead of 51 and paths of 16 pixels 56 ms instead of 38, on a frame of
// 3 x 2160 x 3840 and one thread with AVX-512.)
//
// Sum 0 has the weights of the left nodes and sum 1 those of the right ones; or, where these are
// the same (`pairs`), sum 1 is that of the next row of the result, whose tap at the same pixel lies
// one row further down in the kernel.
template <typename S>
struct Taps {
  bool pairs;
  int count;          // taps that at least one of the sums has
  int32_t* offsets;   // from the first source pixel of a result to that of the tap
  Matrix<S> first;    // one row per sum: the weights of the upper nodes
  Matrix<S> change;   // what the lower nodes add to them
  Matrix<S> weights;  // those of one row of the result

  // `v`: how far the rows of both sums lie from the upper nodes to the lower ones.
  void blend(S v0, S v1) {
    for (int sum = 0; sum < 2; ++sum) {
      const S v = sum ? v1 : v0;
      const S *start = first.row(sum), *step = change.row(sum);
      S* result = weights.row(sum);
      for (int t = 0; t < count; ++t) result[t] = start[t] + v * step[t];
    }
  }
};

template <typename S>
bool any_nonzero(const S* values, int count) {
  int any = 0;
  for (int i = 0; i < count; ++i) any |= values[i] != S(0);
  return any;
}

// Only taps that are 0 at all four nodes around the tile are left out. `zeros` is an empty row of a
// kernel.
template <typename S>
void collect_taps(const FilterJob& job, int64_t image, const FilterSpan& rows,
                  const FilterSpan& columns, int64_t pitch, const S* zeros, Taps<S>& taps) {
  const int side = int(job.side);
  const S* kernels = static_cast<const S*>(job.kernels) + image * job.stride_kernels;
  const auto node = [&](int64_t row, int64_t column) {
    return kernels + (row * job.node_columns + column) * side * side;
  };
  const S* corners[4] = {node(rows.node, columns.node), node(rows.next, columns.node),
                         node(rows.node, columns.next), node(rows.next, columns.next)};
  taps.pairs =
      corners[0] == corners[2] || (std::equal(corners[0], corners[0] + side * side, corners[2]) &&
                                   std::equal(corners[1], corners[1] + side * side, corners[3]));
  taps.count = 0;
  for (int i = taps.pairs ? -1 : 0; i < side; ++i) {
    const S* lines[4];
    bool any = false;
    for (int corner = 0; corner < 4; ++corner) {
      const int line = i + (taps.pairs && corner >= 2);
      lines[corner] = line < 0 || line == side ? zeros : corners[corner] + line * side;
      any = any || any_nonzero(lines[corner], side);
    }
    // Most rows of the kernel of a motion path are empty.
    if (!any) continue;
    for (int j = 0; j < side; ++j) {
      const S a = lines[0][j], b = lines[1][j], c = lines[2][j], d = lines[3][j];
      if (a == S(0) && b == S(0) && c == S(0) && d == S(0)) continue;
      // A convolution: what lies above and to the left moves down and to the right.
      taps.offsets[taps.count] = int32_t((side - 1 - i) * pitch + (side - 1 - j));
      taps.first.row(0)[taps.count] = a;
      taps.first.row(1)[taps.count] = c;
      taps.change.row(0)[taps.count] = b - a;
      taps.change.row(1)[taps.count] = d - c;
      ++taps.count;
    }
  }
}

// Both sums of `Vectors` vectors of a row. Every kSumTaps taps have sums of their own: the rounding
// errors then grow with the number of such groups, not with that of all taps (33 x 33 taps of
// one sign: 7e-8 of the result instead of 4e-7).
template <int Vectors, typename S>
void filter_run(const S* source, const Taps<S>& taps, S* out, S* other_out) {
  const S *weights = taps.weights.row(0), *other_weights = taps.weights.row(1);
  int t = 0;
  do {
    const bool first = t == 0;
    const int end = std::min(t + kSumTaps, taps.count);
    Vec<S> sums[Vectors] = {}, others[Vectors] = {};
    for (; t < end; ++t) {
      const S* shifted = source + taps.offsets[t];
#pragma GCC unroll 12
      for (int i = 0; i < Vectors; ++i) {
        const Vec<S> pixels = in_register<S>(load(shifted + i * kLanes));
        sums[i] += weights[t] * pixels;
        others[i] += other_weights[t] * pixels;
      }
    }
#pragma GCC unroll 12
    for (int i = 0; i < Vectors; ++i) {
      S *target = out + i * kLanes, *other = other_out + i * kLanes;
      store(target, first ? sums[i] : load(target) + sums[i]);
      store(other, first ? others[i] : load(other) + others[i]);
    }
  } while (t < taps.count);
}

template <typename S>
using FilterRun = void (*)(const S*, const Taps<S>&, S*, S*);

template <typename S, size_t... Index>
FilterRun<S> filter_run_of(int vectors, std::index_sequence<Index...>) {
  static constexpr FilterRun<S> kRuns[] = {filter_run<int(Index) + 1, S>...};
  return kRuns[vectors - 1];
}

// One row of the result or two: `vectors` vectors in runs of nearly equal length. `u`: how far each
// pixel lies from the left nodes to the right ones.
template <typename S>
void filter_rows(const S* source, const Taps<S>& taps, const S* u, int vectors, Matrix<S> lines) {
  S *const line = lines.row(0), *const other = lines.row(1);
  const int runs = (vectors + kFilterVectors - 1) / kFilterVectors;
  for (int run = 0, done = 0; run < runs; ++run) {
    const int count = (vectors - done) / (runs - run), at = done * kLanes;
    filter_run_of<S>(count, std::make_index_sequence<kFilterVectors>{})(source + at, taps,
                                                                        line + at, other + at);
    done += count;
  }
  if (taps.pairs) return;
  for (int x = 0; x < vectors * kLanes; ++x) line[x] += u[x] * (other[x] - line[x]);
}

// Copies what a tile of one channel sees, so that its rows lie close to each other and end in
// zeros, which only pixels that are not stored see.
template <typename S>
void read_patch(const FilterJob& job, const S* source, int64_t rows, int64_t columns,
                Matrix<S> patch, int64_t patch_rows) {
  for (int64_t y = 0; y < rows; ++y) {
    std::copy_n(source + y * job.stride_row, columns, patch.row(y));
    std::fill_n(patch.row(y) + columns, patch.pitch - columns, S(0));
  }
  std::fill_n(patch.row(rows), (patch_rows - rows) * patch.pitch, S(0));
}

template <typename S>
void filter_tiles(const FilterJob& job, int64_t begin, int64_t end) {
  const int64_t border = job.side - 1, patch_rows = job.tile_height + border + 1;
  const int64_t most_taps = Scratch<S>::rounded(job.side * (job.side + 1));
  const int64_t padded_width = Scratch<S>::rounded(job.tile_width);
  // An odd number of cache lines, so that the rows do not collide in the cache.
  constexpr int64_t kLine = 64 / sizeof(S);
  const int64_t pitch = ((padded_width + border + kLine - 1) / kLine | 1) * kLine;
  thread_local Scratch<S> scratch;
  thread_local Scratch<int32_t> offsets;
  scratch.reserve(patch_rows * pitch + 3 * padded_width + 6 * most_taps + job.side);
  offsets.reserve(most_taps);
  const Matrix<S> patch = scratch.take(patch_rows, pitch);
  const Matrix<S> lines = scratch.take(2, padded_width);
  S* const u = scratch.take(1, padded_width).data;
  S* const zeros = scratch.take(1, job.side).data;
  std::fill_n(zeros, job.side, S(0));
  Taps<S> taps{false,
               0,
               offsets.take(1, most_taps).data,
               scratch.take(2, most_taps),
               scratch.take(2, most_taps),
               scratch.take(2, most_taps)};

  const int64_t across = int64_t(job.columns.size()), tiles = int64_t(job.rows.size()) * across;
  const Dtype dtype = std::is_same_v<S, double> ? Dtype::kFloat64 : Dtype::kFloat32;
  for (int64_t work = begin; work < end; ++work) {
    const int64_t image = work / tiles;
    const FilterSpan &rows = job.rows[work % tiles / across], &columns = job.columns[work % across];
    const int64_t width = columns.end - columns.begin, height = rows.end - rows.begin;
    const int vectors = int((width + kLanes - 1) / kLanes);
    collect_taps<S>(job, image, rows, columns, pitch, zeros, taps);
    for (int64_t x = 0; x < vectors * kLanes; ++x) u[x] = columns.share<S>(x, job.step);
    for (int64_t channel = 0; channel < job.channels; ++channel) {
      read_patch<S>(job,
                    static_cast<const S*>(job.image) + image * job.stride_batch +
                        channel * job.stride_channel + rows.begin * job.stride_row + columns.begin,
                    height + border, width + border, patch, patch_rows);
      const int64_t target =
          ((image * job.channels + channel) * job.height + rows.begin) * job.width + columns.begin;
      const int rows_at_once = taps.pairs ? 2 : 1;
      for (int64_t y = 0; y < height; y += rows_at_once) {
        const S v = rows.share<S>(y, job.step);
        taps.blend(v, taps.pairs ? rows.share<S>(y + 1, job.step) : v);
        filter_rows<S>(patch.row(y), taps, u, vectors, lines);
        for (int64_t row = y; row < std::min(y + rows_at_once, height); ++row) {
          write_run<S>(lines.row(row - y), int(width), 1.0, 0.0, job.result, dtype,
                       target + row * job.width, 1, job.stream);
        }
      }
    }
  }
  finish_streams();
}
