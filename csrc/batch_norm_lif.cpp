// batch_norm_lif, batch_norm_lif_backward: see gee_kernels/batch_norm_lif/{reference.py,README.md}.
//
// Work is cut into tasks of a size that does not depend on the number of threads; every task leaves its own
// partial sums, and these are added in the order of the tasks. So results do not depend on threads either.
#include <bit>
#include <memory>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "batch_norm_lif.h"

#define GEE_KERNEL_BODY "batch_norm_lif_kernel.h"
#include "for_each_isa.h"

namespace gee {
namespace {

constexpr int64_t kPeriod = 256;     // values over which an inner loop should at least run
constexpr int64_t kRow = 1024;       // values worked on at a time
constexpr int64_t kTask = 1 << 16;   // values of a task
constexpr int64_t kGrain = 1 << 15;  // values a thread should at least get

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// x [T*B, C, *space] as rows of channels.
struct Shape {
  int64_t images, channels, positions;  // images = T*B, positions of one image
  int64_t bytes;                        // of a packed row of channels
  int64_t period;                       // values in repeated vectors
  int64_t row, task;                    // positions worked on at a time, positions in a task

  explicit Shape(const Tensor& x) : images(x.size(0)), channels(x.size(1)), positions(1) {
    for (int64_t d = 2; d < x.dim(); ++d) positions *= x.size(d);
    bytes = divide_up(channels, 8);
    const int64_t c = std::max<int64_t>(1, channels), repeat = divide_up(kPeriod, c);
    period = repeat * c;
    row = std::max<int64_t>(1, kRow / period) * repeat;
    task = std::max<int64_t>(1, kTask / (row * c)) * row;
  }
  int64_t values() const { return images * positions; }  // per channel
  bool empty() const { return images * positions * channels == 0; }
  int64_t grain() const { return std::max<int64_t>(1, kGrain / (task * channels)); }
};

// Whether the memory of t [N, C, *space] is [N, *space, C] without gaps.
bool channels_last(const Tensor& t) {
  int64_t expected = 1;
  const auto fits = [&](int64_t d) {
    const bool ok = t.size(d) == 1 || t.stride(d) == expected;
    expected *= t.size(d);
    return ok;
  };
  bool ok = fits(1);
  for (int64_t d = t.dim() - 1; d >= 2; --d) ok = fits(d) && ok;
  return fits(0) && ok;
}

// An empty tensor with the shape and type of t, channels-last.
Tensor empty_channels_last(const Tensor& t) {
  std::vector<int64_t> shape{t.size(0)}, order{0, t.dim() - 1};
  for (int64_t d = 2; d < t.dim(); ++d) shape.push_back(t.size(d)), order.push_back(d - 1);
  shape.push_back(t.size(1));
  const Tensor out = torch::stable::new_empty(t, {shape.data(), shape.size()});
  return permuted(out, {order.data(), order.size()});
}

Tensor to_channels_last(const Tensor& t) {
  if (channels_last(t)) return t;
  Tensor out = empty_channels_last(t);
  return torch::stable::copy_(out, t);
}

template <typename T> const T* data(const Tensor& t) { return static_cast<const T*>(t.const_data_ptr()); }
template <typename T> const T* data(const std::optional<Tensor>& t) { return t ? data<T>(*t) : nullptr; }
template <typename T> T* mutable_data(Tensor& t) { return static_cast<T*>(t.mutable_data_ptr()); }

// f(channel) over channels, repeated up to the period.
template <typename A, typename F> std::vector<A> repeated(const Shape& shape, const F& f) {
  std::vector<A> out(shape.period);
  for (int64_t c = 0; c < shape.period; ++c) out[c] = c < shape.channels ? f(c) : out[c - shape.channels];
  return out;
}

// Runs f(task, sums [2, period], scratch) over tasks, each with sums of its own that start at zero, and adds
// them up in the order of the tasks, and over repeats: [2, C].
template <typename A, typename F>
std::vector<double> sum_tasks(const Shape& shape, int64_t tasks, int64_t scratch_size, const F& f) {
  const int64_t channels = shape.channels, period = shape.period;
  std::vector<double> partial(tasks * 2 * channels), total(2 * channels);
  torch::stable::parallel_for(0, tasks, shape.grain(), [&](int64_t begin, int64_t end) {
    const std::unique_ptr<A[]> scratch(new A[scratch_size]);
    std::vector<double> sums(2 * period);
    for (int64_t i = begin; i < end; ++i) {
      std::fill(sums.begin(), sums.end(), 0.0);
      f(i, sums.data(), scratch.get());
      for (int64_t k = 0; k < 2; ++k)
        for (int64_t c = 0; c < period; ++c)
          partial[(i * 2 + k) * channels + c % channels] += sums[k * period + c];
    }
  });
  for (int64_t i = 0; i < tasks; ++i)
    for (int64_t c = 0; c < 2 * channels; ++c) total[c] += partial[i * 2 * channels + c];
  return total;
}

// Mean and biased variance per channel; zeros for no values.
template <typename T, typename A> void statistics(const Shape& shape, const T* x, A* mean, A* var) {
  const int64_t count = shape.values(), channels = shape.channels;
  if (shape.empty()) {
    std::fill_n(mean, channels, A(0));
    std::fill_n(var, channels, A(0));
    return;
  }
  const auto shift = repeated<A>(shape, [&](int64_t c) { return A(x[c]); });
  const int64_t tasks = divide_up(count, shape.task);
  const auto sums = sum_tasks<A>(shape, tasks, 3 * shape.period, [&](int64_t i, double* out, A* scratch) {
    const int64_t begin = i * shape.task, n = std::min(shape.task, count - begin) * channels;
    GEE_DISPATCH(add_moments, x + begin * channels, n, shape.period, shift.data(), out, scratch);
  });
  for (int64_t c = 0; c < channels; ++c) {
    const double d = sums[c] / count;
    mean[c] = A(shift[c] + d);
    var[c] = A(std::max(0.0, sums[channels + c] / count - d * d));
  }
}

void check(const Tensor& x, const Tensor& weight, const Tensor& bias, const std::optional<Tensor>& residual,
           const std::optional<Tensor>& residual_bits, int64_t steps) {
  STD_TORCH_CHECK(x.dim() >= 2, "x must be [T*B, C, *space], got ", x.dim(), " dimensions");
  STD_TORCH_CHECK(steps >= 1 && x.size(0) % steps == 0, "time_steps must divide ", x.size(0), ", got ", steps);
  const auto membrane = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  for (const Tensor* t : {&weight, &bias})
    STD_TORCH_CHECK(t->dim() == 1 && t->size(0) == x.size(1) && t->scalar_type() == membrane,
                    "weight and bias must be [", x.size(1), "] in ",
                    membrane == ScalarType::Double ? "float64" : "float32", " for this x");
  if (residual && !residual_bits)
    STD_TORCH_CHECK(residual->numel() == x.numel() && residual->scalar_type() == x.scalar_type(),
                    "residual must have the shape and type of x");
  if (residual_bits)
    STD_TORCH_CHECK(residual_bits->scalar_type() == ScalarType::Byte &&
                        residual_bits->numel() * x.size(1) == x.numel() * divide_up(x.size(1), 8),
                    "residual_bits must be uint8 [T*B, *space, ceil(C / 8)]");
}

// The tensors of a call as the kernels read them; keeps copies alive where layouts made them necessary.
template <typename T> struct Operands {
  using A = accumulate_t<T>;
  Shape shape;
  int64_t steps, rows;  // rows: positions of one step, all images together
  Tensor x;
  std::optional<Tensor> residual, residual_bits;
  std::vector<A> mean, scale, bias;

  Operands(const Tensor& x, const std::optional<Tensor>& residual, const std::optional<Tensor>& bits, int64_t steps)
      : shape(x), steps(steps), rows(shape.values() / steps), x(to_channels_last(x)) {
    if (bits) residual_bits = torch::stable::contiguous(*bits);
    else if (residual) this->residual = to_channels_last(*residual);
  }
  void set_vectors(const Tensor& m, const Tensor& var, const Tensor& weight, const Tensor& b, double eps) {
    const A *p_m = data<A>(m), *p_var = data<A>(var), *p_w = data<A>(weight), *p_b = data<A>(b);
    mean = repeated<A>(shape, [&](int64_t c) { return p_m[c]; });
    scale = repeated<A>(shape, [&](int64_t c) { return A(p_w[c] / std::sqrt(double(p_var[c]) + eps)); });
    bias = repeated<A>(shape, [&](int64_t c) { return p_b[c]; });
  }
  BatchNormVectors<A> vectors() const {
    return {shape.channels, shape.period, mean.data(), scale.data(), bias.data()};
  }
  // At row `row` of each step.
  BatchNormInputs<T> at(int64_t row) const {
    const int64_t i = row * shape.channels;
    const T *p_residual = data<T>(residual);
    const uint8_t* p_bits = data<uint8_t>(residual_bits);
    return {data<T>(x) + i, p_residual ? p_residual + i : nullptr, p_bits ? p_bits + row * shape.bytes : nullptr,
            rows * shape.channels, rows * shape.bytes};
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> batch_norm_lif(
    const Tensor& x, const Tensor& weight_, const Tensor& bias_, std::optional<Tensor> given_mean,
    std::optional<Tensor> given_var, std::optional<Tensor> residual, std::optional<Tensor> residual_bits,
    int64_t steps, double eps, double tau, double v_threshold, std::optional<double> v_reset, bool decay_input,
    bool detach_reset, std::string surrogate, double alpha) {
  check(x, weight_, bias_, residual, residual_bits, steps);
  const NeuronOptions options{tau, v_threshold, v_reset, decay_input, detach_reset, parse_surrogate(surrogate), alpha};
  const Tensor weight = torch::stable::contiguous(weight_), bias = torch::stable::contiguous(bias_);
  const Shape shape(x);
  std::vector<int64_t> packed{shape.images};
  for (int64_t d = 2; d < x.dim(); ++d) packed.push_back(x.size(d));
  packed.push_back(shape.bytes);
  Tensor spikes = empty_channels_last(x);
  Tensor bits = torch::stable::new_empty(x, {packed.data(), packed.size()}, ScalarType::Byte);
  Tensor counts = torch::stable::new_zeros(x, {shape.images, shape.channels}, ScalarType::Int);
  const auto own = [&](const std::optional<Tensor>& given) {
    return given ? torch::stable::clone(torch::stable::contiguous(*given)) : torch::stable::empty_like(weight);
  };
  Tensor mean = own(given_mean), var = own(given_var);
  dispatch_floating(x, "x", [&](auto zero) {
    using T = decltype(zero);
    using A = accumulate_t<T>;
    Operands<T> in(x, residual, residual_bits, steps);
    if (!given_mean) statistics(shape, data<T>(in.x), mutable_data<A>(mean), mutable_data<A>(var));
    if (shape.empty()) return;
    in.set_vectors(mean, var, weight, bias, eps);
    const auto neuron = options.as<A>();
    const auto vectors = in.vectors();
    const int64_t channels = shape.channels, period = shape.period;
    const int64_t batch = shape.images / steps, blocks = divide_up(shape.positions, shape.task);
    T* p_spikes = mutable_data<T>(spikes);
    uint8_t* p_bits = mutable_data<uint8_t>(bits);
    // A task: one block of positions of one image, all steps. Counts of blocks are added up below.
    std::vector<int32_t> more(blocks > 1 ? (blocks - 1) * counts.numel() : 0);
    int32_t* p_counts = mutable_data<int32_t>(counts);
    torch::stable::parallel_for(0, batch * blocks, divide_up(shape.grain(), steps), [&](int64_t begin, int64_t end) {
      const std::unique_ptr<A[]> scratch(new A[4 * shape.row * channels]);
      std::vector<int32_t> fired(steps * period);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t image = i / blocks, block = i % blocks;
        const int64_t first = block * shape.task, last = std::min(shape.positions, first + shape.task);
        std::fill(fired.begin(), fired.end(), 0);
        for (int64_t p = first; p < last; p += shape.row) {
          const int64_t row = image * shape.positions + p, n = std::min(shape.row, last - p) * channels;
          GEE_DISPATCH(forward_row, neuron, vectors, in.at(row), steps, n, p_spikes + row * channels,
                       p_bits + row * shape.bytes, fired.data(), scratch.get());
        }
        int32_t* out = block ? more.data() + (block - 1) * counts.numel() : p_counts;
        for (int64_t t = 0; t < steps; ++t)
          for (int64_t c = 0; c < period; ++c)
            out[(t * batch + image) * channels + c % channels] += fired[t * period + c];
      }
    });
    for (size_t i = 0; i < more.size(); ++i) p_counts[i % counts.numel()] += more[i];
  });
  return {spikes, bits, counts, mean, var};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_lif_backward(
    const Tensor& grad_spikes, const Tensor& x, const Tensor& weight_, const Tensor& bias_, const Tensor& mean_,
    const Tensor& var_, std::optional<Tensor> residual, std::optional<Tensor> residual_bits, int64_t steps, double eps,
    double tau, double v_threshold, std::optional<double> v_reset, bool decay_input, bool detach_reset,
    std::string surrogate, double alpha, bool training, bool residual_grad) {
  check(x, weight_, bias_, residual, residual_bits, steps);
  const NeuronOptions options{tau, v_threshold, v_reset, decay_input, detach_reset, parse_surrogate(surrogate), alpha};
  const Tensor weight = torch::stable::contiguous(weight_), bias = torch::stable::contiguous(bias_);
  const Tensor mean = torch::stable::contiguous(mean_), var = torch::stable::contiguous(var_);
  const Shape shape(x);
  Tensor grad_x = empty_channels_last(x);
  Tensor grad_weight = torch::stable::new_zeros(weight, weight.sizes());
  Tensor grad_bias = torch::stable::new_zeros(bias, bias.sizes());
  Tensor grad_residual = residual_grad ? empty_channels_last(x) : torch::stable::new_empty(x, {0});
  dispatch_floating(x, "x", [&](auto zero) {
    using T = decltype(zero);
    using A = accumulate_t<T>;
    if (shape.empty()) return;
    Operands<T> in(x, residual, residual_bits, steps);
    in.set_vectors(mean, var, weight, bias, eps);
    const Tensor grad = to_channels_last(grad_spikes);
    const T* p_grad = data<T>(grad);
    const auto neuron = options.as<A>();
    const auto vectors = in.vectors();
    const int64_t channels = shape.channels, period = shape.period, tasks = divide_up(in.rows, shape.task);
    const int64_t scratch_size = (steps + 5) * shape.row * channels + 2 * period;
    // f(row, n) for the rows of a task, n values each
    const auto for_rows = [&](int64_t task, const auto& f) {
      const int64_t end = std::min(in.rows, (task + 1) * shape.task);
      for (int64_t row = task * shape.task; row < end; row += shape.row)
        f(row, std::min(shape.row, end - row) * channels);
    };
    const auto sums = sum_tasks<A>(shape, tasks, scratch_size, [&](int64_t task, double* out, A* scratch) {
      for_rows(task, [&](int64_t row, int64_t n) {
        GEE_DISPATCH(reduce_row, neuron, vectors, in.at(row), p_grad + row * channels, steps, n, out, scratch);
      });
    });
    A *p_weight = mutable_data<A>(grad_weight), *p_bias = mutable_data<A>(grad_bias);
    const double share = training ? 1.0 / shape.values() : 0.0;  // of the mean's gradient for each value
    std::vector<A> offset(channels), slope(channels);
    for (int64_t c = 0; c < channels; ++c) {
      const double variance = double(data<A>(var)[c]) + eps;
      p_bias[c] = A(sums[c]);
      p_weight[c] = A(sums[channels + c] / std::sqrt(variance));
      offset[c] = A(sums[c] * share);
      slope[c] = A(sums[channels + c] * share / variance);
    }
    offset = repeated<A>(shape, [&](int64_t c) { return offset[c]; });
    slope = repeated<A>(shape, [&](int64_t c) { return slope[c]; });
    T* p_out = mutable_data<T>(grad_x);
    T* p_residual = residual_grad ? mutable_data<T>(grad_residual) : nullptr;
    torch::stable::parallel_for(0, tasks, divide_up(shape.grain(), steps), [&](int64_t begin, int64_t end) {
      const std::unique_ptr<A[]> scratch(new A[scratch_size]);
      for (int64_t task = begin; task < end; ++task)
        for_rows(task, [&](int64_t row, int64_t n) {
          const int64_t i = row * channels;
          GEE_DISPATCH(backward_row, neuron, vectors, in.at(row), p_grad + i, steps, n, offset.data(), slope.data(),
                       p_out + i, p_residual ? p_residual + i : nullptr, scratch.get());
        });
    });
  });
  return {grad_x, grad_weight, grad_bias, grad_residual};
}

}  // namespace
}  // namespace gee

STABLE_TORCH_LIBRARY_IMPL(gee_kernels, CPU, m) {
  m.impl("batch_norm_lif", TORCH_BOX(&gee::batch_norm_lif));
  m.impl("batch_norm_lif_backward", TORCH_BOX(&gee::batch_norm_lif_backward));
}
