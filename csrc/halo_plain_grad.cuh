// Gradients of halo_attention without tensor cores; see halo_plain.cuh.

#pragma once

#include "halo_plain.cuh"

namespace freqdiff {

// Gradient by q, the dots, and the parts of the gradient by the bias: one table per warp.
// grid.x: heads and slots, which share the parts of all blocks. grid.y: slices of the depth.
template <typename T>
__global__ __launch_bounds__(kHaloThreads, 2) void plain_query_grad(HaloJob job, int split,
                                                                    int64_t items, int64_t slots) {
  using S = typename PlainType<T>::type;
  PlainShared<S>& shared = *dynamic_shared<PlainShared<S>>();
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int head = int(blockIdx.x % unsigned(job.heads));
  const int64_t slot = blockIdx.x / unsigned(job.heads);
  const int d0 = int(blockIdx.y) * kPlainSlice;
  const int span2 = job.span() * job.span();
  const bool with_bias = job.bias && d0 == 0;
  S* table = nullptr;
  if (with_bias) {
    table = static_cast<S*>(job.bias_parts) +
            ((head * slots + slot) * kHaloWarps + warp) * int64_t(span2);
    for (int i = lane; i < span2; i += 32) table[i] = 0;
    __syncwarp();
  }
  for (int64_t number = slot; number < items; number += slots) {
    const HaloItem item(job, (number / split * job.heads + head) * split + number % split, split,
                        job.columns());
    const PlainArea own = PlainArea::block(job, item.row, item.column, 0);
    const PlainArea region = PlainArea::block(job, item.row, item.column, job.halo);
    const int first_own = item.part * kPlainBlock, first_row = first_own + warp * kPlainRows;
    if (first_own >= own.count()) continue;
    S dots[kPlainRows] = {}, lse[kPlainRows] = {};
    for (int r = 0; r < kPlainRows; ++r) {
      const int query = first_row + r;
      if (query >= own.count()) continue;
      const int y = own.row(query), x = own.column(query);
      const T* grad = job.grad.at<T>(item.batch, y, x, head);
      const T* out = job.out.at<T>(item.batch, y, x, head);
      for (int d = lane; d < job.depth; d += 32)
        dots[r] += plain_widen<S>(grad[d]) * plain_widen<S>(out[d]);
      dots[r] = warp_sum(dots[r]);
      const int64_t pixel = pixel_index(job, item.batch, y, x, head);
      lse[r] = static_cast<const S*>(job.lse)[pixel];
      if (lane == 0 && d0 == 0) static_cast<S*>(job.dots)[pixel] = dots[r];
    }
    S sums[kPlainRows][kPlainStrips] = {};
    for (int first = 0; first < region.count(); first += 32) {
      S x[kPlainRows], weight_grad[kPlainRows];
      plain_products<T>(x, shared, job, item, job.q, own, first_own, job.k, region, first);
      plain_products<T>(weight_grad, shared, job, item, job.grad, own, first_own, job.v, region,
                        first);
      const int key = first + lane;
      for (int r = 0; r < kPlainRows; ++r) {
        const int query = first_row + r;
        S value = 0;
        if (query < own.count() && key < region.count()) {
          const int entry = plain_entry(job, own.row(query), own.column(query), region.row(key),
                                        region.column(key));
          S bias = 0;
          if (job.bias) {
            bias = load_as<S>(job.bias, job.bias_dtype, int64_t(head) * span2 + entry);
          }
          value = exp(x[r] * S(job.scale) + bias - lse[r]) * (weight_grad[r] - dots[r]);
          // One query meets every entry at most once, so no two lanes meet here.
          if (with_bias) table[entry] += value;
        }
        x[r] = value;
        __syncwarp();
      }
      plain_sums<T>(sums, x, shared, job, item, job.k, region, first, d0);
    }
    for (int r = 0; r < kPlainRows; ++r) {
      plain_store<T>(job.q_grad, job, item, own, first_row + r, d0, sums[r], S(job.scale));
    }
  }
}

// Gradients by k and v, gathered over the queries of the 3 x 3 blocks around that see the keys.
template <typename T>
__global__ __launch_bounds__(kHaloThreads, 2) void plain_key_grad(HaloJob job, int split) {
  using S = typename PlainType<T>::type;
  PlainShared<S>& shared = *dynamic_shared<PlainShared<S>>();
  const HaloItem item(job, blockIdx.x, split, job.columns());
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int d0 = int(blockIdx.y) * kPlainSlice;
  const PlainArea own = PlainArea::block(job, item.row, item.column, 0);
  const int first_own = item.part * kPlainBlock, first_row = first_own + warp * kPlainRows;
  if (first_own >= own.count()) return;
  const int reach = job.halo > 0 ? 1 : 0;
  S key_sums[kPlainRows][kPlainStrips] = {}, value_sums[kPlainRows][kPlainStrips] = {};
  for (int row = max(0, item.row - reach); row <= min(job.rows() - 1, item.row + reach); ++row) {
    for (int column = max(0, item.column - reach);
         column <= min(job.columns() - 1, item.column + reach); ++column) {
      const PlainArea area = PlainArea::block(job, row, column, 0);
      const PlainArea region = PlainArea::block(job, row, column, job.halo);
      for (int first = 0; first < area.count(); first += 32) {
        S x[kPlainRows], weight_grad[kPlainRows], weights[kPlainRows];
        plain_products<T>(x, shared, job, item, job.k, own, first_own, job.q, area, first);
        plain_products<T>(weight_grad, shared, job, item, job.v, own, first_own, job.grad, area,
                          first);
        const int query = first + lane;
        for (int r = 0; r < kPlainRows; ++r) {
          const int key = first_row + r;
          weights[r] = 0;
          x[r] *= S(job.scale);
          if (key < own.count() && query < area.count()) {
            const int y = own.row(key) - region.y, x0 = own.column(key) - region.x;
            if (y >= 0 && y < region.rows && x0 >= 0 && x0 < region.columns) {
              const int64_t pixel =
                  pixel_index(job, item.batch, area.row(query), area.column(query), item.head);
              if (job.bias) {
                const int entry = plain_entry(job, area.row(query), area.column(query),
                                              own.row(key), own.column(key));
                x[r] += load_as<S>(job.bias, job.bias_dtype,
                                   int64_t(item.head) * job.span() * job.span() + entry);
              }
              weights[r] = exp(x[r] - static_cast<const S*>(job.lse)[pixel]);
              x[r] = weights[r] * (weight_grad[r] - static_cast<const S*>(job.dots)[pixel]);
            }
          }
          if (weights[r] == S(0)) x[r] = 0;
        }
        plain_sums<T>(value_sums, weights, shared, job, item, job.grad, area, first, d0);
        plain_sums<T>(key_sums, x, shared, job, item, job.q, area, first, d0);
      }
    }
  }
  for (int r = 0; r < kPlainRows; ++r) {
    plain_store<T>(job.k_grad, job, item, own, first_row + r, d0, key_sums[r], S(job.scale));
    plain_store<T>(job.v_grad, job, item, own, first_row + r, d0, value_sums[r], S(1));
  }
}

}  // namespace freqdiff
