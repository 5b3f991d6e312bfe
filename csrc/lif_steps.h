// Rows of neurons, one time step at a time: the pieces of which lif and batch_norm_lif are made.
// Part of a kernel body: it is compiled once per instruction set, inside that set's namespace.
//
// A row is short enough to stay in the first cache, so a kernel may pass over it piece by piece. A is the
// membrane's type, T the type in memory.

// ---- conversion between storage and membrane ----

template <typename T, typename A> inline void load_row(const T* __restrict in, int64_t n, A* __restrict out) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    for (int64_t i = 0; i < n; ++i) out[i] = std::bit_cast<float>(uint32_t(in[i].x) << 16);
  } else if constexpr (std::is_same_v<T, Half>) {
    int64_t i = 0;
#if GEE_VECTOR_BYTES >= 32
    for (; i + 8 <= n; i += 8)
      _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i))));
#endif
    for (; i < n; ++i) out[i] = float(in[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) out[i] = in[i];
  }
}

// The row itself where no conversion is needed.
template <typename T, typename A> inline const A* read_row(const T* in, int64_t n, A* scratch) {
  if constexpr (std::is_same_v<T, A>) return in;
  else {
    load_row(in, n, scratch);
    return scratch;
  }
}

template <typename T, typename A> inline void store_row(const A* __restrict in, int64_t n, T* __restrict out) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    for (int64_t i = 0; i < n; ++i) {  // to nearest even; NaN keeps its upper bits and stays NaN
      const uint32_t bits = std::bit_cast<uint32_t>(in[i]);
      const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
      const uint32_t quiet = (bits >> 16) | 0x40;
      out[i].x = uint16_t((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
    }
  } else if constexpr (std::is_same_v<T, Half>) {
    int64_t i = 0;
#if GEE_VECTOR_BYTES >= 32
    for (; i + 8 <= n; i += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                       _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < n; ++i) out[i] = Half(in[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) out[i] = T(in[i]);
  }
}

// Asks for a row before it is needed. Rows are pages apart, so the hardware does not foresee them. Asking for
// memory behind a tensor's end does no harm.
template <typename T> inline void prefetch_row(const T* row, int64_t n) {
  const auto* bytes = reinterpret_cast<const char*>(row);
  for (int64_t i = 0; i < n * int64_t(sizeof(T)); i += 64) __builtin_prefetch(bytes + i, 0, 2);
}

// The same for what follows step t of a row: its next step, or step 0 of the next row.
template <typename T> inline void prefetch_next(const T* row, int64_t step, int64_t t, int64_t steps, int64_t n) {
  prefetch_row(t + 1 < steps ? row + (t + 1) * step : row + n, n);
}

// ---- forward ----

// H_t from V_{t-1} and x_t.
template <bool kDecayInput, bool kDivide, typename A> inline A charge(const Neuron<A>& p, A v, A x) {
  const A drive = kDecayInput ? x - (v - p.rest) : v - p.rest;
  const A change = kDivide ? drive / p.tau : drive * p.leak;
  return kDecayInput ? v + change : v - change + x;
}

// V_t from H_t.
template <bool kHard, typename A> inline A reset(const Neuron<A>& p, A h) {
  const A after = kHard ? p.rest : h - p.threshold;
  return h >= p.threshold ? after : h;
}

// Calls f with the neuron's switches as constants: decay_input, hard, divide.
template <typename A, typename F> inline void with_switches(const Neuron<A>& p, const F& f) {
  const auto divide = [&](auto decay, auto hard) {
    p.divide ? f(decay, hard, std::true_type{}) : f(decay, hard, std::false_type{});
  };
  const auto hard = [&](auto decay) {
    p.hard ? divide(decay, std::true_type{}) : divide(decay, std::false_type{});
  };
  p.decay_input ? hard(std::true_type{}) : hard(std::false_type{});
}

template <bool kDecayInput, bool kHard, bool kDivide, typename A>
inline void advance_row(const Neuron<A> p, const A* __restrict x, int64_t n, A* __restrict v, A* __restrict h) {
  for (int64_t i = 0; i < n; ++i) {
    h[i] = charge<kDecayInput, kDivide>(p, v[i], x[i]);
    v[i] = reset<kHard>(p, h[i]);
  }
}

// One step: V_{t-1} in v and x_t give H_t in h and V_t in v.
template <typename A> inline void advance(const Neuron<A>& p, const A* x, int64_t n, A* v, A* h) {
  with_switches(p, [&](auto decay, auto hard, auto divide) { advance_row<decay, hard, divide>(p, x, n, v, h); });
}

// s = 1[h >= threshold]
template <typename T, typename A>
inline void fire(const A* __restrict h, A threshold, int64_t n, T* __restrict s) {
  if constexpr (sizeof(T) == 2) {
    const uint16_t one = T(1.0f).x;
    auto* out = reinterpret_cast<uint16_t*>(s);
    for (int64_t i = 0; i < n; ++i) out[i] = h[i] >= threshold ? one : uint16_t(0);
  } else {
    for (int64_t i = 0; i < n; ++i) s[i] = h[i] >= threshold ? T(1) : T(0);
  }
}

// Eight spikes in a byte, the first in bit 0.
inline uint8_t fired8(const float* h, float threshold) {
#if GEE_VECTOR_BYTES >= 32
  return uint8_t(_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(h), _mm256_set1_ps(threshold), _CMP_GE_OQ)));
#elif defined(__SSE2__)
  const __m128 t = _mm_set1_ps(threshold);
  const int low = _mm_movemask_ps(_mm_cmpge_ps(_mm_loadu_ps(h), t));
  return uint8_t(low | _mm_movemask_ps(_mm_cmpge_ps(_mm_loadu_ps(h + 4), t)) << 4);
#else
  uint8_t byte = 0;
  for (int i = 0; i < 8; ++i) byte |= uint8_t(h[i] >= threshold) << i;
  return byte;
#endif
}

inline uint8_t fired8(const double* h, double threshold) {
  uint8_t byte = 0;
  for (int i = 0; i < 8; ++i) byte |= uint8_t(h[i] >= threshold) << i;
  return byte;
}

// ---- backward ----

// e^x for x <= 0, within two units in the last place; the same operations on every instruction set.
template <typename A> inline A exp_negative(A x) {
  constexpr bool kDouble = std::is_same_v<A, double>;
  constexpr int kDegree = kDouble ? 13 : 7;
  using Int = std::conditional_t<kDouble, int64_t, int32_t>;
  constexpr int kMantissa = kDouble ? 52 : 23, kBias = kDouble ? 1023 : 127;
  constexpr A kLowest = kDouble ? A(-708) : A(-87);  // below, the result would be denormal: e^kLowest instead
  constexpr A kShift = kDouble ? A(6755399441055744.0) : A(12582912.0f);  // adding it rounds to an integer
  constexpr A kLn2High = kDouble ? A(0x1.62e42fee00000p-1) : A(0x1.62e400p-1f);
  constexpr A kLn2Low = kDouble ? A(0x1.a39ef35793c76p-33) : A(0x1.7f7d1cp-20f);
  x = x < kLowest ? kLowest : x;
  const A shifted = x * A(1.4426950408889634) + kShift;
  const A whole = shifted - kShift;
  const A r = (x - whole * kLn2High) - whole * kLn2Low;
  A sum = A(1);
  for (int k = kDegree; k > 0; --k) sum = A(1) + sum * r * (A(1) / A(k));
  const Int exponent = std::bit_cast<Int>(shifted) - std::bit_cast<Int>(kShift);
  return sum * std::bit_cast<A>(Int(exponent + kBias) << kMantissa);
}

// ds/dH at distance d from the threshold (gee_kernels/surrogate.py).
template <Surrogate kSurrogate, typename A> inline A surrogate_derivative(A d, A alpha) {
  if constexpr (kSurrogate == Surrogate::piecewise_quadratic) {
    const A slope = alpha - alpha * alpha * std::abs(d);
    return slope > A(0) ? slope : A(0);
  } else if constexpr (kSurrogate == Surrogate::atan) {
    const A z = A(1.5707963267948966) * alpha * d;
    return alpha / 2 / (A(1) + z * z);
  } else {
    const A e = exp_negative(-std::abs(alpha * d));  // sig(z) (1 - sig(z)) = e^-|z| / (1 + e^-|z|)^2
    return alpha * e / ((A(1) + e) * (A(1) + e));
  }
}

template <Surrogate kSurrogate, bool kHard, bool kDetach, typename A>
inline void retreat_row(const Neuron<A> p, const A* __restrict h, const A* __restrict grad_spikes, int64_t n,
                        A* __restrict grad_v, A* __restrict grad_x) {
  const A threshold = p.threshold, rest = p.rest, input = p.input, keep = p.keep, alpha = p.alpha;
  for (int64_t i = 0; i < n; ++i) {
    const A ds = surrogate_derivative<kSurrogate>(h[i] - threshold, alpha);
    A dv = kHard && h[i] >= threshold ? A(0) : A(1);  // dV_t / dH_t
    if constexpr (!kDetach) dv = dv + (kHard ? rest - h[i] : -threshold) * ds;
    const A grad_h = grad_spikes[i] * ds + grad_v[i] * dv;
    grad_x[i] = grad_h * input;
    grad_v[i] = grad_h * keep;
  }
}

template <Surrogate kSurrogate, typename A>
inline void retreat_with(const Neuron<A>& p, const A* h, const A* grad_spikes, int64_t n, A* grad_v, A* grad_x) {
  if (p.hard)
    p.detach_reset ? retreat_row<kSurrogate, true, true>(p, h, grad_spikes, n, grad_v, grad_x)
                   : retreat_row<kSurrogate, true, false>(p, h, grad_spikes, n, grad_v, grad_x);
  else
    p.detach_reset ? retreat_row<kSurrogate, false, true>(p, h, grad_spikes, n, grad_v, grad_x)
                   : retreat_row<kSurrogate, false, false>(p, h, grad_spikes, n, grad_v, grad_x);
}

// One step back: the gradients to s_t and (in grad_v) to V_t give those to x_t and (in grad_v) to V_{t-1}.
template <typename A>
inline void retreat(const Neuron<A>& p, const A* h, const A* grad_spikes, int64_t n, A* grad_v, A* grad_x) {
  switch (p.surrogate) {
    case Surrogate::piecewise_quadratic:
      return retreat_with<Surrogate::piecewise_quadratic>(p, h, grad_spikes, n, grad_v, grad_x);
    case Surrogate::atan: return retreat_with<Surrogate::atan>(p, h, grad_spikes, n, grad_v, grad_x);
    case Surrogate::sigmoid: return retreat_with<Surrogate::sigmoid>(p, h, grad_spikes, n, grad_v, grad_x);
  }
}
