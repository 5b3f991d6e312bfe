// genetic_conv2d and its gradients: see gee_kernels/genetic_conv2d/op.py and README.md.
//
// Here operands are brought into the form of genetic_conv2d.h and the plan is called; the plans have files of their own.
#include "genetic_conv2d.h"

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

template double density<float>(const Shape&, const Input<float>&);
template double density<double>(const Shape&, const Input<double>&);

}  // namespace conv

namespace {

using conv::Codes;
using conv::Input;
using conv::Shape;
using torch::stable::contiguous;
using torch::stable::permute;
using torch::stable::reshape;
using torch::stable::to;

ScalarType accumulate_type(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

template <typename F> void dispatch_accumulate(ScalarType type, F&& f) {
  if (type == ScalarType::Double) f(double{});
  else f(float{});
}

template <typename T> const T* data(const Tensor& t) { return static_cast<const T*>(t.const_data_ptr()); }
template <typename T> T* data(Tensor& t) { return static_cast<T*>(t.mutable_data_ptr()); }

// [N, C, H, W] -> [N, H, W, C], contiguous, in the accumulation type
Tensor rows_of(const Tensor& x) { return to(contiguous(permute(x, {0, 2, 3, 1})), accumulate_type(x)); }

// [N, H, W, C] in the accumulation type -> [N, C, H, W] in `type`, channels-last in memory
Tensor activations(const Tensor& rows, ScalarType type) { return permute(to(rows, type), {0, 3, 1, 2}); }

struct TapMajor {
  Tensor pre, interaction, post;

  TapMajor(const Tensor& pre_, const Tensor& interaction_, const Tensor& post_)
      : pre(taps_first(pre_)), interaction(to(contiguous(interaction_), accumulate_type(interaction_))),
        post(taps_first(post_)) {}

  template <typename T> Codes<T> get() const { return {data<T>(pre), data<T>(interaction), data<T>(post)}; }

  static Tensor taps_first(const Tensor& code) {
    const Tensor flat = reshape(code, {code.size(0), code.size(1), code.size(2) * code.size(3)});
    return to(contiguous(permute(flat, {2, 0, 1})), accumulate_type(code));
  }
};

Shape make_shape(int64_t images, int64_t height, int64_t width, const Tensor& pre, const Tensor& post, int64_t stride,
                 int64_t padding) {
  const int64_t k = pre.size(2);
  STD_TORCH_CHECK(stride >= 1 && padding >= 0 && height + 2 * padding >= k && width + 2 * padding >= k,
                  "genetic_conv2d: a ", k, "x", k, " window does not fit ", height, "x", width, " with padding ", padding);
  return {images, pre.size(0), height, width, post.size(0), (height + 2 * padding - k) / stride + 1,
          (width + 2 * padding - k) / stride + 1, pre.size(1), k, stride, padding};
}

// Zeros and ones of packed bits. bits: [N, H, W, ceil(C / 8)] -> [N, H, W, C]
Tensor unpack(const Tensor& bits, int64_t channels, ScalarType type) {
  const int64_t bytes = bits.size(3), pixels = bits.size(0) * bits.size(1) * bits.size(2);
  Tensor out = torch::stable::new_empty(bits, {bits.size(0), bits.size(1), bits.size(2), channels}, type);
  dispatch_accumulate(type, [&](auto zero) {
    using T = decltype(zero);
    const auto* source = data<uint8_t>(bits);
    T* target = data<T>(out);
    torch::stable::parallel_for(0, pixels, 256, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p)
        for (int64_t c = 0; c < channels; ++c)
          target[p * channels + c] = T((source[p * bytes + c / 8] >> (c % 8)) & 1);
    });
  });
  return out;
}

// x: [N, C_in, H, W] -> y [N, C_out, H', W']
Tensor forward(const Tensor& x, const Tensor& pre, const Tensor& interaction, const Tensor& post,
               std::optional<Tensor> bits, int64_t stride, int64_t padding, std::string plan, double event_below) {
  const Shape s = make_shape(x.size(0), x.size(2), x.size(3), pre, post, stride, padding);
  const TapMajor codes(pre, interaction, post);
  const ScalarType type = accumulate_type(x);
  Tensor y = torch::stable::new_empty(x, {s.images, s.out_height, s.out_width, s.c_out}, type);
  if (bits) bits = contiguous(*bits);
  dispatch_accumulate(type, [&](auto zero) {
    using T = decltype(zero);
    Tensor values;
    Input<T> input{nullptr, bits ? data<uint8_t>(*bits) : nullptr};
    const auto need_values = [&] {
      if (!input.values) values = rows_of(x), input.values = data<T>(values);
    };
    if (!bits) need_values();
    if (event_below > 0 && conv::density(s, input) < event_below) plan = "event";
    if (plan == "event") return conv::event_forward(s, input, codes.get<T>(), data<T>(y));
    need_values();
    if (plan == "gene") return conv::gene(s, false, input.values, codes.get<T>(), data<T>(y));
    STD_TORCH_CHECK(plan == "reconstruct", "genetic_conv2d: the CPU has no plan ", plan);
    conv::reconstruct(s, false, input.values, codes.get<T>(), data<T>(y));
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
  if (bits) bits = contiguous(*bits);
  dispatch_accumulate(type, [&](auto zero) {
    using T = decltype(zero);
    T* out_post = want_from_post ? data<T>(from_post) : nullptr;
    T* out_pre = want_from_pre ? data<T>(from_pre) : nullptr;
    Tensor values;
    Input<T> input{nullptr, bits ? data<uint8_t>(*bits) : nullptr};
    if (!bits) values = rows_of(*x), input.values = data<T>(values);
    if (bits) values = unpack(*bits, s.c_in, type), input.values = data<T>(values);
    if (plan == "gene")
      return conv::gene_grad_codes(s, input.values, data<T>(rows), codes.get<T>(), out_post, out_pre);
    STD_TORCH_CHECK(plan == "reconstruct", "genetic_conv2d_grad_codes: the CPU has no plan ", plan);
    conv::reconstruct_grad_codes(s, input.values, data<T>(rows), codes.get<T>(), out_post, out_pre);
  });
  return {from_post, from_pre};
}

}  // namespace
}  // namespace gee

STABLE_TORCH_LIBRARY_IMPL(gee_kernels, CPU, m) {
  m.impl("genetic_conv2d", TORCH_BOX(&gee::forward));
  m.impl("genetic_conv2d_grad_x", TORCH_BOX(&gee::grad_x));
  m.impl("genetic_conv2d_grad_codes", TORCH_BOX(&gee::grad_codes));
}
