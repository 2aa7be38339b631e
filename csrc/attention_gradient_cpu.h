// Kernel of halo_attention_backward. One work item is a row of blocks of one head, which it passes
// from left to right; rows that share keys are in different phases, so that the sums of the key and
// value gradients are made in the same order for every number of threads.
// Included inside the namespace of one instruction set, after attention_cpu.h.

// Logits become the weights, and the products of gradients and values the gradients of the logits.
template <typename S>
void logit_gradients(const Matrix<S>& weights, const Matrix<S>& grads, int rows, int columns,
                     const S* mask, const S* lse, const S* dots) {
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; j += kLanes) {
      Vec<S> p = exp(load(weights.row(i) + j) - lse[i]);
      if (mask) p = masked<S>(p, mask + j, S(0));
      store(weights.row(i) + j, p);
      store(grads.row(i) + j, p * (load(grads.row(i) + j) - dots[i]));
    }
  }
}

template <typename S>
void add_matrix(const Matrix<S>& source, int rows, int columns, const Matrix<S>& sums) {
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; j += kLanes) {
      store(sums.row(i) + j, load(sums.row(i) + j) + load(source.row(i) + j));
    }
  }
}

// Sums the gradients of all pairs of one block into the table of their relative positions.
template <typename S>
void sum_by_position(const AttentionJob& job, const Matrix<S>& pairs, S* table) {
  const int window = job.window, side = job.keys_side(), span = job.span();
  std::fill_n(table, span * span, S(0));
  for (int query = 0; query < window * window; ++query) {
    const S* line = pairs.row(query);
    for (int row = 0; row < side; ++row) {
      S* target = table + (row + window - 1 - query / window) * span + window - 1 - query % window;
      for (int i = 0; i < side; ++i) target[i] += line[row * side + i];
    }
  }
}

// Adds the gradients of the keys of one block to those of the image.
template <typename S>
void add_to_image(const AttentionJob& job, const Square& seen, int64_t batch, int64_t head,
                  const Matrix<S>& grads, void* image) {
  seen.each([&](int number, int64_t y, int64_t x) {
    S* target = static_cast<S*>(image) + offset_of(job, batch, y, x, head) * job.depth;
    const S* source = grads.row(number);
    for (int i = 0; i < job.depth; ++i) target[i] += source[i];
  });
}

template <typename S>
class AttentionBackward {
 public:
  explicit AttentionBackward(const AttentionJob& job)
      : job_(job),
        queries_(job.padded_queries(kLanes)),
        keys_(job.padded_keys(kLanes)),
        depth_(job.padded_depth(kLanes)),
        pitch_(job.key_pitch(kLanes)),
        group_(std::min(kBackwardQueries, queries_)) {
    thread_local Scratch<S> scratch;
    const int most = std::max(queries_, keys_);
    scratch.reserve(int64_t(depth_) * (2 * pitch_ + 3 * queries_ + 3 * keys_ + most) +
                    int64_t(pitch_) * (2 * group_ + (job.bias ? queries_ : 0)) + 2 * queries_ +
                    keys_);
    q_ = scratch.take(queries_, depth_);
    grad_ = scratch.take(queries_, depth_);
    q_grad_ = scratch.take(queries_, depth_);
    k_rows_ = scratch.take(keys_, depth_);
    k_columns_ = scratch.take(depth_, pitch_);
    v_columns_ = scratch.take(depth_, pitch_);
    k_grad_ = scratch.take(keys_, depth_);
    v_grad_ = scratch.take(keys_, depth_);
    weights_ = scratch.take(group_, pitch_);
    logit_grads_ = scratch.take(group_, pitch_);
    if (job.bias) pairs_ = scratch.take(queries_, pitch_);
    lse_ = scratch.take(1, queries_).data;
    dots_ = scratch.take(1, queries_).data;
    mask_ = scratch.take(1, keys_).data;
    spare_ = scratch.take(most, depth_).data;
  }

  void run_row(int64_t batch, int64_t row, int64_t head) {
    if (job_.bias) std::fill_n(pairs_.data, queries_ * pitch_, S(0));
    for (int64_t column = 0; column < job_.block_columns(); ++column) {
      run_block(batch, row, column, head);
    }
    if (job_.bias) {
      const int64_t part = (batch * job_.block_rows() + row) * job_.heads + head;
      sum_by_position<S>(job_, pairs_,
                         static_cast<S*>(job_.bias_sum) + part * job_.span() * job_.span());
    }
  }

 private:
  void run_block(int64_t batch, int64_t row, int64_t column, int64_t head) {
    const Square own(job_, row, column, 0), seen(job_, row, column, job_.halo);
    const Matrix<S> none{nullptr, 0};
    // `q_grad_` is free until the end.
    pack<S>(job_, job_.forward_out, batch, head, own, queries_, q_grad_, none, spare_);
    pack<S>(job_, job_.grad, batch, head, own, queries_, grad_, none, spare_);
    pack<S>(job_, job_.q, batch, head, own, queries_, q_, none, spare_);
    pack<S>(job_, job_.k, batch, head, seen, keys_, k_rows_, k_columns_, spare_);
    pack<S>(job_, job_.v, batch, head, seen, keys_, none, v_columns_, spare_);
    scale_rows<S>(q_, int64_t(queries_) * depth_, S(job_.scale));
    sum_queries(own, batch, head);
    const S* mask = find_masked<S>(seen, keys_, mask_) ? mask_ : nullptr;
    const S* bias = static_cast<const S*>(job_.bias);
    if (bias) bias += head * queries_ * pitch_;

    for (int first = 0; first < queries_; first += group_) {
      const int count = std::min(group_, queries_ - first), real = int(job_.depth);
      const Matrix<S> q{q_.row(first), depth_}, grad{grad_.row(first), depth_};
      const Matrix<const S> start{bias ? bias + int64_t(first) * pitch_ : nullptr, pitch_};
      product<S>(count, keys_, real, as_stored(q), k_columns_, start, weights_);
      product<S>(count, keys_, real, as_stored(grad), v_columns_, {nullptr, 0}, logit_grads_);
      logit_gradients<S>(weights_, logit_grads_, count, keys_, mask, lse_ + first, dots_ + first);
      if (bias) {
        add_matrix<S>(logit_grads_, count, keys_, {pairs_.row(first), pitch_});
      }
      const Matrix<const S> k_start{first ? k_grad_.data : nullptr, depth_};
      const Matrix<const S> v_start{first ? v_grad_.data : nullptr, depth_};
      product<S>(keys_, depth_, count, transposed(weights_), grad, v_start, v_grad_);
      product<S>(keys_, depth_, count, transposed(logit_grads_), q, k_start, k_grad_);
      product<S>(count, depth_, keys_, as_stored(logit_grads_), k_rows_, {nullptr, 0},
                 {q_grad_.row(first), depth_});
    }
    add_to_image<S>(job_, seen, batch, head, k_grad_, job_.k_sum);
    add_to_image<S>(job_, seen, batch, head, v_grad_, job_.v_sum);
    with_float_type<S>(job_.dtype, [&](auto type) {
      using T = decltype(type);
      own.each([&](int number, int64_t y, int64_t x) {
        T* target = static_cast<T*>(job_.q_grad) + offset_of(job_, batch, y, x, head) * job_.depth;
        write_run<S, T>(q_grad_.row(number), int(job_.depth), S(job_.scale), S(0), target, 1,
                        false);
      });
    });
  }

  // Sums of the logits, and products of each result with its gradient. Queries outside the image
  // get weights of 0.
  void sum_queries(const Square& own, int64_t batch, int64_t head) {
    std::fill_n(lse_, queries_, std::numeric_limits<S>::infinity());
    std::fill_n(dots_, queries_, S(0));
    own.each([&](int number, int64_t y, int64_t x) {
      lse_[number] = static_cast<const S*>(job_.lse)[offset_of(job_, batch, y, x, head)];
      const S *out = q_grad_.row(number), *grad = grad_.row(number);
      Vec<S> sum{};
      for (int i = 0; i < depth_; i += kLanes) sum += load(out + i) * load(grad + i);
      dots_[number] = over_lanes<S>(sum, [](const Vec<S>& a, const Vec<S>& b)
                                             __attribute__((always_inline)) { return a + b; })[0];
    });
  }

  const AttentionJob& job_;
  const int queries_, keys_, depth_, pitch_, group_;
  Matrix<S> q_, grad_, q_grad_, k_rows_, k_columns_, v_columns_, k_grad_, v_grad_;
  Matrix<S> weights_, logit_grads_, pairs_;
  S *lse_, *dots_, *mask_, *spare_;
};

template <typename S>
void attention_backward(const AttentionJob& job, int64_t begin, int64_t end) {
  AttentionBackward<S> backward(job);
  for (int64_t work = begin; work < end; ++work) {
    const int64_t head = work % job.heads, line = work / job.heads;
    const int64_t row = line % job.phase_rows() * job.phases + job.phase;
    backward.run_row(line / job.phase_rows(), row, head);
  }
}
