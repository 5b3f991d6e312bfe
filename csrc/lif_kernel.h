// Body of lif.cpp, compiled per instruction set.

#include "lif_steps.h"

// Forward over n neurons next to each other in memory. x and s step through time by x_step and s_step;
// start and last may be null. scratch: 3 n.
template <typename T, typename A>
void lif_forward(const Neuron<A>& p, const T* x, int64_t x_step, const A* start, int64_t steps, int64_t n, T* s,
                 int64_t s_step, A* last, A* scratch) {
  A *current = scratch, *h = scratch + n, *v = scratch + 2 * n;
  if (start) std::copy_n(start, n, v);
  else std::fill_n(v, n, p.rest);
  for (int64_t t = 0; t < steps; ++t) {
    prefetch_next(x, x_step, t, steps, n);
    advance(p, read_row(x + t * x_step, n, current), n, v, h);
    fire(h, p.threshold, n, s + t * s_step);
  }
  if (last) std::copy_n(v, n, last);
}

// Backward over n neurons next to each other. Any of start, grad_s, grad_last and grad_start may be null.
// scratch: (steps + 3) n.
template <typename T, typename A>
void lif_backward(const Neuron<A>& p, const T* grad_s, int64_t grad_step, const A* grad_last, const T* x,
                  int64_t x_step, const A* start, int64_t steps, int64_t n, T* grad_x, int64_t out_step,
                  A* grad_start, A* scratch) {
  A *row = scratch, *v = scratch + n, *out = scratch + 2 * n, *h = scratch + 3 * n;
  if (start) std::copy_n(start, n, v);
  else std::fill_n(v, n, p.rest);
  for (int64_t t = 0; t < steps; ++t) {
    prefetch_next(x, x_step, t, steps, n);
    if (grad_s) prefetch_row(grad_s + t * grad_step, n);
    advance(p, read_row(x + t * x_step, n, row), n, v, h + t * n);
  }
  A* grad_v = v;  // the membrane has been recomputed; its row now carries the gradient to it
  if (grad_last) std::copy_n(grad_last, n, grad_v);
  else std::fill_n(grad_v, n, A(0));
  if (!grad_s) std::fill_n(row, n, A(0));
  for (int64_t t = steps - 1; t >= 0; --t) {
    const A* g = grad_s ? read_row(grad_s + t * grad_step, n, row) : row;
    if constexpr (std::is_same_v<T, A>) retreat(p, h + t * n, g, n, grad_v, grad_x + t * out_step);
    else {
      retreat(p, h + t * n, g, n, grad_v, out);
      store_row(out, n, grad_x + t * out_step);
    }
  }
  if (grad_start) std::copy_n(grad_v, n, grad_start);
}
