// genetic_conv2d and its gradients: see gee_kernels/genetic_conv2d/op.py and README.md.
//
// Here operands are brought into the form of genetic_conv2d.h and the plan is called; the plans have files of their own.
#include "genetic_conv2d_operands.h"

#include <bit>

namespace gee {
namespace conv {

template <typename T> double density(const Shape& s, const Input<T>& x) {
  constexpr int64_t kSample = 1 << 14;  // values looked at: a standard error of 0.4 % of all inputs at most
  const int64_t pixels = s.in_pixels();
  if (pixels * s.c_in == 0) return 0;
  if (x.bits) {
    const int64_t bytes = pixels * ((s.c_in + 7) / 8);
    int64_t count = 0, i = 0;
    for (; i + 8 <= bytes; i += 8) {
      uint64_t word;
      std::memcpy(&word, x.bits + i, 8);
      count += std::popcount(word);
    }
    for (; i < bytes; ++i) count += std::popcount(x.bits[i]);
    return double(count) / double(pixels * s.c_in);
  }
  const int64_t step = std::max<int64_t>(1, pixels * s.c_in / kSample) | 1;  // odd, to meet every channel
  int64_t count = 0, seen = 0;
  for (int64_t p = 0; p < pixels * s.c_in; p += step, ++seen) count += x.values[p] != T(0);
  return double(count) / double(seen);
}

template <typename T>
std::string forward_plan(const Shape& s, const Input<T>& x, const std::string& plan, double event_below) {
  return event_below > 0 && density(s, x) < event_below ? "event" : plan;
}

template <typename T>
void forward(const Shape& s, const Input<T>& x, const Codes<T>& codes, const std::string& plan, T* y) {
  if (plan == "event") return event_forward(s, x, codes, y);
  if (plan == "gene") return gene(s, false, x.values, codes, y);
  STD_TORCH_CHECK(plan == "reconstruct", "genetic_conv2d: the CPU has no plan ", plan);
  reconstruct(s, false, x.values, codes, y);
}

template std::string forward_plan<float>(const Shape&, const Input<float>&, const std::string&, double);
template std::string forward_plan<double>(const Shape&, const Input<double>&, const std::string&, double);
template void forward<float>(const Shape&, const Input<float>&, const Codes<float>&, const std::string&, float*);
template void forward<double>(const Shape&, const Input<double>&, const Codes<double>&, const std::string&, double*);
template double density<float>(const Shape&, const Input<float>&);
template double density<double>(const Shape&, const Input<double>&);

}  // namespace conv

namespace {

using namespace conv;

// x: [N, C_in, H, W] -> y [N, C_out, H', W']
Tensor genetic_conv2d(const Tensor& x, const Tensor& pre, const Tensor& interaction, const Tensor& post,
               std::optional<Tensor> bits, int64_t stride, int64_t padding, std::string plan, double event_below) {
  const Shape s = make_shape(x.size(0), x.size(2), x.size(3), pre, post, stride, padding);
  const TapMajor codes(pre, interaction, post);
  const ScalarType type = accumulate_type(x);
  Tensor y = torch::stable::new_empty(x, {s.images, s.out_height, s.out_width, s.c_out}, type);
  dispatch_accumulate(type, [&](auto zero) {
    using T = decltype(zero);
    Operand<T> operand(x, bits);
    plan = forward_plan(s, operand.input, plan, event_below);
    if (plan != "event") operand.need_values(x, s.c_in);
    conv::forward(s, operand.input, codes.get<T>(), plan, data<T>(y));
  });
  return activations(y, x.scalar_type());
}

// grad: [N, C_out, H', W'] -> [N, C_in, height, width]
Tensor grad_x(const Tensor& grad, const Tensor& pre, const Tensor& interaction, const Tensor& post, int64_t height,
              int64_t width, int64_t stride, int64_t padding, std::string plan) {
  const Shape s = make_shape(grad.size(0), height, width, pre, post, stride, padding);
  const TapMajor codes(pre, interaction, post);
  const Tensor rows = rows_of(grad);
  Tensor out = torch::stable::new_empty(rows, {s.images, height, width, s.c_in});
  dispatch_accumulate(rows.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    if (plan == "gene") return conv::gene(s, true, data<T>(rows), codes.get<T>(), data<T>(out));
    STD_TORCH_CHECK(plan == "reconstruct", "genetic_conv2d_grad_x: the CPU has no plan ", plan);
    conv::reconstruct(s, true, data<T>(rows), codes.get<T>(), data<T>(out));
  });
  return activations(out, grad.scalar_type());
}

// grad: [N, C_out, H', W'] -> from_post [K*K, C_in, g], from_pre [K*K, C_out, g], empty where not wanted
std::tuple<Tensor, Tensor> grad_codes(const Tensor& grad, std::optional<Tensor> x, std::optional<Tensor> bits,
                                      const Tensor& pre, const Tensor& interaction, const Tensor& post, int64_t stride,
                                      int64_t padding, bool want_from_post, bool want_from_pre, std::string plan,
                                      double event_below) {
  STD_TORCH_CHECK(x || bits, "genetic_conv2d_grad_codes: one of x and bits must be given");
  const Shape s = bits ? make_shape(bits->size(0), bits->size(1), bits->size(2), pre, post, stride, padding)
                       : make_shape(x->size(0), x->size(2), x->size(3), pre, post, stride, padding);
  const TapMajor codes(pre, interaction, post);
  const Tensor rows = rows_of(grad);
  const ScalarType type = rows.scalar_type();
  const auto result = [&](bool wanted, int64_t channels) {
    return wanted ? torch::stable::new_empty(rows, {s.taps(), channels, s.genes}) : torch::stable::new_empty(rows, {0});
  };
  Tensor from_post = result(want_from_post, s.c_in), from_pre = result(want_from_pre, s.c_out);
  dispatch_accumulate(type, [&](auto zero) {
    using T = decltype(zero);
    T* out_post = want_from_post ? data<T>(from_post) : nullptr;
    T* out_pre = want_from_pre ? data<T>(from_pre) : nullptr;
    Operand<T> operand(x, bits);
    plan = forward_plan(s, operand.input, plan, event_below);
    if (plan == "event")
      return event_grad_codes(s, operand.input, data<T>(rows), codes.get<T>(), out_post, out_pre);
    operand.need_values(x, s.c_in);
    const T* values = operand.input.values;
    if (plan == "gene") return gene_grad_codes(s, values, data<T>(rows), codes.get<T>(), out_post, out_pre);
    STD_TORCH_CHECK(plan == "reconstruct", "genetic_conv2d_grad_codes: the CPU has no plan ", plan);
    reconstruct_grad_codes(s, values, data<T>(rows), codes.get<T>(), out_post, out_pre);
  });
  return {from_post, from_pre};
}

}  // namespace
}  // namespace gee

STABLE_TORCH_LIBRARY_IMPL(gee_kernels, CPU, m) {
  m.impl("genetic_conv2d", TORCH_BOX(&gee::genetic_conv2d));
  m.impl("genetic_conv2d_grad_x", TORCH_BOX(&gee::grad_x));
  m.impl("genetic_conv2d_grad_codes", TORCH_BOX(&gee::grad_codes));
}
