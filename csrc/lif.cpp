// lif, lif_backward: see gee_kernels/lif/reference.py and gee_kernels/lif/README.md.
#include <bit>
#include <memory>
#include <numeric>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "lif.h"

#define GEE_KERNEL_BODY "lif_kernel.h"
#include "for_each_isa.h"

namespace gee {
namespace {

constexpr int64_t kRow = 1024;        // neurons worked on at a time
constexpr int64_t kGrain = 1 << 14;   // neuron-steps a thread should at least get

Tensor empty_like(const Tensor& t, ScalarType dtype) {
  std::array<StableIValue, 6> stack{torch::stable::detail::from(t),
                                    torch::stable::detail::from(std::optional<ScalarType>(dtype)),
                                    torch::stable::detail::from(std::nullopt),
                                    torch::stable::detail::from(std::nullopt),
                                    torch::stable::detail::from(std::nullopt),
                                    torch::stable::detail::from(std::nullopt)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::empty_like", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// Whether t occupies its numel() entries of memory without a gap or an overlap.
bool dense(const Tensor& t) {
  std::vector<int64_t> order(t.dim());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return t.stride(a) < t.stride(b); });
  int64_t expected = 1;
  for (int64_t d : order) {
    if (t.size(d) == 1) continue;
    if (t.stride(d) != expected) return false;
    expected *= t.size(d);
  }
  return true;
}

bool same_strides(const Tensor& a, const Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d)
    if (a.size(d) > 1 && a.stride(d) != b.stride(d)) return false;
  return true;
}

Tensor step(const Tensor& t) { return torch::stable::select(t, 0, 0); }

// How results are laid out: as x is where every step of x is dense, and then neurons are simply counted in
// the order of memory. In any other layout the work is done on contiguous copies.
struct Layout {
  Tensor like;  // [T, ...]

  explicit Layout(const Tensor& result) : like(result) {
    if (dense(step(result))) return;
    like = torch::stable::new_empty(result, result.sizes());
  }
  // t [T, ...] with steps laid out as these are; a copy only where they are not.
  Tensor sequence(const Tensor& t) const {
    if (same_strides(step(t), step(like))) return t;
    Tensor copy = torch::stable::empty_like(like);
    return torch::stable::copy_(copy, t);
  }
  // The same for one step [...].
  Tensor single(const Tensor& t) const {
    if (same_strides(t, step(like))) return t;
    Tensor copy = empty_like(step(like), t.scalar_type());
    return torch::stable::copy_(copy, t);
  }
};

// Calls f(begin, n, scratch) for rows of at most kRow neurons, each thread with `rows` rows of scratch.
template <typename A, typename F> void for_each_row(int64_t neurons, int64_t steps, int64_t rows, const F& f) {
  const int64_t grain = std::max<int64_t>(1, kGrain / (kRow * steps));
  torch::stable::parallel_for(0, (neurons + kRow - 1) / kRow, grain, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<A[]> scratch(new A[rows * kRow]);
    for (int64_t i = begin; i < end; ++i) f(i * kRow, std::min(kRow, neurons - i * kRow), scratch.get());
  });
}

void check(const Tensor& x, const std::optional<Tensor>& voltage) {
  STD_TORCH_CHECK(x.dim() >= 1 && x.size(0) >= 1, "x must be [T, ...] with T >= 1");
  if (!voltage) return;
  const bool wide = x.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(voltage->scalar_type() == (wide ? ScalarType::Double : ScalarType::Float),
                  "voltage must be ", wide ? "float64" : "float32", " for this x");
  STD_TORCH_CHECK(voltage->dim() == x.dim() - 1 && voltage->numel() * x.size(0) == x.numel(),
                  "voltage must have the shape of one step of x");
}

template <typename T> const T* data(const Tensor& t) { return static_cast<const T*>(t.const_data_ptr()); }
template <typename T> const T* data(const std::optional<Tensor>& t) { return t ? data<T>(*t) : nullptr; }
template <typename T> T* mutable_data(Tensor& t) { return static_cast<T*>(t.mutable_data_ptr()); }

std::tuple<Tensor, Tensor> lif(const Tensor& x, std::optional<Tensor> voltage, double tau, double v_threshold,
                               std::optional<double> v_reset, bool decay_input, bool detach_reset,
                               std::string surrogate, double alpha, bool return_voltage) {
  check(x, voltage);
  const NeuronOptions options{tau, v_threshold, v_reset, decay_input, detach_reset, parse_surrogate(surrogate), alpha};
  Tensor spikes = torch::stable::empty_like(x), last = x;
  dispatch_floating(x, "x", [&](auto zero) {
    using T = decltype(zero);
    using A = accumulate_t<T>;
    const auto membrane = std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float;
    last = return_voltage ? empty_like(step(spikes), membrane) : torch::stable::new_empty(x, {0}, membrane);
    if (x.numel() == 0) return;
    const Layout layout(spikes);
    Tensor s = layout.sequence(spikes), v = return_voltage ? layout.single(last) : last;
    const Tensor in = layout.sequence(x);
    if (voltage) voltage = layout.single(*voltage);
    const auto neuron = options.as<A>();
    const int64_t steps = x.size(0), x_step = in.stride(0), s_step = s.stride(0);
    const T* p_x = data<T>(in);
    const A* p_start = data<A>(voltage);
    T* p_s = mutable_data<T>(s);
    A* p_last = return_voltage ? mutable_data<A>(v) : nullptr;
    for_each_row<A>(x.numel() / steps, steps, 3, [&](int64_t i, int64_t n, A* scratch) {
      GEE_DISPATCH(lif_forward, neuron, p_x + i, x_step, p_start ? p_start + i : nullptr, steps, n, p_s + i, s_step,
                   p_last ? p_last + i : nullptr, scratch);
    });
    if (s.data_ptr() != spikes.data_ptr()) torch::stable::copy_(spikes, s);
    if (return_voltage && v.data_ptr() != last.data_ptr()) torch::stable::copy_(last, v);
  });
  return {spikes, last};
}

std::tuple<Tensor, Tensor> lif_backward(std::optional<Tensor> grad_spikes, std::optional<Tensor> grad_voltage,
                                        const Tensor& x, std::optional<Tensor> voltage, double tau,
                                        double v_threshold, std::optional<double> v_reset, bool decay_input,
                                        bool detach_reset, std::string surrogate, double alpha) {
  check(x, voltage);
  const NeuronOptions options{tau, v_threshold, v_reset, decay_input, detach_reset, parse_surrogate(surrogate), alpha};
  Tensor grad_x = torch::stable::empty_like(x), grad_start = x;
  dispatch_floating(x, "x", [&](auto zero) {
    using T = decltype(zero);
    using A = accumulate_t<T>;
    const auto membrane = std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float;
    grad_start = voltage ? empty_like(step(grad_x), membrane) : torch::stable::new_empty(x, {0}, membrane);
    if (x.numel() == 0) return;
    const Layout layout(grad_x);
    Tensor gx = layout.sequence(grad_x), g_start = voltage ? layout.single(grad_start) : grad_start;
    const Tensor in = layout.sequence(x);
    if (grad_spikes) grad_spikes = layout.sequence(*grad_spikes);
    if (grad_voltage) grad_voltage = layout.single(*grad_voltage);
    if (voltage) voltage = layout.single(*voltage);
    const auto neuron = options.as<A>();
    const int64_t steps = x.size(0), x_step = in.stride(0), out_step = gx.stride(0);
    const int64_t grad_step = grad_spikes ? grad_spikes->stride(0) : 0;
    const T *p_x = data<T>(in), *p_grad = data<T>(grad_spikes);
    const A *p_start = data<A>(voltage), *p_grad_last = data<A>(grad_voltage);
    T* p_out = mutable_data<T>(gx);
    A* p_grad_start = voltage ? mutable_data<A>(g_start) : nullptr;
    for_each_row<A>(x.numel() / steps, steps, steps + 3, [&](int64_t i, int64_t n, A* scratch) {
      GEE_DISPATCH(lif_backward, neuron, p_grad ? p_grad + i : nullptr, grad_step,
                   p_grad_last ? p_grad_last + i : nullptr, p_x + i, x_step, p_start ? p_start + i : nullptr, steps, n,
                   p_out + i, out_step, p_grad_start ? p_grad_start + i : nullptr, scratch);
    });
    if (gx.data_ptr() != grad_x.data_ptr()) torch::stable::copy_(grad_x, gx);
    if (voltage && g_start.data_ptr() != grad_start.data_ptr()) torch::stable::copy_(grad_start, g_start);
  });
  return {grad_x, grad_start};
}

}  // namespace
}  // namespace gee

STABLE_TORCH_LIBRARY_IMPL(gee_kernels, CPU, m) {
  m.impl("lif", TORCH_BOX(&gee::lif));
  m.impl("lif_backward", TORCH_BOX(&gee::lif_backward));
}
