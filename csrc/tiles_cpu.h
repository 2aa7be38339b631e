// Kernels of extract_tiles and stitch_tiles: runs of pixels of one row pass through small buffers
// that stay in the first-level cache, either as planes or with interleaved colours.
// Included inside the namespace of one instruction set, after simd.h.

// Values of one run of pixels, over at most kRunChannels channels.
constexpr int kRunValues = 1536;

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

// From planes `pitch` apart to interleaved colours, `count` pixels.
template <typename S>
void interleave(const S* planes, int64_t pitch, int colours, int count, S* __restrict out) {
  int i = 0;
  if constexpr (std::is_same_v<S, float>) {
    for (; colours == 3 && i + kLanes <= count; i += kLanes) {
      Vec<float> v[3] = {load(planes + i), load(planes + pitch + i), load(planes + 2 * pitch + i)};
      rearrange_three<Interleaved>(v);
      for (int part = 0; part < 3; ++part) store(out + 3 * i + part * kLanes, v[part]);
    }
  }
  for (; i < count; ++i) {
    for (int c = 0; c < colours; ++c) out[i * colours + c] = planes[c * pitch + i];
  }
}

// From interleaved colours to planes `count` apart.
template <typename S>
void separate_colours(const S* pixels, int colours, int count, S* __restrict planes) {
  int i = 0;
  if constexpr (std::is_same_v<S, float>) {
    for (; colours == 3 && i + kLanes <= count; i += kLanes) {
      const float* source = pixels + 3 * i;
      Vec<float> v[3] = {load(source), load(source + kLanes), load(source + 2 * kLanes)};
      rearrange_three<Separated>(v);
      for (int c = 0; c < 3; ++c) store(planes + c * count + i, v[c]);
    }
  }
  for (; i < count; ++i) {
    for (int c = 0; c < colours; ++c) planes[c * count + i] = pixels[i * colours + c];
  }
}

// `count` pixels of `colours` channels; planes are `pitch` apart, 0 stands for interleaved colours.
template <typename S>
struct Run {
  const S* values;
  int64_t pitch;
  int colours, count;
  // As rows of equal work: planes one by one, or everything at once.
  int rows() const { return pitch ? colours : 1; }
  int row_length() const { return pitch ? count : count * colours; }
};

// Asks for pixels that will be read soon: rows of tiles are too short for the processor to see
// where the next one is. The addresses need not exist. Always inline: GCC drops calls of functions
// that do nothing else.
template <typename S>
FREQDIFF_INLINE void prefetch_pixels(const void* base, const PixelLayout& layout,
                                     bool is_interleaved, int64_t offset, int colours, int count) {
  int64_t size = 0;
  with_stored_type<S>(layout.dtype, [&](auto type) { size = sizeof(type); });
  const int rows = is_interleaved ? 1 : colours, length = is_interleaved ? count * colours : count;
  const int line = 64 / int(size);
  for (int row = 0; row < rows; ++row) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(base) +
                            uintptr_t((offset + row * layout.stride_channel) * size);
    for (int i = 0; i < length; i += line) {
      __builtin_prefetch(reinterpret_cast<const void*>(begin + uintptr_t(i * size)));
    }
  }
}

template <typename S>
Run<S> read_pixels(const void* base, const PixelLayout& layout, bool is_interleaved, int64_t offset,
                   int colours, int count, S* buffer) {
  if (is_interleaved) {
    return {read_run<S>(base, layout.dtype, offset, 1, count * colours, buffer), 0, colours, count};
  }
  const S* values = buffer;
  for (int c = 0; c < colours; ++c) {
    values = read_run<S>(base, layout.dtype, offset + c * layout.stride_channel,
                         layout.stride_column, count, buffer + c * count);
    // Read in place, the planes stay where they are.
    if (values != buffer + c * count) {
      return {static_cast<const S*>(base) + offset, layout.stride_channel, colours, count};
    }
  }
  return {buffer, count, colours, count};
}

template <typename S>
void write_pixels(const Run<S>& run, double scale, double shift, void* base,
                  const PixelLayout& layout, bool is_interleaved, int64_t offset, bool streaming,
                  S* buffer) {
  const S* values = run.values;
  int64_t pitch = run.pitch;
  if (is_interleaved) {
    if (pitch) {
      interleave<S>(values, pitch, run.colours, run.count, buffer);
      values = buffer;
    }
    return write_run<S>(values, run.count * run.colours, scale, shift, base, layout.dtype, offset,
                        1, streaming);
  }
  if (!pitch && run.colours > 1) {
    separate_colours<S>(values, run.colours, run.count, buffer);
    values = buffer;
    pitch = run.count;
  }
  for (int c = 0; c < run.colours; ++c) {
    write_run<S>(values + c * pitch, run.count, scale, shift, base, layout.dtype,
                 offset + c * layout.stride_channel, layout.stride_column, streaming);
  }
}

// out = a + w (b - a), exact where a == b; `weights` has one entry per pixel, `step` 0 repeats it.
template <typename S>
Run<S> blend(const Run<S>& a, const Run<S>& b, const float* weights, int step, S* out) {
  const int length = a.row_length();
  for (int row = 0; row < a.rows(); ++row) {
    const S *first = a.values + row * a.pitch, *second = b.values + row * b.pitch;
    S* target = out + row * length;
    if (step) {
      for (int i = 0; i < length; ++i) {
        target[i] = first[i] + S(weights[i]) * (second[i] - first[i]);
      }
    } else {
      const S weight = S(*weights);
      for (int i = 0; i < length; ++i) target[i] = first[i] + weight * (second[i] - first[i]);
    }
  }
  return {out, a.pitch ? a.count : 0, a.colours, a.count};
}

template <typename S>
void stitch_rows(const StitchJob& job, int64_t begin, int64_t end) {
  alignas(64) S upper_buffer[kRunValues], lower_buffer[kRunValues], second_buffer[kRunValues];
  const bool read_interleaved = job.tiles_layout.interleaved(job.channels);
  const bool write_interleaved = job.image_layout.interleaved(job.channels);
  const int block = int(std::min<int64_t>(job.channels, kRunChannels));
  const int longest = kRunValues / std::max(block, 1);
  size_t band = 0;
  while (job.rows[band].end <= begin) ++band;
  for (int64_t y = begin; y < end; ++y) {
    if (y == job.rows[band].end) ++band;
    const Segment& row = job.rows[band];
    for (const Segment& part : job.columns) {
      for (int64_t x = part.begin; x < part.end; x += longest) {
        const int count = int(std::min<int64_t>(longest, part.end - x));
        for (int64_t channel = 0; channel < job.channels; channel += block) {
          const int colours = int(std::min<int64_t>(block, job.channels - channel));
          const auto read = [&](int64_t grid_row, int64_t tile_row, int64_t grid_column,
                                int64_t tile_column, S* buffer) {
            const int64_t offset = (grid_row * job.grid_columns + grid_column) * job.stride_tile +
                                   tile_row * job.stride_row +
                                   channel * job.tiles_layout.stride_channel +
                                   tile_column * job.tiles_layout.stride_column;
            prefetch_pixels<S>(job.tiles, job.tiles_layout, read_interleaved,
                               offset + job.stride_row, colours, count);
            return read_pixels<S>(job.tiles, job.tiles_layout, read_interleaved, offset, colours,
                                  count, buffer);
          };
          // One row of the image from one row of tiles, blended along x where two of them meet.
          const auto along_x = [&](int64_t grid_row, int64_t tile_row, S* buffer) {
            const int64_t inside = x - part.begin;
            const Run<S> first = read(grid_row, tile_row, part.tile, part.offset + inside, buffer);
            if (!part.blend) return first;
            const Run<S> second =
                read(grid_row, tile_row, part.next_tile, part.next_offset + inside, second_buffer);
            const float* weights =
                job.column_weights.data() + x * (read_interleaved ? job.channels : 1);
            return blend<S>(first, second, weights, 1, buffer);
          };
          const int64_t inside = y - row.begin;
          Run<S> run = along_x(row.tile, row.offset + inside, upper_buffer);
          if (row.blend) {
            const Run<S> lower = along_x(row.next_tile, row.next_offset + inside, lower_buffer);
            run = blend<S>(run, lower, &job.row_weights[y], 0, upper_buffer);
          }
          const int64_t offset = channel * job.image_layout.stride_channel +
                                 y * job.image_stride_row + x * job.image_layout.stride_column;
          write_pixels<S>(run, job.scale, job.shift, job.image, job.image_layout, write_interleaved,
                          offset, job.stream, second_buffer);
        }
      }
    }
  }
  finish_streams();
}

template <typename S>
void extract_rows(const ExtractJob& job, int64_t begin, int64_t end) {
  alignas(64) S buffer[kRunValues], second_buffer[kRunValues];
  const bool read_interleaved = job.image_layout.interleaved(job.channels);
  const bool write_interleaved = job.tiles_layout.interleaved(job.channels);
  const int block = int(std::min<int64_t>(job.channels, kRunChannels));
  const int longest = kRunValues / std::max(block, 1);
  for (int64_t work = begin; work < end; ++work) {
    const int64_t tile = work / job.tile_height, tile_row = work % job.tile_height;
    const int64_t grid_row = tile / job.grid_columns, grid_column = tile % job.grid_columns;
    const int64_t image_row = job.rows[grid_row * job.tile_height + tile_row];
    const int32_t* columns = job.columns.data() + grid_column * job.tile_width;
    for (int64_t x = 0; x < job.tile_width;) {
      // The longest run of adjacent pixels; reflected ones run backwards and come one by one.
      int count = 1;
      while (count < longest && x + count < job.tile_width &&
             columns[x + count] == columns[x] + count) {
        ++count;
      }
      for (int64_t channel = 0; channel < job.channels; channel += block) {
        const int colours = int(std::min<int64_t>(block, job.channels - channel));
        const int64_t source = channel * job.image_layout.stride_channel +
                               image_row * job.stride_row +
                               columns[x] * job.image_layout.stride_column;
        const int64_t target = tile * job.tiles_stride_tile + tile_row * job.tiles_stride_row +
                               channel * job.tiles_layout.stride_channel +
                               x * job.tiles_layout.stride_column;
        const Run<S> run = read_pixels<S>(job.image, job.image_layout, read_interleaved, source,
                                          colours, count, buffer);
        write_pixels<S>(run, job.scale, job.shift, job.tiles, job.tiles_layout, write_interleaved,
                        target, job.stream, second_buffer);
      }
      x += count;
    }
  }
  finish_streams();
}
