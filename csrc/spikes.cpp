// pack_spikes, unpack_spikes: see gee_kernels/spikes/reference.py.
#include "common.h"

#define GEE_KERNEL_BODY "spikes_kernel.h"
#include "for_each_isa.h"

namespace gee {
namespace {

constexpr int64_t kGrain = 1 << 14;  // bits a thread should at least get

template <typename F> auto dispatch_any(const Tensor& t, F&& f) {
  switch (t.scalar_type()) {
    case ScalarType::Bool: return f(bool{});
    case ScalarType::Byte: return f(uint8_t{});
    case ScalarType::Char: return f(int8_t{});
    default: return dispatch_floating(t, "x", f);
  }
}

// x: [N, C, *space] -> [N, *space, ceil(C / 8)] uint8
Tensor pack_spikes(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() >= 2, "x must be [N, C, *space], got ", x.dim(), " dimensions");
  const int64_t channels = x.size(1), bytes = (channels + 7) / 8;
  // Space is brought to one dimension; a view unless the strides of space do not nest.
  std::vector<int64_t> shape{x.size(0)};
  for (int64_t d = 2; d < x.dim(); ++d) shape.push_back(x.size(d));
  int64_t space = 1;
  for (size_t d = 1; d < shape.size(); ++d) space *= shape[d];
  shape.push_back(bytes);
  const std::array<int64_t, 3> flat{x.size(0), channels, space};
  const Tensor in = torch::stable::reshape(x, {flat.data(), flat.size()});
  Tensor out = torch::stable::new_empty(x, {shape.data(), shape.size()}, ScalarType::Byte);
  const int64_t s_n = in.stride(0), s_c = in.stride(1), s_p = in.stride(2);
  auto* target = static_cast<uint8_t*>(out.mutable_data_ptr());
  dispatch_any(in, [&](auto zero) {
    using T = decltype(zero);
    const auto* source = static_cast<const T*>(in.const_data_ptr());
    const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, channels));
    torch::stable::parallel_for(0, flat[0] * space, grain, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const T* p = source + (row / space) * s_n + (row % space) * s_p;
        GEE_DISPATCH(pack_row<T>, p, s_c, channels, target + row * bytes);
      }
    });
  });
  return out;
}

// bits: [N, *space, ceil(C / 8)] -> [N, C, *space], channels-last in memory
Tensor unpack_spikes(const Tensor& bits, int64_t channels, ScalarType dtype) {
  const Tensor in = torch::stable::contiguous(bits);
  const int64_t dims = in.dim(), bytes = in.size(dims - 1);
  STD_TORCH_CHECK(bytes == (channels + 7) / 8, "bits must have ", (channels + 7) / 8,
                  " bytes in the last dimension for ", channels, " channels, got ", bytes);
  std::vector<int64_t> shape(in.sizes().begin(), in.sizes().end());
  shape.back() = channels;
  Tensor out = torch::stable::new_empty(in, {shape.data(), shape.size()}, dtype);
  const int64_t rows = bytes ? in.numel() / bytes : 0;
  const auto* source = static_cast<const uint8_t*>(in.const_data_ptr());
  dispatch_floating(out, "dtype", [&](auto zero) {
    using T = decltype(zero);
    auto* target = static_cast<T*>(out.mutable_data_ptr());
    const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, channels));
    torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        GEE_DISPATCH(unpack_row<T>, source + row * bytes, channels, target + row * channels);
    });
  });
  std::vector<int64_t> order{0, dims - 1};
  for (int64_t d = 1; d < dims - 1; ++d) order.push_back(d);
  return permuted(out, {order.data(), order.size()});
}

}  // namespace
}  // namespace gee

STABLE_TORCH_LIBRARY_IMPL(gee_kernels, CPU, m) {
  m.impl("pack_spikes", TORCH_BOX(&gee::pack_spikes));
  m.impl("unpack_spikes", TORCH_BOX(&gee::unpack_spikes));
}
