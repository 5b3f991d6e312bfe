// What the plans of genetic_conv2d share: its shape, its operands as kernels want them, and their entry points.
//
// genetic_conv2d.cpp checks, brings every operand into this form, picks the plan, and casts results back.
// scalar_t below is float or double: 16-bit tensors are cast before, so that every sum is taken in float32.
// Every kernel writes all of its outputs, and gives the same bits for any number of threads.
#pragma once

#include "common.h"

namespace gee::conv {

inline constexpr int kMaxRows = 6;  // most rows of a register tile (genetic_conv2d_dense_kernel.h)

struct Shape {
  int64_t images, c_in, height, width, c_out, out_height, out_width, genes, kernel, stride, padding;
  int64_t taps() const { return kernel * kernel; }
  int64_t in_pixels() const { return images * height * width; }
  int64_t out_pixels() const { return images * out_height * out_width; }
};

// The codes, tap-major, contiguous, scalar_t; tap t = h * kernel + w.
template <typename scalar_t> struct Codes {
  const scalar_t* pre;          // [taps, c_in, genes]
  const scalar_t* interaction;  // [genes, genes], presynaptic gene first
  const scalar_t* post;         // [taps, c_out, genes]
};

// The input: its values, its bits, or both (then they agree).
template <typename scalar_t> struct Input {
  const scalar_t* values;  // [images, height, width, c_in], contiguous; null when only the bits are known
  const uint8_t* bits;     // [images, height, width, ceil(c_in / 8)] as pack_spikes gives them; null when unknown
};

// The dense product of a direction, decoding slabs of W on the way ("reconstruct") or in gene space ("gene").
// Forward: in = x, out = y. Transposed: in = grad, out = the gradient to x. Both channels-last, out overwritten.
template <typename scalar_t>
void reconstruct(const Shape& shape, bool transposed, const scalar_t* in, const Codes<scalar_t>& codes, scalar_t* out);
template <typename scalar_t>
void gene(const Shape& shape, bool transposed, const scalar_t* in, const Codes<scalar_t>& codes, scalar_t* out);

// The gradients of the codes; arguments as of event_grad_codes, x dense.
template <typename scalar_t>
void reconstruct_grad_codes(const Shape& shape, const scalar_t* x, const scalar_t* grad, const Codes<scalar_t>& codes,
                            scalar_t* from_post, scalar_t* from_pre);
template <typename scalar_t>
void gene_grad_codes(const Shape& shape, const scalar_t* x, const scalar_t* grad, const Codes<scalar_t>& codes,
                     scalar_t* from_post, scalar_t* from_pre);

// Share of non-zero inputs, from the bits or a fixed sample of the values; cheap beside any plan.
template <typename scalar_t> double density(const Shape& shape, const Input<scalar_t>& x);

// The plan to take: "event" where the density lies under event_below, else `plan`.
template <typename scalar_t>
std::string forward_plan(const Shape& shape, const Input<scalar_t>& x, const std::string& plan, double event_below);

// y by a plan that forward_plan named; every plan but "event" needs x.values.
template <typename scalar_t>
void forward(const Shape& shape, const Input<scalar_t>& x, const Codes<scalar_t>& codes, const std::string& plan,
             scalar_t* y);

// y: [images, out_height, out_width, c_out]
template <typename scalar_t>
void event_forward(const Shape& shape, const Input<scalar_t>& x, const Codes<scalar_t>& codes, scalar_t* y);

// grad: [images, out_height, out_width, c_out]
// from_post: [taps, c_in, genes] = sum_o dW[o, i, t] post[o, v, t], or null where it is not wanted
// from_pre: [taps, c_out, genes] = sum_i dW[o, i, t] pre[i, u, t], or null
template <typename scalar_t>
void event_grad_codes(const Shape& shape, const Input<scalar_t>& x, const scalar_t* grad, const Codes<scalar_t>& codes,
                      scalar_t* from_post, scalar_t* from_pre);

}  // namespace gee::conv
