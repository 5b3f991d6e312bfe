// count_synapses: see gee_kernels/synapses/reference.py.
#include "common.h"

#define GEE_KERNEL_BODY "synapses_kernel.h"
#include "for_each_isa.h"

namespace gee {
namespace {

constexpr int64_t kGrain = 1 << 14;  // bytes a thread should at least get

// bits: [N, *space, bytes] uint8, fan_out: [*space] int64 -> [N, 2] int64
Tensor count_synapses(const Tensor& bits, const Tensor& fan_out) {
  STD_TORCH_CHECK(bits.dim() >= 2 && bits.scalar_type() == ScalarType::Byte,
                  "bits must be uint8 [N, *space, bytes]");
  STD_TORCH_CHECK(fan_out.scalar_type() == ScalarType::Long, "fan_out must be int64");
  const Tensor in = torch::stable::contiguous(bits), weights = torch::stable::contiguous(fan_out);
  const int64_t samples = in.size(0), bytes = in.size(in.dim() - 1), space = weights.numel();
  STD_TORCH_CHECK(in.numel() == samples * space * bytes, "fan_out must have one entry per position of bits, got ",
                  space);
  const std::array<int64_t, 2> shape{samples, 2};
  Tensor out = torch::stable::new_empty(in, {shape.data(), shape.size()}, ScalarType::Long);
  const auto* source = static_cast<const uint8_t*>(in.const_data_ptr());
  const auto* reach = static_cast<const int64_t*>(weights.const_data_ptr());
  auto* target = static_cast<int64_t*>(out.mutable_data_ptr());
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, space * bytes));
  torch::stable::parallel_for(0, samples, grain, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      GEE_DISPATCH(count_sample, source + n * space * bytes, reach, space, bytes, target + 2 * n);
  });
  return out;
}

}  // namespace
}  // namespace gee

STABLE_TORCH_LIBRARY_IMPL(gee_kernels, CPU, m) { m.impl("count_synapses", TORCH_BOX(&gee::count_synapses)); }
