// Kernels of extract_tiles and stitch_tiles: runs of pixels of one row pass through a small buffer
// that stays in the first-level cache.
// Included inside the namespace of one instruction set, after simd.h.

constexpr int kRun = 1024;

template <typename S, typename T>
void read_run(const T* source, int64_t step, int count, S* target) {
  if (step == 1) {
    int i = 0;
    if constexpr (std::is_same_v<S, float>) {
      for (; i + kLanes <= count; i += kLanes) store(target + i, load_float(source + i));
    }
    for (; i < count; ++i) target[i] = to_float(source[i]);
  } else {
    for (int i = 0; i < count; ++i) target[i] = to_float(source[i * step]);
  }
}

// `count` values as S: in place where they already are, else converted into `buffer`.
template <typename S>
const S* read_run(const void* base, Dtype dtype, int64_t offset, int64_t step, int count,
                  S* buffer) {
  const S* result = buffer;
  with_stored_type<S>(dtype, [&](auto type) {
    using T = decltype(type);
    const T* source = static_cast<const T*>(base) + offset;
    if constexpr (std::is_same_v<T, S>) {
      if (step == 1) {
        result = source;
        return;
      }
    }
    read_run<S, T>(source, step, count, buffer);
  });
  return result;
}

template <typename S, typename T>
void write_run(const S* source, int count, S scale, S shift, T* target, int64_t step,
               bool streaming) {
  int i = 0;
  if constexpr (std::is_same_v<S, float> && !std::is_same_v<T, double>) {
    if (step == 1) {
      if constexpr (std::is_same_v<T, float>) {
        if (streaming) {
          for (; i < count && reinterpret_cast<uintptr_t>(target + i) % sizeof(Vec<float>); ++i) {
            target[i] = source[i] * scale + shift;
          }
          for (; i + kLanes <= count; i += kLanes) {
            stream(target + i, load(source + i) * scale + shift);
          }
        }
      }
      for (; i + kLanes <= count; i += kLanes) {
        store_float(target + i, load(source + i) * scale + shift);
      }
    }
  }
  for (; i < count; ++i) target[i * step] = from_float<T>(source[i] * scale + shift);
}

template <typename S>
void write_run(const S* source, int count, double scale, double shift, void* base, Dtype dtype,
               int64_t offset, int64_t step, bool streaming) {
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    write_run<S, T>(source, count, S(scale), S(shift), static_cast<T*>(base) + offset, step,
                    streaming);
  });
}

// out = a + w (b - a), exact where a == b.
template <typename S>
void blend_run(const S* a, const S* b, const float* weights, int count, S* out) {
  for (int i = 0; i < count; ++i) out[i] = a[i] + S(weights[i]) * (b[i] - a[i]);
}

// One row of pixels of the image from one row of tiles, blended along x where two of them meet.
template <typename S>
const S* stitch_along_x(const StitchJob& job, int64_t grid_row, int64_t tile_row, int64_t channel,
                        const Segment& part, int64_t x, int count, S* buffer, S* second_buffer) {
  const auto read = [&](int64_t tile, int64_t column, S* target) {
    const int64_t offset = (grid_row * job.grid_columns + tile) * job.stride_tile +
                           channel * job.stride_channel + tile_row * job.stride_row +
                           column * job.stride_column;
    return read_run<S>(job.tiles, job.dtype, offset, job.stride_column, count, target);
  };
  const S* first = read(part.tile, part.offset + x - part.begin, buffer);
  if (!part.blend) return first;
  const S* second = read(part.next_tile, part.next_offset + x - part.begin, second_buffer);
  blend_run<S>(first, second, job.column_weights.data() + x, count, buffer);
  return buffer;
}

template <typename S>
void stitch_rows(const StitchJob& job, int64_t begin, int64_t end) {
  alignas(64) S upper_buffer[kRun], lower_buffer[kRun], second_buffer[kRun];
  size_t band = 0;
  while (job.rows[band].end <= begin) ++band;
  for (int64_t y = begin; y < end; ++y) {
    if (y == job.rows[band].end) ++band;
    const Segment& row = job.rows[band];
    for (const Segment& part : job.columns) {
      for (int64_t x = part.begin; x < part.end; x += kRun) {
        const int count = int(std::min<int64_t>(kRun, part.end - x));
        for (int64_t channel = 0; channel < job.channels; ++channel) {
          const S* values = stitch_along_x<S>(job, row.tile, row.offset + y - row.begin, channel,
                                              part, x, count, upper_buffer, second_buffer);
          if (row.blend) {
            const S* lower =
                stitch_along_x<S>(job, row.next_tile, row.next_offset + y - row.begin, channel,
                                  part, x, count, lower_buffer, second_buffer);
            const S weight = job.row_weights[y];
            for (int i = 0; i < count; ++i) {
              upper_buffer[i] = values[i] + weight * (lower[i] - values[i]);
            }
            values = upper_buffer;
          }
          const int64_t offset = channel * job.image_stride_channel + y * job.image_stride_row +
                                 x * job.image_stride_column;
          write_run<S>(values, count, job.scale, job.shift, job.image, job.image_dtype, offset,
                       job.image_stride_column, job.stream);
        }
      }
    }
  }
  finish_streams();
}

template <typename S>
void extract_rows(const ExtractJob& job, int64_t begin, int64_t end) {
  alignas(64) S buffer[kRun];
  for (int64_t work = begin; work < end; ++work) {
    const int64_t tile = work / job.tile_height, row = work % job.tile_height;
    const int64_t grid_row = tile / job.grid_columns, grid_column = tile % job.grid_columns;
    const int64_t source_row = job.rows[grid_row * job.tile_height + row];
    const int32_t* columns = job.columns.data() + grid_column * job.tile_width;
    for (int64_t x = 0; x < job.tile_width;) {
      // The longest run of adjacent pixels; reflected ones run backwards and come one by one.
      int count = 1;
      while (count < kRun && x + count < job.tile_width &&
             columns[x + count] == columns[x] + count) {
        ++count;
      }
      for (int64_t channel = 0; channel < job.channels; ++channel) {
        const int64_t source = channel * job.stride_channel + source_row * job.stride_row +
                               columns[x] * job.stride_column;
        const S* values =
            read_run<S>(job.image, job.dtype, source, job.stride_column, count, buffer);
        const int64_t target = tile * job.tiles_stride_tile + channel * job.tiles_stride_channel +
                               row * job.tiles_stride_row + x * job.tiles_stride_column;
        write_run<S>(values, count, job.scale, job.shift, job.tiles, job.tiles_dtype, target,
                     job.tiles_stride_column, job.stream);
      }
      x += count;
    }
  }
  finish_streams();
}
