// Body of batch_norm_lif.cpp, compiled per instruction set.
//
// Memory is channels-last: rows of C channels, one per position, so n = positions * C values lie side by
// side.

#include "lif_steps.h"

// ---- statistics ----

// Adds sum(x - shift) and sum((x - shift)^2) over n values to sums [2, period]. Partial sums over kFlush
// periods are kept in the membrane's type, in scratch [3 period]; shift keeps them small.
template <typename T, typename A>
void add_moments(const T* x, int64_t n, int64_t period, const A* __restrict shift, double* __restrict sums,
                 A* scratch) {
  constexpr int64_t kFlush = 16;
  A *row = scratch, *__restrict first = scratch + period, *__restrict second = scratch + 2 * period;
  for (int64_t i = 0; i < n; i += kFlush * period) {
    std::fill_n(first, 2 * period, A(0));
    for (int64_t j = i; j < std::min(n, i + kFlush * period); j += period) {
      const int64_t m = std::min(period, n - j);
      const A* __restrict values = read_row(x + j, m, row);
      for (int64_t c = 0; c < m; ++c) {
        const A d = values[c] - shift[c];
        first[c] += d;
        second[c] += d * d;
      }
    }
    for (int64_t c = 0; c < 2 * period; ++c) sums[c] += first[c];
  }
}

// ---- pieces shared by forward and backward ----

template <bool kDecayInput, bool kHard, bool kDivide, bool kResidual, typename A>
inline void normalise_advance_row(const Neuron<A> p, const A* __restrict x, const A* __restrict residual,
                                  const A* __restrict mean, const A* __restrict scale, const A* __restrict bias,
                                  int64_t n, A* __restrict v, A* __restrict h) {
  for (int64_t i = 0; i < n; ++i) {
    A y = (x[i] - mean[i]) * scale[i] + bias[i];
    if constexpr (kResidual) y += residual[i];
    h[i] = charge<kDecayInput, kDivide>(p, v[i], y);
    v[i] = reset<kHard>(p, h[i]);
  }
}

// n / channels rows of packed spikes
template <typename A> inline void unpack_rows(const uint8_t* bits, int64_t n, int64_t channels, A* out) {
  const int64_t row = channels % 8 ? channels : n;  // whole bytes only: rows join
  for (int64_t i = 0; i < n; i += row) {
    int64_t c = 0;
#if GEE_VECTOR_BYTES >= 32
    if constexpr (std::is_same_v<A, float>) {
      const __m256i select = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
      for (; c + 8 <= row; c += 8, ++bits) {
        const __m256i bit = _mm256_and_si256(_mm256_set1_epi32(*bits), select);
        const __m256 set = _mm256_castsi256_ps(_mm256_cmpeq_epi32(bit, select));
        _mm256_storeu_ps(out + i + c, _mm256_and_ps(set, _mm256_set1_ps(1)));
      }
    }
#endif
    for (; c + 8 <= row; c += 8, ++bits)
      for (int k = 0; k < 8; ++k) out[i + c + k] = A((*bits >> k) & 1);
    if (c < row) {
      for (int k = 0; c + k < row; ++k) out[i + c + k] = A((*bits >> k) & 1);
      ++bits;
    }
  }
}

template <typename A> inline void pack_fired(const A* h, A threshold, int64_t n, int64_t channels, uint8_t* bits) {
  const int64_t row = channels % 8 ? channels : n;
  for (int64_t i = 0; i < n; i += row) {
    int64_t c = 0;
    for (; c + 8 <= row; c += 8) *bits++ = fired8(h + i + c, threshold);
    if (c < row) {
      uint8_t byte = 0;
      for (int k = 0; c + k < row; ++k) byte |= uint8_t(h[i + c + k] >= threshold) << k;
      *bits++ = byte;
    }
  }
}

template <typename A>
inline void count_row(const A* __restrict h, A threshold, int64_t n, int32_t* __restrict counts) {
  for (int64_t i = 0; i < n; ++i) counts[i] += h[i] >= threshold ? 1 : 0;
}

template <typename A>
inline void count_fired(const A* h, A threshold, int64_t n, int64_t period, int32_t* counts) {
  for (int64_t i = 0; i < n; i += period) count_row(h + i, threshold, std::min(period, n - i), counts);
}

// One step: x_t and the residual (or null) to H_t in h, and V_{t-1} to V_t in v.
template <typename A>
inline void normalise_advance(const Neuron<A>& p, const BatchNormVectors<A>& vectors, const A* x, const A* residual,
                              int64_t n, A* v, A* h) {
  const A *mean = vectors.mean, *scale = vectors.scale, *bias = vectors.bias;
  with_switches(p, [&](auto decay, auto hard, auto divide) {
    for (int64_t i = 0; i < n; i += vectors.period) {
      const int64_t m = std::min(vectors.period, n - i);
      if (residual)
        normalise_advance_row<decay, hard, divide, true>(p, x + i, residual + i, mean, scale, bias, m, v + i, h + i);
      else
        normalise_advance_row<decay, hard, divide, false>(p, x + i, x + i, mean, scale, bias, m, v + i, h + i);
    }
  });
}

// The same from memory. scratch: 2 n.
template <typename T, typename A>
inline void advance_inputs(const Neuron<A>& p, const BatchNormInputs<T>& in, const BatchNormVectors<A>& vectors,
                           int64_t t, int64_t steps, int64_t n, A* v, A* h, A* scratch) {
  prefetch_next(in.x, in.step, t, steps, n);
  const A* residual = nullptr;
  if (in.residual_bits) {
    unpack_rows(in.residual_bits + t * in.bits_step, n, vectors.channels, scratch + n);
    residual = scratch + n;
  } else if (in.residual) {
    prefetch_next(in.residual, in.step, t, steps, n);
    residual = read_row(in.residual + t * in.step, n, scratch + n);
  }
  normalise_advance(p, vectors, read_row(in.x + t * in.step, n, scratch), residual, n, v, h);
}

// ---- forward ----

// spikes, bits: at step 0, like in. counts: [steps, period], added to. scratch: 4 n.
template <typename T, typename A>
void forward_row(const Neuron<A>& p, const BatchNormVectors<A>& vectors, const BatchNormInputs<T>& in, int64_t steps,
                 int64_t n, T* spikes, uint8_t* bits, int32_t* counts, A* scratch) {
  A *h = scratch, *v = scratch + n;
  std::fill_n(v, n, p.rest);
  for (int64_t t = 0; t < steps; ++t) {
    advance_inputs(p, in, vectors, t, steps, n, v, h, scratch + 2 * n);
    fire(h, p.threshold, n, spikes + t * in.step);
    pack_fired(h, p.threshold, n, vectors.channels, bits + t * in.bits_step);
    count_fired(h, p.threshold, n, vectors.period, counts + t * vectors.period);
  }
}

// ---- backward ----

// Calls use(t, x_t, dy) for the gradient dy [n] to the input current of every step, last step first.
// scratch: (steps + 4) n.
template <typename T, typename A, typename F>
inline void current_gradients(const Neuron<A>& p, const BatchNormVectors<A>& vectors, const BatchNormInputs<T>& in,
                              const T* grad, int64_t steps, int64_t n, A* scratch, const F& use) {
  A *row = scratch, *v = scratch + 2 * n, *dy = scratch + 3 * n, *h = scratch + 4 * n;
  std::fill_n(v, n, p.rest);
  for (int64_t t = 0; t < steps; ++t) {
    prefetch_row(grad + t * in.step, n);
    advance_inputs(p, in, vectors, t, steps, n, v, h + t * n, row);
  }
  A* grad_v = v;
  std::fill_n(grad_v, n, A(0));
  for (int64_t t = steps - 1; t >= 0; --t) {
    retreat(p, h + t * n, read_row(grad + t * in.step, n, row), n, grad_v, dy);
    use(t, read_row(in.x + t * in.step, n, row), dy);
  }
}

template <typename A>
inline void reduce_period(const A* __restrict x, const A* __restrict dy, const A* __restrict mean, int64_t n,
                          A* __restrict first, A* __restrict second) {
  for (int64_t c = 0; c < n; ++c) {
    first[c] += dy[c];
    second[c] += dy[c] * (x[c] - mean[c]);
  }
}

// The first pass: adds sum(dy) and sum(dy (x - mean)) to sums [2, period]. scratch: (steps + 4) n + 2 period.
template <typename T, typename A>
void reduce_row(const Neuron<A>& p, const BatchNormVectors<A>& vectors, const BatchNormInputs<T>& in, const T* grad,
                int64_t steps, int64_t n, double* __restrict sums, A* scratch) {
  const int64_t period = vectors.period;
  A *first = scratch, *second = scratch + period;
  std::fill_n(first, 2 * period, A(0));
  current_gradients(p, vectors, in, grad, steps, n, scratch + 2 * period, [&](int64_t, const A* x, const A* dy) {
    for (int64_t i = 0; i < n; i += period)
      reduce_period(x + i, dy + i, vectors.mean, std::min(period, n - i), first, second);
  });
  for (int64_t c = 0; c < 2 * period; ++c) sums[c] += first[c];
}

template <typename A>
inline void finish_period(const A* __restrict x, const A* __restrict mean, const A* __restrict scale,
                          const A* __restrict offset, const A* __restrict slope, const A* __restrict dy, int64_t n,
                          A* __restrict dx) {
  for (int64_t c = 0; c < n; ++c) dx[c] = scale[c] * (dy[c] - offset[c] - (x[c] - mean[c]) * slope[c]);
}

// The second pass: dx = scale (dy - offset - (x - mean) slope), and dy itself to grad_residual unless null.
// offset, slope: [period]. scratch: (steps + 5) n.
template <typename T, typename A>
void backward_row(const Neuron<A>& p, const BatchNormVectors<A>& vectors, const BatchNormInputs<T>& in, const T* grad,
                  int64_t steps, int64_t n, const A* offset, const A* slope, T* grad_x, T* grad_residual, A* scratch) {
  const int64_t period = vectors.period;
  current_gradients(p, vectors, in, grad, steps, n, scratch + n, [&](int64_t t, const A* x, const A* dy) {
    if (grad_residual) store_row(dy, n, grad_residual + t * in.step);
    A* dx = scratch;
    if constexpr (std::is_same_v<T, A>) dx = grad_x + t * in.step;
    for (int64_t i = 0; i < n; i += period)
      finish_period(x + i, vectors.mean, vectors.scale, offset, slope, dy + i, std::min(period, n - i), dx + i);
    if constexpr (!std::is_same_v<T, A>) store_row(dx, n, grad_x + t * in.step);
  });
}
