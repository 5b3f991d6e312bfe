// genetic_conv2d_lif: see gee_kernels/genetic_conv2d_lif/reference.py.
//
// The convolution's result is held for a few images at a time, all T steps of them, in a slab that stays in the
// last-level cache; the neurons read it from there. W is decoded once per slab, which costs little beside what a
// full slab costs: where a slab is small, it is the only one.
#include <bit>
#include <memory>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "batch_norm_lif.h"
#include "genetic_conv2d_operands.h"

#define GEE_KERNEL_BODY "genetic_conv2d_lif_kernel.h"
#include "for_each_isa.h"

namespace gee {
namespace {

using namespace conv;

constexpr int64_t kSlabBytes = 4 << 20;  // of the convolution's result
constexpr int64_t kRow = 1024;           // values that a thread works on at a time
constexpr int64_t kTask = 1 << 14;       // values of a task
constexpr int64_t kPeriod = 64;          // values over which an inner loop should at least run

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Copies samples [begin, begin + count) of every step of `from` [steps, samples, ...] side by side.
template <typename E>
void gather_samples(const E* from, int64_t steps, int64_t samples, int64_t size, int64_t begin, int64_t count, E* to) {
  torch::stable::parallel_for(0, steps * count, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      std::copy_n(from + (i / count * samples + begin + i % count) * size, size, to + i * size);
  });
}

// The neurons behind one slab: what is needed beyond the slab itself.
template <typename T> struct Neurons {
  using A = accumulate_t<T>;
  Neuron<A> neuron;
  int64_t steps, samples, positions, channels;  // samples: B; positions: H' W'
  std::vector<A> mean, scale, shift;            // [period]
  const T* residual;                            // [steps, samples, positions, channels] or null
  T* spikes;
  uint8_t* bits;
  int32_t* counts;  // [steps, samples, channels]

  int64_t period() const { return int64_t(mean.size()); }

  // y: [steps, count, positions, channels] of samples [begin, begin + count)
  void run(const A* y, int64_t begin, int64_t count) const {
    const int64_t repeat = period() / channels, bytes = ceil_div(channels, 8);
    const int64_t row = std::max<int64_t>(1, kRow / period()) * repeat;  // positions
    const int64_t task = std::max<int64_t>(1, kTask / (row * channels)) * row, tasks = ceil_div(positions, task);
    const BatchNormVectors<A> vectors{channels, period(), mean.data(), scale.data(), shift.data()};
    std::vector<int32_t> partial(count * tasks * steps * channels);
    torch::stable::parallel_for(0, count * tasks, 1, [&](int64_t first, int64_t last) {
      const std::unique_ptr<A[]> scratch(new A[4 * row * channels]);
      std::vector<int32_t> sums(steps * period());
      for (int64_t unit = first; unit < last; ++unit) {
        const int64_t sample = unit / tasks, from = unit % tasks * task, to = std::min(positions, from + task);
        std::fill(sums.begin(), sums.end(), 0);
        for (int64_t p = from; p < to; p += row) {
          const int64_t at = (begin + sample) * positions + p;
          GEE_DISPATCH(neuron_row, neuron, vectors, y + (sample * positions + p) * channels,
                       count * positions * channels, residual ? residual + at * channels : nullptr,
                       samples * positions * channels, samples * positions * bytes, steps,
                       std::min(row, to - p) * channels, spikes + at * channels, bits + at * bytes, sums.data(),
                       scratch.get());
        }
        int32_t* out = partial.data() + unit * steps * channels;
        for (int64_t t = 0; t < steps; ++t)
          for (int64_t c = 0; c < period(); ++c) out[t * channels + c % channels] += sums[t * period() + c];
      }
    });
    for (int64_t unit = 0; unit < count * tasks; ++unit)
      for (int64_t t = 0; t < steps; ++t)
        for (int64_t c = 0; c < channels; ++c)
          counts[(t * samples + begin + unit / tasks) * channels + c] += partial[(unit * steps + t) * channels + c];
  }
};

// x: [T*B, C_in, H, W] -> spikes [T*B, C_out, H', W'], bits [T*B, H', W', ceil(C_out / 8)], counts [T*B, C_out]
std::tuple<Tensor, Tensor, Tensor> genetic_conv2d_lif(
    const Tensor& x, const Tensor& pre, const Tensor& interaction, const Tensor& post, const Tensor& scale,
    const Tensor& shift, std::optional<Tensor> residual, std::optional<Tensor> known_bits, int64_t stride,
    int64_t padding, int64_t steps, double tau, double v_threshold, std::optional<double> v_reset, bool decay_input,
    std::string plan, double event_below) {
  STD_TORCH_CHECK(steps >= 1 && x.size(0) % steps == 0, "time_steps must divide ", x.size(0), ", got ", steps);
  const conv::Shape whole = make_shape(x.size(0), x.size(2), x.size(3), pre, post, stride, padding);
  const TapMajor codes(pre, interaction, post);
  const ScalarType type = accumulate_type(x);
  const int64_t samples = whole.images / steps, positions = whole.out_height * whole.out_width;
  Tensor spikes = torch::stable::new_empty(x, {whole.images, whole.out_height, whole.out_width, whole.c_out});
  Tensor bits = torch::stable::new_empty(
      x, {whole.images, whole.out_height, whole.out_width, ceil_div(whole.c_out, 8)}, ScalarType::Byte);
  Tensor counts = torch::stable::new_zeros(x, {whole.images, whole.c_out}, ScalarType::Int);
  const Tensor scale_row = to(contiguous(scale), type), shift_row = to(contiguous(shift), type);
  std::optional<Tensor> residual_rows;
  if (residual) residual_rows = contiguous(permuted(*residual, {0, 2, 3, 1}));
  const NeuronOptions options{tau, v_threshold, v_reset, decay_input, true, Surrogate::atan, 1.0};

  dispatch_floating(x, "x", [&](auto zero) {
    using T = decltype(zero);
    using A = accumulate_t<T>;
    if (whole.images * positions * whole.c_out == 0) return;
    Operand<A> operand(x, known_bits);
    plan = forward_plan(whole, operand.input, plan, event_below);
    if (plan != "event") operand.need_values(x, whole.c_in);

    Neurons<T> neurons{options.as<A>(), steps, samples, positions, whole.c_out, {}, {}, {},
                       residual_rows ? data<T>(*residual_rows) : nullptr, data<T>(spikes), data<uint8_t>(bits),
                       data<int32_t>(counts)};
    const int64_t repeat = ceil_div(kPeriod, whole.c_out);
    neurons.mean.assign(repeat * whole.c_out, A(0));
    for (int64_t r = 0; r < repeat; ++r) {
      neurons.scale.insert(neurons.scale.end(), data<A>(scale_row), data<A>(scale_row) + whole.c_out);
      neurons.shift.insert(neurons.shift.end(), data<A>(shift_row), data<A>(shift_row) + whole.c_out);
    }

    const int64_t sample_bytes = steps * positions * whole.c_out * int64_t(sizeof(A));
    const int64_t count = std::clamp<int64_t>(kSlabBytes / sample_bytes, 1, samples);
    const int64_t pixels = whole.height * whole.width, bytes = ceil_div(whole.c_in, 8);
    const bool gather = count < samples, by_bits = operand.input.bits, by_values = operand.input.values;
    const std::unique_ptr<A[]> y(new A[steps * count * positions * whole.c_out]);
    const std::unique_ptr<A[]> values(new A[gather && by_values ? steps * count * pixels * whole.c_in : 0]);
    const std::unique_ptr<uint8_t[]> packed(new uint8_t[gather && by_bits ? steps * count * pixels * bytes : 0]);
    for (int64_t begin = 0; begin < samples; begin += count) {
      const int64_t n = std::min(count, samples - begin);
      conv::Shape slab = whole;
      slab.images = steps * n;
      Input<A> input = operand.input;
      if (gather && by_values) {
        gather_samples(operand.input.values, steps, samples, pixels * whole.c_in, begin, n, values.get());
        input.values = values.get();
      }
      if (gather && by_bits) {
        gather_samples(operand.input.bits, steps, samples, pixels * bytes, begin, n, packed.get());
        input.bits = packed.get();
      }
      conv::forward(slab, input, codes.get<A>(), plan, y.get());
      neurons.run(y.get(), begin, n);
    }
  });
  return {permuted(spikes, {0, 3, 1, 2}), bits, counts};
}

}  // namespace
}  // namespace gee

STABLE_TORCH_LIBRARY_IMPL(gee_kernels, CPU, m) {
  m.impl("genetic_conv2d_lif", TORCH_BOX(&gee::genetic_conv2d_lif));
}
