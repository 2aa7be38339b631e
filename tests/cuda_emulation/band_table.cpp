
// The band of every entry of the half spectrum, -1 for DC. Appended to the
// operations.
extern "C" const char *run_table(int64_t window, int64_t radial,
                                 int64_t angular, int64_t *out) {
  for (int band : freqdiff::device::bands_of_entries(int(window), int(radial),
                                                     int(angular)))
    *out++ = band;
  return nullptr;
}
