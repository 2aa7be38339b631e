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

// The taps that at least one of the four kernels around a tile has. `offsets` lead from the first
// source pixel of a result to that of the tap; `first` and `change` are the weights of the upper
// nodes and what the lower ones add to them, one row of the matrices for the left, one for the
// right side.
template <typename S>
struct Taps {
  int count;
  bool uniform;  // left and right are the same
  int32_t* offsets;
  Matrix<S> first, change, row;

  // The weights of one row of the result, `v` of the way from the upper nodes to the lower.
  void blend(S v) {
    for (int side = 0; side < (uniform ? 1 : 2); ++side) {
      const S *start = first.row(side), *step = change.row(side);
      S* weights = row.row(side);
      for (int t = 0; t < count; ++t) weights[t] = start[t] + v * step[t];
    }
  }
};

template <typename S>
bool any_nonzero(const S* values, int count) {
  int any = 0;
  for (int i = 0; i < count; ++i) any |= values[i] != S(0);
  return any;
}

template <typename S>
void collect_taps(const FilterJob& job, int64_t image, const FilterSpan& rows,
                  const FilterSpan& columns, int64_t pitch, Taps<S>& taps) {
  const int side = int(job.side);
  const S* kernels = static_cast<const S*>(job.kernels) + image * job.stride_kernels;
  const auto node = [&](int64_t row, int64_t column) {
    return kernels + (row * job.node_columns + column) * side * side;
  };
  const S* corners[4] = {node(rows.node, columns.node), node(rows.node, columns.next),
                         node(rows.next, columns.node), node(rows.next, columns.next)};
  taps.count = 0;
  taps.uniform = true;
  for (int i = 0; i < side; ++i) {
    const auto has_taps = [&](const S* corner) { return any_nonzero(corner + i * side, side); };
    // Most rows of the kernel of a motion path are empty.
    if (std::none_of(corners, corners + 4, has_taps)) continue;
    for (int j = 0; j < side; ++j) {
      const int tap = i * side + j;
      const S a = corners[0][tap], b = corners[1][tap], c = corners[2][tap], d = corners[3][tap];
      if (a == S(0) && b == S(0) && c == S(0) && d == S(0)) continue;
      // A convolution: what lies above and to the left moves down and to the right.
      taps.offsets[taps.count] = int32_t((side - 1 - i) * pitch + (side - 1 - j));
      taps.first.row(0)[taps.count] = a;
      taps.first.row(1)[taps.count] = b;
      taps.change.row(0)[taps.count] = c - a;
      taps.change.row(1)[taps.count] = d - b;
      taps.uniform = taps.uniform && a == b && c == d;
      ++taps.count;
    }
  }
}

// `Vectors` vectors of one row of the result.
template <int Vectors, bool Uniform, typename S>
void filter_run(const S* source, const Taps<S>& taps, const S* u, S* out) {
  const S *left = taps.row.row(0), *right = taps.row.row(1);
  Vec<S> left_sums[Vectors] = {}, right_sums[Vectors] = {};
  for (int t = 0; t < taps.count; ++t) {
    const S* shifted = source + taps.offsets[t];
#pragma GCC unroll 12
    for (int i = 0; i < Vectors; ++i) {
      const Vec<S> pixels = load(shifted + i * kLanes);
      left_sums[i] += left[t] * pixels;
      if constexpr (!Uniform) right_sums[i] += right[t] * pixels;
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < Vectors; ++i) {
    Vec<S> sum = left_sums[i];
    if constexpr (!Uniform) sum += load(u + i * kLanes) * (right_sums[i] - sum);
    store(out + i * kLanes, sum);
  }
}

template <typename S>
using FilterRun = void (*)(const S*, const Taps<S>&, const S*, S*);

template <typename S, size_t... Index>
FilterRun<S> filter_run_of(int vectors, bool uniform, std::index_sequence<Index...>) {
  static constexpr FilterRun<S> kRuns[2][sizeof...(Index)] = {
      {filter_run<int(Index) + 1, false, S>...}, {filter_run<int(Index) + 1, true, S>...}};
  return kRuns[uniform][vectors - 1];
}

// One row of the result: `vectors` vectors in runs of nearly equal length.
template <typename S>
void filter_row(const S* source, const Taps<S>& taps, const S* u, int vectors, S* out) {
  const int runs = (vectors + kFilterVectors - 1) / kFilterVectors;
  for (int run = 0, done = 0; run < runs; ++run) {
    const int count = (vectors - done) / (runs - run);
    const int at = done * kLanes;
    filter_run_of<S>(count, taps.uniform, std::make_index_sequence<kFilterVectors>{})(
        source + at, taps, u + at, out + at);
    done += count;
  }
}

template <typename S>
void filter_tiles(const FilterJob& job, int64_t begin, int64_t end) {
  const int64_t border = job.side - 1, taps_most = Scratch<S>::rounded(job.side * job.side);
  const int64_t padded_width = (job.tile_width + kLanes - 1) / kLanes * kLanes;
  // An odd number of cache lines, so that the rows do not collide in the cache.
  constexpr int64_t kLine = 64 / sizeof(S);
  const int64_t pitch = ((padded_width + border + kLine - 1) / kLine | 1) * kLine;
  thread_local Scratch<S> scratch;
  thread_local Scratch<int32_t> offsets;
  scratch.reserve((job.tile_height + border) * pitch + 2 * Scratch<S>::rounded(padded_width) +
                  6 * taps_most);
  offsets.reserve(taps_most);
  const Matrix<S> patch = scratch.take(job.tile_height + border, pitch);
  S* const u = scratch.take(1, padded_width).data;
  S* const line = scratch.take(1, padded_width).data;
  Taps<S> taps{0,
               false,
               offsets.take(1, taps_most).data,
               scratch.take(2, taps_most),
               scratch.take(2, taps_most),
               scratch.take(2, taps_most)};

  const int64_t across = int64_t(job.columns.size()), tiles = int64_t(job.rows.size()) * across;
  const Dtype dtype = std::is_same_v<S, double> ? Dtype::kFloat64 : Dtype::kFloat32;
  for (int64_t work = begin; work < end; ++work) {
    const int64_t image = work / tiles;
    const FilterSpan &rows = job.rows[work % tiles / across], &columns = job.columns[work % across];
    const int64_t width = columns.end - columns.begin;
    const int vectors = int((width + kLanes - 1) / kLanes);
    collect_taps<S>(job, image, rows, columns, pitch, taps);
    for (int64_t x = 0; x < vectors * kLanes; ++x) {
      u[x] = columns.share(S(columns.begin + x), S(job.step));
    }
    for (int64_t channel = 0; channel < job.channels; ++channel) {
      const S* source = static_cast<const S*>(job.image) + image * job.stride_batch +
                        channel * job.stride_channel + columns.begin;
      for (int64_t y = 0; y < rows.end - rows.begin + border; ++y) {
        std::copy_n(source + (rows.begin + y) * job.stride_row, width + border, patch.row(y));
        std::fill_n(patch.row(y) + width + border, pitch - width - border, S(0));
      }
      for (int64_t y = rows.begin; y < rows.end; ++y) {
        taps.blend(rows.share(S(y), S(job.step)));
        filter_row<S>(patch.row(y - rows.begin), taps, u, vectors, line);
        const int64_t target =
            ((image * job.channels + channel) * job.height + y) * job.width + columns.begin;
        write_run<S>(line, int(width), 1.0, 0.0, job.result, dtype, target, 1, job.stream);
      }
    }
  }
  finish_streams();
}
