// Kernel of fft_bands: the power of the slots of a spectrum, summed up by band.
// Included inside the namespace of one instruction set, after window_spectrum.h and tiles_cpu.h.

// Log of the power of one band, for the kLanes windows of the scratch.
template <int P, typename S>
FREQDIFF_INLINE Vec<S> band_level(const FeatureJob& job, const std::vector<BandTerm>& terms,
                                  const FeatureScratch<P, S>& scratch) {
  constexpr int kPitch = FeatureScratch<P, S>::kPitch;
  Vec<S> sum = Vec<S>{} + S(job.band_floor);
  for (const BandTerm& term : terms) {
    const Complex<S>& x = scratch.spectrum[term.slot / (P / 2) * kPitch + term.slot % (P / 2)];
    sum += x.re * x.re * S(term.real) + x.im * x.im * S(term.imag);
  }
  return log(sum);
}

template <int P, typename S>
void band_groups(const FeatureJob& job, int64_t begin, int64_t end) {
  FeatureScratch<P, S>& scratch = feature_scratch<P, S>(job);
  const int64_t bands = int64_t(job.bands.size()), channels = job.planes() * bands;
  Group next = locate<P>(job, begin * kLanes);
  for (int64_t work = begin; work < end; ++work) {
    const int64_t first = work * kLanes;
    const int count = int(std::min<int64_t>(kLanes, job.tokens() - first));
    const Group group = next;
    next = locate<P>(job, first + kLanes);
    for (int plane = 0; plane < job.planes(); ++plane) {
      transform_group<P, S>(job, group, plane, next, scratch);
      for (int64_t start = 0; start < bands; start += kLanes) {
        const int width = int(std::min<int64_t>(kLanes, bands - start));
        Vec<S>* block = scratch.slots[0];
        for (int i = 0; i < kLanes; ++i) {
          block[i] = i < width ? band_level<P, S>(job, job.bands[start + i], scratch) : Vec<S>{};
        }
        transpose<S>(block);
        with_float_type<S>(job.features_dtype, [&](auto type) {
          using T = decltype(type);
          T* target = static_cast<T*>(job.features) + first * channels + plane * bands + start;
          for (int lane = 0; lane < count; ++lane) {
            alignas(64) S line[kLanes];
            store(line, block[lane]);
            write_run<S, T>(line, width, S(1), S(0), target + lane * channels, 1, false);
          }
        });
      }
    }
  }
}

template <typename S>
void bands_forward(const FeatureJob& job, int64_t begin, int64_t end) {
  switch (job.window) {
    case 8:
      return band_groups<8, S>(job, begin, end);
    case 16:
      return band_groups<16, S>(job, begin, end);
    case 32:
      return band_groups<32, S>(job, begin, end);
    case 64:
      return band_groups<64, S>(job, begin, end);
  }
}
