#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>

namespace freqdiff {

// Runs body(begin, end) over [0, count) on the threads of torch, in pieces of at least `grain`. The
// pieces are handed out as threads become free: with equal shares the whole call would wait for the
// core that other work keeps busy.
template <typename Body>
void parallel_pieces(int64_t count, int64_t grain, const Body& body) {
  constexpr int64_t kPiecesPerThread = 8;
  const int64_t threads =
      std::clamp<int64_t>((count + grain - 1) / grain, 1, torch::stable::get_num_threads());
  if (threads == 1) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
  const int64_t piece = std::max(grain, count / (threads * kPiecesPerThread));
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t begin = next.fetch_add(piece); begin < count; begin = next.fetch_add(piece)) {
      body(begin, std::min(begin + piece, count));
    }
  });
}

}  // namespace freqdiff
