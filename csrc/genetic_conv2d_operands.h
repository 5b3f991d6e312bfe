// The tensors of a call brought into the form of genetic_conv2d.h: channels-last, tap-major, in the accumulation type.
#pragma once

#include "genetic_conv2d.h"

namespace gee::conv {

using torch::stable::contiguous;
using torch::stable::reshape;
using torch::stable::to;

inline ScalarType accumulate_type(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

template <typename F> void dispatch_accumulate(ScalarType type, F&& f) {
  if (type == ScalarType::Double) f(double{});
  else f(float{});
}

template <typename T> const T* data(const Tensor& t) { return static_cast<const T*>(t.const_data_ptr()); }
template <typename T> T* data(Tensor& t) { return static_cast<T*>(t.mutable_data_ptr()); }

// [N, C, H, W] -> [N, H, W, C], contiguous, in the accumulation type
inline Tensor rows_of(const Tensor& x) { return to(contiguous(permuted(x, {0, 2, 3, 1})), accumulate_type(x)); }

// [N, H, W, C] in the accumulation type -> [N, C, H, W] in `type`, channels-last in memory
inline Tensor activations(const Tensor& rows, ScalarType type) { return permuted(to(rows, type), {0, 3, 1, 2}); }

struct TapMajor {
  Tensor pre, interaction, post;

  TapMajor(const Tensor& pre_, const Tensor& interaction_, const Tensor& post_)
      : pre(taps_first(pre_)), interaction(to(contiguous(interaction_), accumulate_type(interaction_))),
        post(taps_first(post_)) {}

  template <typename T> Codes<T> get() const { return {data<T>(pre), data<T>(interaction), data<T>(post)}; }

  static Tensor taps_first(const Tensor& code) {
    const Tensor flat = reshape(code, {code.size(0), code.size(1), code.size(2) * code.size(3)});
    return to(contiguous(permuted(flat, {2, 0, 1})), accumulate_type(code));
  }
};

inline Shape make_shape(int64_t images, int64_t height, int64_t width, const Tensor& pre, const Tensor& post, int64_t stride,
                 int64_t padding) {
  const int64_t k = pre.size(2);
  STD_TORCH_CHECK(stride >= 1 && padding >= 0 && height + 2 * padding >= k && width + 2 * padding >= k,
                  "genetic_conv2d: a ", k, "x", k, " window does not fit ", height, "x", width, " with padding ", padding);
  return {images, pre.size(0), height, width, post.size(0), (height + 2 * padding - k) / stride + 1,
          (width + 2 * padding - k) / stride + 1, pre.size(1), k, stride, padding};
}

// Zeros and ones of packed bits. bits: [N, H, W, ceil(C / 8)] -> [N, H, W, C]
inline Tensor unpack(const Tensor& bits, int64_t channels, ScalarType type) {
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

// What is known of the input, kept alive. At first the bits alone where they are given, else the values.
template <typename T> struct Operand {
  Input<T> input{nullptr, nullptr};

  Operand(const std::optional<Tensor>& x, const std::optional<Tensor>& bits) {
    if (bits) bits_ = contiguous(*bits), input.bits = data<uint8_t>(*bits_);
    else need_values(x, 0);
  }

  // Makes the values known, from x or, where that is absent, from the bits.
  void need_values(const std::optional<Tensor>& x, int64_t channels) {
    if (values_) return;
    values_ = x ? rows_of(*x) : unpack(*bits_, channels, std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float);
    input.values = data<T>(*values_);
  }

 private:
  std::optional<Tensor> bits_, values_;
};

}  // namespace gee::conv
