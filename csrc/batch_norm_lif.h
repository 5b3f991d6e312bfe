// What batch_norm_lif hands to its kernels.
#pragma once

#include "lif.h"

namespace gee {

// The inputs at one row of positions: pointers into step 0, with the same distance from step to step.
template <typename T> struct BatchNormInputs {
  const T* x;
  const T* residual;             // or null
  const uint8_t* residual_bits;  // or null
  int64_t step, bits_step;
};

// Vectors over channels, repeated up to `period` values: a multiple of the channels, so that inner loops are
// long for few channels too.
template <typename A> struct BatchNormVectors {
  int64_t channels, period;
  const A *mean, *scale, *bias;  // [period]; scale = weight / sqrt(var + eps)
};

}  // namespace gee
