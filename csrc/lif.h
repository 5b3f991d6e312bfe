// A leaky integrate-and-fire neuron's parameters, as operators receive them and as kernels use them.
#pragma once

#include "common.h"

namespace gee {

enum class Surrogate { piecewise_quadratic, atan, sigmoid };

inline Surrogate parse_surrogate(const std::string& name) {
  if (name == "piecewise_quadratic") return Surrogate::piecewise_quadratic;
  if (name == "atan") return Surrogate::atan;
  STD_TORCH_CHECK(name == "sigmoid", "surrogate must be one of piecewise_quadratic, atan, sigmoid, got ", name);
  return Surrogate::sigmoid;
}

// A: the membrane's type. Names and equations as in gee_kernels/lif/reference.py.
template <typename A> struct Neuron {
  A tau, threshold, rest;
  A leak;       // 1 / tau
  bool divide;  // a division by tau and a product with leak may round differently: tau is no power of two
  A input;  // dH/dx
  A keep;   // dH/dV
  A alpha;
  bool hard, decay_input, detach_reset;
  Surrogate surrogate;
};

struct NeuronOptions {
  double tau, v_threshold;
  std::optional<double> v_reset;
  bool decay_input, detach_reset;
  Surrogate surrogate;
  double alpha;

  template <typename A> Neuron<A> as() const {
    int exponent;
    return {A(tau),
            A(v_threshold),
            A(v_reset.value_or(0)),
            A(1 / tau),
            std::frexp(tau, &exponent) != 0.5,
            decay_input ? A(1 / tau) : A(1),
            A(1 - 1 / tau),
            A(alpha),
            v_reset.has_value(),
            decay_input,
            detach_reset,
            surrogate};
  }
};

}  // namespace gee
