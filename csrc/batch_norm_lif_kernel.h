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

// y = (x - mean) * scale + bias
template <typename T, typename A>
inline void normalise(const T* x, int64_t n, int64_t period, const A* __restrict mean, const A* __restrict scale,
                      const A* __restrict bias, A* __restrict y, A* scratch) {
  const A* values = read_row(x, n, scratch);
  for (int64_t i = 0; i < n; i += period) {
    const int64_t m = std::min(period, n - i);
    const A* __restrict in = values + i;
    A* __restrict out = y + i;
    for (int64_t c = 0; c < m; ++c) out[c] = (in[c] - mean[c]) * scale[c] + bias[c];
  }
}

template <typename T, typename A> inline void add_row(const T* r, int64_t n, A* __restrict y, A* scratch) {
  const A* __restrict values = read_row(r, n, scratch);
  for (int64_t i = 0; i < n; ++i) y[i] += values[i];
}

// y += the n / channels rows of packed spikes in bits
template <typename A> inline void add_bits(const uint8_t* bits, int64_t n, int64_t channels, A* __restrict y) {
  const int64_t bytes = (channels + 7) / 8;
  for (int64_t i = 0; i < n; i += channels, bits += bytes) {
    const int64_t whole = channels / 8;
    for (int64_t j = 0; j < whole; ++j)
      for (int k = 0; k < 8; ++k) y[i + 8 * j + k] += A((bits[j] >> k) & 1);
    for (int64_t c = 8 * whole; c < channels; ++c) y[i + c] += A((bits[whole] >> (c % 8)) & 1);
  }
}

template <typename A> inline void pack_fired(const A* h, A threshold, int64_t n, int64_t channels, uint8_t* bits) {
  const int64_t row = channels % 8 ? channels : n;  // whole bytes only: rows join
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
inline void count_fired(const A* __restrict h, A threshold, int64_t n, int64_t period, int32_t* __restrict counts) {
  for (int64_t i = 0; i < n; i += period) {
    const int64_t m = std::min(period, n - i);
    for (int64_t c = 0; c < m; ++c) counts[c] += h[i + c] >= threshold ? 1 : 0;
  }
}

// The input current of step t.
template <typename T, typename A>
inline void current(const BatchNormInputs<T>& in, const BatchNormVectors<A>& v, int64_t t, int64_t n, A* y, A* scratch) {
  normalise(in.x + t * in.step, n, v.period, v.mean, v.scale, v.bias, y, scratch);
  if (in.residual_bits) add_bits(in.residual_bits + t * in.bits_step, n, v.channels, y);
  else if (in.residual) add_row(in.residual + t * in.step, n, y, scratch);
}

// ---- forward ----

// spikes, bits: at step 0, like in. counts: [steps, period], added to. scratch: 4 n.
template <typename T, typename A>
void forward_row(const Neuron<A>& p, const BatchNormVectors<A>& vectors, const BatchNormInputs<T>& in, int64_t steps, int64_t n,
                 T* spikes, uint8_t* bits, int32_t* counts, A* scratch) {
  A *y = scratch, *h = scratch + n, *v = scratch + 2 * n, *row = scratch + 3 * n;
  std::fill_n(v, n, p.rest);
  for (int64_t t = 0; t < steps; ++t) {
    current(in, vectors, t, n, y, row);
    advance(p, y, n, v, h);
    fire(h, p.threshold, n, spikes + t * in.step);
    pack_fired(h, p.threshold, n, vectors.channels, bits + t * in.bits_step);
    count_fired(h, p.threshold, n, vectors.period, counts + t * vectors.period);
  }
}

// ---- backward ----

// Calls use(t, dy [n]) for the gradient to the input current of every step, last step first.
// scratch: (steps + 3) n.
template <typename T, typename A, typename F>
inline void current_gradients(const Neuron<A>& p, const BatchNormVectors<A>& vectors, const BatchNormInputs<T>& in, const T* grad,
                              int64_t steps, int64_t n, A* scratch, const F& use) {
  A *row = scratch, *v = scratch + n, *y = scratch + 2 * n, *h = scratch + 3 * n;
  std::fill_n(v, n, p.rest);
  for (int64_t t = 0; t < steps; ++t) {
    current(in, vectors, t, n, y, row);
    advance(p, y, n, v, h + t * n);
  }
  A *grad_v = v, *dy = y;
  std::fill_n(grad_v, n, A(0));
  for (int64_t t = steps - 1; t >= 0; --t) {
    retreat(p, h + t * n, read_row(grad + t * in.step, n, row), n, grad_v, dy);
    use(t, dy);
  }
}

// The first pass: adds sum(dy) and sum(dy (x - mean)) to sums [2, period]. scratch: (steps + 4) n + 2 period.
template <typename T, typename A>
void reduce_row(const Neuron<A>& p, const BatchNormVectors<A>& vectors, const BatchNormInputs<T>& in, const T* grad, int64_t steps,
                int64_t n, double* __restrict sums, A* scratch) {
  const int64_t period = vectors.period;
  A *__restrict first = scratch, *__restrict second = scratch + period, *row = scratch + 2 * period;
  std::fill_n(first, 2 * period, A(0));
  current_gradients(p, vectors, in, grad, steps, n, row + n, [&](int64_t t, const A* dy) {
    const A* values = read_row(in.x + t * in.step, n, row);
    const A* __restrict mean = vectors.mean;
    for (int64_t i = 0; i < n; i += period) {
      const int64_t m = std::min(period, n - i);
      const A *__restrict d = dy + i, *__restrict x = values + i;
      for (int64_t c = 0; c < m; ++c) {
        first[c] += d[c];
        second[c] += d[c] * (x[c] - mean[c]);
      }
    }
  });
  for (int64_t c = 0; c < 2 * period; ++c) sums[c] += first[c];
}

// The second pass: dx = scale (dy - offset - (x - mean) slope), and dy itself to grad_residual unless null.
// offset, slope: [period]. scratch: (steps + 4) n.
template <typename T, typename A>
void backward_row(const Neuron<A>& p, const BatchNormVectors<A>& vectors, const BatchNormInputs<T>& in, const T* grad, int64_t steps,
                  int64_t n, const A* offset, const A* slope, T* grad_x, T* grad_residual, A* scratch) {
  const int64_t period = vectors.period;
  A* row = scratch;
  current_gradients(p, vectors, in, grad, steps, n, scratch + n, [&](int64_t t, A* dy) {
    if (grad_residual) store_row(dy, n, grad_residual + t * in.step);
    const A* values = read_row(in.x + t * in.step, n, row);
    const A *__restrict mean = vectors.mean, *__restrict scale = vectors.scale;
    for (int64_t i = 0; i < n; i += period) {
      const int64_t m = std::min(period, n - i);
      A* d = dy + i;
      const A* x = values + i;
      for (int64_t c = 0; c < m; ++c) d[c] = scale[c] * (d[c] - offset[c] - (x[c] - mean[c]) * slope[c]);
    }
    store_row(dy, n, grad_x + t * in.step);
  });
}
