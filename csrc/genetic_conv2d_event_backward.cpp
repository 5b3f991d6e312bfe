// genetic_conv2d, plan "event", gradient of the codes.
//
// dW[o, i, t] = sum over the events of input channel i of the output gradients that tap t leads to. A slab of dW
// [kSlabChannels inputs, taps, block of outputs] is summed and contracted with the codes at once; dW is never
// held as a whole. The gradient is laid out line by line (64 bytes of output channels) with a border of zeros,
// in tiles of rows that fit the first-level cache; events are listed by tile and channel, so that all taps of a
// channel gather a tile's events in registers.
#include "genetic_conv2d_event.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gee {

// How the gradient is tiled. With stride s, an input row y is coarse row (y + padding) / s of class
// (y + padding) % s, and is met by the taps class, class + s, ...: tap class + j s leads to output row
// coarse - j. Likewise for columns. All images' coarse rows, each image with `halo` rows before it, form one
// stack; packed row r of an image holds output row r - halo + first, or zeros where there is none.
struct GradTiles {
  int64_t height, width, out_height, out_width, kernel, stride, padding;
  int64_t halo;                         // taps of a class less one
  int64_t first;                        // coarse row of input row 0
  int64_t padded_height, padded_width;  // of one packed image
  int64_t stack;                        // images * padded_height
  int64_t rows, count;                  // rows a tile, tiles
};

// Events of one tile, sorted by list: channel * stride^2 + class.
template <typename T> struct TileLists {
  int64_t per_tile;           // lists a tile
  const int64_t* tile_begin;  // [tiles] where a tile's events start
  uint32_t* starts;           // [tiles, per_tile + 1] where a list starts within its tile
  uint16_t* events;           // position in the tile's packed rows, halo included
  T* values;                  // of graded input; null for binary
};

}  // namespace gee

#define GEE_KERNEL_BODY "genetic_conv2d_event_backward_kernel.h"
#include "for_each_isa.h"

namespace gee::conv {
namespace {

using torch::stable::parallel_for;

constexpr int64_t kTilePositions = 640;  // 40 KiB a line of channels: lists of some length matter more than the last hit
constexpr int64_t kPackedBytes = 8 << 20;
constexpr int64_t kSlabBytes = 2 << 20;
constexpr int64_t kRowsPerTask = 24;     // rows of a product that a thread computes at least

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

GradTiles tile(const Shape& s) {
  GradTiles t{.height = s.height, .width = s.width, .out_height = s.out_height, .out_width = s.out_width,
              .kernel = s.kernel, .stride = s.stride, .padding = s.padding};
  t.halo = (s.kernel + s.stride - 1) / s.stride - 1;
  t.first = s.padding / s.stride;
  t.padded_height = (s.height - 1 + s.padding) / s.stride - t.first + 1 + t.halo;
  t.padded_width = (s.width - 1 + s.padding) / s.stride - t.first + 1 + t.halo;
  t.stack = s.images * t.padded_height;
  t.rows = std::clamp<int64_t>(kTilePositions / t.padded_width - t.halo, 1, std::max<int64_t>(1, t.stack));
  t.count = ceil_div(t.stack, t.rows);
  STD_TORCH_CHECK((t.rows + t.halo) * t.padded_width <= 65536, "plan event takes rows of at most ",
                  65536 / (1 + t.halo) - t.halo, " pixels, got ", s.width);
  return t;
}

// Rows of genes filled up to whole lines with zeros: [rows, genes] -> [rows, padded].
template <typename T> Scratch<T> pad_genes(const T* codes, int64_t rows, int64_t genes, int64_t padded) {
  Scratch<T> out(rows * padded);
  parallel_for(0, rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* to = std::copy_n(codes + i * genes, genes, out.get() + i * padded);
      std::fill(to, out.get() + (i + 1) * padded, T(0));
    }
  });
  return out;
}

template <typename T> void cut_genes(const Scratch<T>& padded_sum, int64_t rows, int64_t genes, int64_t padded, T* out) {
  for (int64_t i = 0; i < rows; ++i) std::copy_n(padded_sum.get() + i * padded, genes, out + i * genes);
}

}  // namespace

template <typename T>
void event_grad_codes(const Shape& shape, const Input<T>& x, const T* grad, const Codes<T>& codes, T* from_post,
                      T* from_pre) {
  constexpr int64_t kLine = EventConvolution<T>::kLine, kBlock = EventConvolution<T>::kBlock;
  const int64_t taps = shape.taps(), genes = shape.genes, padded = ceil_div(genes, kLine) * kLine;
  if (!shape.out_pixels()) {
    if (from_post) std::fill_n(from_post, taps * shape.c_in * genes, T(0));
    if (from_pre) std::fill_n(from_pre, taps * shape.c_out * genes, T(0));
    return;
  }
  const GradTiles tiles = tile(shape);
  const SpikeMasks<T> masks(shape, x);

  // The events of each tile.
  TileLists<T> lists{.per_tile = shape.c_in * shape.stride * shape.stride};
  Scratch<int64_t> tile_begin(tiles.count + 1);
  Scratch<uint32_t> starts(tiles.count * (lists.per_tile + 1));
  parallel_for(0, tiles.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      tile_begin.get()[t + 1] = GEE_DISPATCH(count_tile, tiles, t, masks.get(), masks.words(), lists.per_tile,
                                             starts.get() + t * (lists.per_tile + 1));
  });
  tile_begin.get()[0] = 0;
  for (int64_t t = 0; t < tiles.count; ++t) tile_begin.get()[t + 1] += tile_begin.get()[t];
  const int64_t count = tile_begin.get()[tiles.count];
  Scratch<uint16_t> events(count);
  Scratch<T> values(x.bits ? 0 : count);
  lists.tile_begin = tile_begin.get();
  lists.starts = starts.get();
  lists.events = events.get();
  lists.values = values.get();
  parallel_for(0, tiles.count, 1, [&](int64_t begin, int64_t end) {
    Scratch<uint32_t> next(lists.per_tile);
    for (int64_t t = begin; t < end; ++t)
      GEE_DISPATCH(fill_tile<T>, tiles, lists, t, masks.get(), masks.words(), x.values, shape.c_in, next.get());
  });

  const Scratch<T> pre = pad_genes(from_pre ? codes.pre : nullptr, from_pre ? taps * shape.c_in : 0, genes, padded);
  const Scratch<T> post = pad_genes(from_post ? codes.post : nullptr, from_post ? taps * shape.c_out : 0, genes, padded);
  Scratch<T> sum_post(from_post ? taps * shape.c_in * padded : 0), sum_pre(from_pre ? taps * shape.c_out * padded : 0);
  // Some blocks of outputs are taken together, so that threads seldom wait: no more than half of dW, nor more than
  // the caches hold. The gradient is packed for some tiles at a time, so that it is still in a cache when read.
  const int64_t blocks = ceil_div(shape.c_out, kBlock), slabs = ceil_div(shape.c_in, kSlabChannels);
  const int64_t row_size = tiles.padded_width * kLine, tile_bytes = kBlockLines * tiles.rows * row_size * sizeof(T);
  const int64_t slab_size = kSlabChannels * taps * kBlock;
  const int64_t most = std::min({kPackedBytes / (tiles.count * tile_bytes), blocks * slabs / 2,
                                 kSlabBytes / (slab_size * int64_t(sizeof(T)))});
  const int64_t together = ceil_div(blocks, ceil_div(blocks, std::clamp<int64_t>(most, 1, blocks)));
  const int64_t round = std::clamp<int64_t>(kPackedBytes / (together * tile_bytes), 1, tiles.count);
  const int64_t line_size = (round * tiles.rows + tiles.halo) * row_size;
  const Scratch<T> packed(together * kBlockLines * line_size), weight(together * slab_size);

  for (int64_t first_out = 0; first_out < shape.c_out; first_out += together * kBlock) {
    const int64_t outputs = std::min(together * kBlock, shape.c_out - first_out), lines = ceil_div(outputs, kLine);
    for (int64_t first_in = 0; first_in < shape.c_in; first_in += kSlabChannels) {
      const int64_t inputs = std::min(kSlabChannels, shape.c_in - first_in);
      for (int64_t first_tile = 0; first_tile < tiles.count; first_tile += round) {
        const int64_t last_tile = std::min(first_tile + round, tiles.count);
        const int64_t first_row = first_tile * tiles.rows - tiles.halo;
        if (first_in == 0 || round < tiles.count)
          parallel_for(std::max<int64_t>(0, first_row), std::min(last_tile * tiles.rows, tiles.stack), 8,
                       [&](int64_t begin, int64_t end) {
                         for (int64_t row = begin; row < end; ++row)
                           GEE_DISPATCH(pack_row<T>, tiles, row, grad + first_out, shape.c_out, outputs,
                                        packed.get() + (row - first_row) * row_size, line_size);
                       });
        parallel_for(0, lines * inputs, 1, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end;) {
            const int64_t line = i / inputs, c = i % inputs, channels = std::min(inputs - c, end - i);
            T* to = weight.get() + line / kBlockLines * slab_size + line % kBlockLines * kLine;
            GEE_DISPATCH(scatter<T>, tiles, lists, first_tile, last_tile, packed.get() + line * line_size, first_in, c,
                         c + channels, to, kBlock);
            i += channels;
          }
        });
      }
      // Contract: sum_post[t, i] += sum_o dW[i, t, o] post[t, o] and sum_pre[t, o] += sum_i dW[i, t, o] pre[t, i].
      const int64_t tasks_post = from_post ? ceil_div(inputs, kRowsPerTask) : 0;
      const int64_t block_tasks = ceil_div(kBlock, kRowsPerTask);
      const int64_t tasks_pre = from_pre ? ceil_div(outputs, kBlock) * block_tasks : 0;
      parallel_for(0, taps * (tasks_post + tasks_pre), 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t tap = i % taps, task = i / taps;
          if (task < tasks_post) {
            const int64_t row = task * kRowsPerTask;
            for (int64_t o = 0; o < outputs; o += kBlock)
              GEE_DISPATCH(gemm<T>, std::min(kRowsPerTask, inputs - row), padded / kLine, std::min(kBlock, outputs - o),
                           weight.get() + o / kBlock * slab_size + (row * taps + tap) * kBlock, taps * kBlock, 1,
                           post.get() + (tap * shape.c_out + first_out + o) * padded, padded,
                           sum_post.get() + (tap * shape.c_in + first_in + row) * padded, padded, first_out + o > 0);
            continue;
          }
          const int64_t block = (task - tasks_post) / block_tasks, row = (task - tasks_post) % block_tasks * kRowsPerTask;
          const int64_t o = block * kBlock + row, rows = std::min({kRowsPerTask, kBlock - row, outputs - o});
          if (rows > 0)
            GEE_DISPATCH(gemm<T>, rows, padded / kLine, inputs,
                         weight.get() + block * slab_size + tap * kBlock + row, 1, taps * kBlock,
                         pre.get() + (tap * shape.c_in + first_in) * padded, padded,
                         sum_pre.get() + (tap * shape.c_out + first_out + o) * padded, padded, first_in > 0);
        }
      });
    }
  }
  if (from_post) cut_genes(sum_post, taps * shape.c_in, genes, padded, from_post);
  if (from_pre) cut_genes(sum_pre, taps * shape.c_out, genes, padded, from_pre);
}

template void event_grad_codes(const Shape&, const Input<float>&, const float*, const Codes<float>&, float*, float*);
template void event_grad_codes(const Shape&, const Input<double>&, const double*, const Codes<double>&, double*,
                               double*);

}  // namespace gee::conv
