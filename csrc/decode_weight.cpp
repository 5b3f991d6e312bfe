// decode_weight: see gee_kernels/decode_weight/reference.py.
#include "common.h"

namespace gee {
namespace {

using torch::stable::matmul;
using torch::stable::reshape;

// pre: [c_in, g, k, k], interaction: [g, g], post: [c_out, g, k, k] -> [c_out, c_in, k, k]
Tensor decode_weight(const Tensor& pre, const Tensor& interaction, const Tensor& post) {
  const int64_t c_in = pre.size(0), genes = pre.size(1), k = pre.size(2), c_out = post.size(0);
  const auto storage = pre.scalar_type();
  const auto accumulate = storage == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const Tensor a = torch::stable::to(reshape(pre, {c_in, genes, k * k}), accumulate);
  const Tensor b = torch::stable::to(reshape(post, {c_out, genes, k * k}), accumulate);
  const Tensor mixed = matmul(permuted(b, {2, 0, 1}), torch::stable::transpose(torch::stable::to(interaction, accumulate), 0, 1));
  const Tensor weight = matmul(mixed, permuted(a, {2, 1, 0}));  // [k*k, c_out, c_in]
  Tensor out = torch::stable::new_empty(pre, {c_out, c_in, k, k});
  Tensor flat = torch::stable::view(out, {c_out, c_in, k * k});
  torch::stable::copy_(flat, permuted(weight, {1, 2, 0}));
  return out;
}

}  // namespace
}  // namespace gee

STABLE_TORCH_LIBRARY_IMPL(gee_kernels, CPU, m) {
  m.impl("decode_weight", TORCH_BOX(&gee::decode_weight));
}
