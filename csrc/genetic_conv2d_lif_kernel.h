// Body of genetic_conv2d_lif.cpp, compiled per instruction set.
#include "batch_norm_lif_kernel.h"

// n values side by side (whole rows of channels), all steps of them. y steps by y_step, what lies in the caller's
// tensors by step. counts: [steps, period], added to. scratch: 3 n.
template <typename T, typename A>
void neuron_row(const Neuron<A>& p, const BatchNormVectors<A>& vectors, const A* y, int64_t y_step, const T* residual,
                int64_t step, int64_t bits_step, int64_t steps, int64_t n, T* spikes, uint8_t* bits, int32_t* counts,
                A* scratch) {
  A *h = scratch, *v = scratch + n, *row = scratch + 2 * n;
  std::fill_n(v, n, p.rest);
  for (int64_t t = 0; t < steps; ++t) {
    const A* r = residual ? read_row(residual + t * step, n, row) : nullptr;
    normalise_advance(p, vectors, y + t * y_step, r, n, v, h);
    fire(h, p.threshold, n, spikes + t * step);
    pack_fired(h, p.threshold, n, vectors.channels, bits + t * bits_step);
    count_fired(h, p.threshold, n, vectors.period, counts + t * vectors.period);
  }
}
