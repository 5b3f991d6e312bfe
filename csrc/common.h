// What every operator's .cpp needs: the stable ABI, checked views of tensors, dtype dispatch.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include "isa.h"

namespace gee {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using BFloat16 = c10::BFloat16;
using Half = c10::Half;

// The type in which a storage type is accumulated (SPEC: float32 whatever the storage, float64 for float64).
template <typename T> struct Accumulate { using type = float; };
template <> struct Accumulate<double> { using type = double; };
template <typename T> using accumulate_t = typename Accumulate<T>::type;

// Calls f(T{}) with the C++ type of a floating tensor.
template <typename F> auto dispatch_floating(const Tensor& t, const char* name, F&& f) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return f(float{});
    case ScalarType::Double: return f(double{});
    case ScalarType::BFloat16: return f(BFloat16{});
    case ScalarType::Half: return f(Half{});
    default: STD_TORCH_CHECK(false, name, " must be float16, bfloat16, float32 or float64");
  }
}

#ifndef STABLE_TORCH_ERROR_CODE_CHECK  // its name in torch 2.11
#define STABLE_TORCH_ERROR_CODE_CHECK TORCH_ERROR_CODE_CHECK
#endif

// aten::permute, which the stable headers of torch 2.11 do not have yet.
inline Tensor permuted(const Tensor& self, torch::headeronly::IntHeaderOnlyArrayRef dims) {
  std::array<StableIValue, 2> stack{torch::stable::detail::from(self), torch::stable::detail::from(dims)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::permute", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace gee
