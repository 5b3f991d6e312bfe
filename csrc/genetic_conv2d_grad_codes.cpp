// The gradients of the codes, dense plans: sums of outer products over positions, contracted with a code at once.
//
//   reconstruct: dW_slab[t, i, o] = sum_p x[source(p, t), i] grad[p, o], a slab at a time, contracted and forgotten
//   gene:        from_post[t, i, :] = sum_p x[source(p, t), i] (grad[p] post[t]),
//                from_pre[t, o, :] = sum_p grad[p, o] (x[source(p, t)] pre[t]): dW never appears
//
// A thread owns elements of the result and sums over positions in order: any number of threads gives the same bits.
#include "genetic_conv2d_dense.h"

#define GEE_KERNEL_BODY "genetic_conv2d_dense_kernel.h"
#include "for_each_isa.h"

namespace gee::conv {

namespace {

constexpr int64_t kBlockRows = 48;         // rows of a result that a thread sums at a time
constexpr int64_t kBatch = 64;             // positions whose outer products are summed in registers
constexpr int64_t kSlabBytes = 1 << 20;    // of dW
constexpr int64_t kGenePositions = 1024;   // positions whose products in gene space are held

// c [rows, width] += sum_p a(p)[0 ... rows) b(p)[0 ... width) over the positions that `pair(p, &a, &b)` accepts.
template <typename T, typename Pair>
void sum_outer_products(int64_t begin, int64_t end, int64_t rows, int64_t width, int64_t b_valid, T* packed, T* c,
                        const Pair& pair) {
  std::array<const T*, kBatch> a;
  for (int64_t p = begin; p < end;) {
    int64_t count = 0;
    for (; p < end && count < kBatch; ++p) {
      const T* b = nullptr;
      if (!pair(p, &a[count], &b)) continue;
      T* row = packed + count++ * width;
      std::copy_n(b, b_valid, row);
      std::fill(row + b_valid, row + width, T(0));
    }
    GEE_DISPATCH(outer_product, count, a.data(), int64_t(0), rows, packed, width, width / kLine<T>, c, width);
  }
}

// out [rows, columns] = padded [rows, width]
template <typename T> void unpad(const T* padded_rows, int64_t rows, int64_t columns, int64_t width, T* out) {
  for (int64_t r = 0; r < rows; ++r) std::copy_n(padded_rows + r * width, columns, out + r * columns);
}

// Sources of every (position, tap), found once: [taps, positions] pixels of x, -1 for the padding.
std::vector<int64_t> all_sources(const Shape& s, const Positions& positions, int64_t begin, int64_t end) {
  std::vector<int64_t> sources(s.taps() * (end - begin));
  torch::stable::parallel_for(begin, end, 1024, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
      const auto position = positions.at(p);
      for (int64_t tap = 0; tap < s.taps(); ++tap)
        sources[tap * (end - begin) + p - begin] = positions.source(position, tap);
    }
  });
  return sources;
}

}  // namespace

template <typename T>
void reconstruct_grad_codes(const Shape& s, const T* x, const T* grad, const Codes<T>& codes, T* from_post,
                            T* from_pre) {
  const int64_t taps = s.taps(), genes = s.genes, width = padded<T>(genes), tile = GEE_DISPATCH(tile_rows);
  const int64_t panels = ceil_div(s.c_out, kPanel<T>), pixels = s.out_pixels();
  const Positions positions(s, false);
  const std::vector<int64_t> sources = all_sources(s, positions, 0, pixels);
  const int64_t step = [&] {
    const int64_t fit = kSlabBytes / std::max<int64_t>(1, s.c_in * kPanel<T> * int64_t(sizeof(T)));
    return std::clamp<int64_t>(fit, 1, panels == 1 ? ceil_div(taps, 2) : taps);
  }();
  const Scratch<T> slab(step * s.c_in * kPanel<T>);
  const Scratch<T> pre = pad_rows(codes.pre, taps * s.c_in, genes), post = pad_rows(codes.post, taps * s.c_out, genes);
  const Scratch<T> pre_sums(from_pre ? taps * s.c_out * width : 0);
  if (from_post) std::fill_n(from_post, taps * s.c_in * genes, T(0));
  if (from_pre) std::fill_n(pre_sums.get(), taps * s.c_out * width, T(0));
  const int64_t row_blocks = ceil_div(s.c_in, kBlockRows);

  for (int64_t panel = 0; panel < panels; ++panel) {
    const int64_t o = panel * kPanel<T>, columns = std::min(kPanel<T>, s.c_out - o);
    for (int64_t tap0 = 0; tap0 < taps; tap0 += step) {
      const int64_t count = std::min(step, taps - tap0);
      torch::stable::parallel_for(0, count * row_blocks, 1, [&](int64_t begin, int64_t end) {
        const Scratch<T> packed(kBatch * kPanel<T>);
        for (int64_t unit = begin; unit < end; ++unit) {
          const int64_t tap = unit / row_blocks, i = unit % row_blocks * kBlockRows;
          const int64_t rows = std::min(kBlockRows, s.c_in - i);
          T* c = slab + (tap * s.c_in + i) * kPanel<T>;
          std::fill_n(c, rows * kPanel<T>, T(0));
          const int64_t* source = sources.data() + (tap0 + tap) * pixels;
          sum_outer_products<T>(0, pixels, rows, kPanel<T>, columns, packed, c, [&](int64_t p, const T** a, const T** b) {
            if (source[p] < 0) return false;
            *a = x + source[p] * s.c_in + i;
            *b = grad + p * s.c_out + o;
            return true;
          });
          if (!from_post) continue;
          for (int64_t r = 0; r < rows; r += tile) {
            std::array<const T*, kMaxRows> in{};
            std::array<T*, kMaxRows> out{};
            for (int64_t k = 0; k < std::min(tile, rows - r); ++k) {
              in[k] = c + (r + k) * kPanel<T>;
              out[k] = from_post + ((tap0 + tap) * s.c_in + i + r + k) * genes;
            }
            const T* b = post + ((tap0 + tap) * s.c_out + o) * width;
            const RowProduct<T> p{1, columns, in.data(), &b, width, out.data(), genes, true};
            GEE_DISPATCH(row_product, p, std::min(tile, rows - r));
          }
        }
      });
      if (!from_pre) continue;
      const int64_t parts = ceil_div(columns, tile);
      torch::stable::parallel_for(0, count * parts, 1, [&](int64_t begin, int64_t end) {
        std::vector<const T*> a(s.c_in);
        for (int64_t unit = begin; unit < end; ++unit) {
          const int64_t tap = unit / parts, first = unit % parts * tile;
          for (int64_t i = 0; i < s.c_in; ++i) a[i] = slab + (tap * s.c_in + i) * kPanel<T>;
          GEE_DISPATCH(outer_product, s.c_in, a.data(), first, std::min(tile, columns - first),
                       pre + (tap0 + tap) * s.c_in * width, width, width / kLine<T>,
                       pre_sums + ((tap0 + tap) * s.c_out + o + first) * width, width);
        }
      });
    }
  }
  if (from_pre) unpad(pre_sums.get(), taps * s.c_out, genes, width, from_pre);
}

template <typename T>
void gene_grad_codes(const Shape& s, const T* x, const T* grad, const Codes<T>& codes, T* from_post, T* from_pre) {
  const int64_t taps = s.taps(), genes = s.genes, width = padded<T>(genes), tile = GEE_DISPATCH(tile_rows);
  const Positions positions(s, false);
  const int64_t pixels = positions.count(), slab = std::min(pixels, kGenePositions);
  const Scratch<T> z(slab * taps * width);
  const std::vector<T> zeros(s.c_in);

  // z[p, tap, :] = row(p, tap) code[tap] for positions [first, last); rows outside the image give zeros.
  const auto to_genes = [&](int64_t first, int64_t last, int64_t channels, const T* code, const auto& row) {
    torch::stable::parallel_for(0, ceil_div(last - first, 8 * tile), 1, [&](int64_t begin, int64_t end) {
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t p = first + begin * 8 * tile; p < std::min(last, first + end * 8 * tile); p += tile) {
          std::array<const T*, kMaxRows> in{};
          std::array<T*, kMaxRows> out{};
          const int64_t rows = std::min(tile, last - p);
          for (int64_t r = 0; r < rows; ++r) {
            in[r] = row(p + r, tap);
            out[r] = z + ((p + r - first) * taps + tap) * width;
          }
          const T* b = code + tap * channels * width;
          const RowProduct<T> product{1, channels, in.data(), &b, width, out.data(), width, false};
          GEE_DISPATCH(row_product, product, rows);
        }
    });
  };
  // sums[tap, c, :] += sum_p row(p, tap)[c] z[p, tap, :]; row gives null where there is nothing to add.
  const auto from_genes = [&](int64_t first, int64_t last, int64_t channels, T* sums, const auto& row) {
    const int64_t blocks = ceil_div(channels, kBlockRows);
    torch::stable::parallel_for(0, taps * blocks, 1, [&](int64_t begin, int64_t end) {
      const Scratch<T> packed(kBatch * width);
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t tap = unit / blocks, c = unit % blocks * kBlockRows;
        sum_outer_products<T>(first, last, std::min(kBlockRows, channels - c), width, width, packed,
                              sums + (tap * channels + c) * width, [&](int64_t p, const T** a, const T** b) {
                                const T* source = row(p, tap);
                                *a = source ? source + c : nullptr;
                                *b = z + ((p - first) * taps + tap) * width;
                                return source != nullptr;
                              });
      }
    });
  };

  const auto contract = [&](int64_t c_code, const T* code, int64_t c_sums, T* out, bool code_reads_x) {
    const Scratch<T> rows = pad_rows(code, taps * c_code, genes);
    const Scratch<T> sums(taps * c_sums * width);
    std::fill_n(sums.get(), taps * c_sums * width, T(0));
    for (int64_t first = 0; first < pixels; first += slab) {
      const int64_t last = std::min(pixels, first + slab);
      const std::vector<int64_t> sources = all_sources(s, positions, first, last);
      const auto x_row = [&](int64_t p, int64_t tap) {
        const int64_t pixel = sources[tap * (last - first) + p - first];
        return pixel < 0 ? nullptr : x + pixel * s.c_in;
      };
      const auto grad_row = [&](int64_t p, int64_t) { return grad + p * s.c_out; };
      if (code_reads_x) {
        to_genes(first, last, c_code, rows, [&](int64_t p, int64_t tap) {
          const T* row = x_row(p, tap);
          return row ? row : zeros.data();
        });
        from_genes(first, last, c_sums, sums, grad_row);
      } else {
        to_genes(first, last, c_code, rows, grad_row);
        from_genes(first, last, c_sums, sums, x_row);
      }
    }
    unpad(sums.get(), taps * c_sums, genes, width, out);
  };
  if (from_post) contract(s.c_out, codes.post, s.c_in, from_post, false);
  if (from_pre) contract(s.c_in, codes.pre, s.c_out, from_pre, true);
}

#define GEE_INSTANTIATE(plan, T) \
  template void plan##_grad_codes<T>(const Shape&, const T*, const T*, const Codes<T>&, T*, T*);
GEE_INSTANTIATE(reconstruct, float)
GEE_INSTANTIATE(reconstruct, double)
GEE_INSTANTIATE(gene, float)
GEE_INSTANTIATE(gene, double)

}  // namespace gee::conv
