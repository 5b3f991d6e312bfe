// genetic_conv2d, plan "event", forward: see genetic_conv2d_event.h.
#include "genetic_conv2d_event.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define GEE_KERNEL_BODY "genetic_conv2d_event_kernel.h"
#include "for_each_isa.h"

namespace gee {
namespace {

using torch::stable::parallel_for;

constexpr int64_t kShares = 64;       // into which the preparations are divided
constexpr int64_t kRowsPerTask = 24;  // rows of a slab that a thread decodes at least

}  // namespace

template <typename T>
SpikeMasks<T>::SpikeMasks(const conv::Shape& shape, const conv::Input<T>& x) : words_((shape.c_in + 63) / 64) {
  if (x.bits && shape.c_in % 64 == 0 && reinterpret_cast<uintptr_t>(x.bits) % 8 == 0) {
    masks_ = reinterpret_cast<const uint64_t*>(x.bits);  // they are masks already
    return;
  }
  packed_ = Scratch<uint64_t>(shape.in_pixels() * words_);
  masks_ = packed_.get();
  parallel_for(0, shape.in_pixels(), 256, [&](int64_t begin, int64_t end) {
    GEE_DISPATCH(collect_masks<T>, x, begin, end, shape.c_in, words_, packed_.get());
  });
}

template class SpikeMasks<float>;
template class SpikeMasks<double>;

template <typename T>
EventConvolution<T>::EventConvolution(const conv::Shape& shape, const conv::Input<T>& x, const conv::Codes<T>& codes)
    : shape_(shape), codes_(codes), slabs_((shape.c_in + kSlabChannels - 1) / kSlabChannels) {
  const int64_t rows = shape.images * shape.height, width = shape.width;
  const SpikeMasks<T> masks(shape, x);
  lists_ = {.rows = rows, .width = width, .words = masks.words()};
  row_begin_ = Scratch<int64_t>(slabs_ * rows);
  count_ = GEE_DISPATCH(count_spikes, masks.get(), rows, width, masks.words(), slabs_, row_begin_.get());
  starts_ = Scratch<uint32_t>(slabs_ * rows * (width + 1));
  events_ = Scratch<uint32_t>(count_);
  if (!x.bits) values_ = Scratch<T>(count_);
  lists_.row_begin = row_begin_.get();
  lists_.starts = starts_.get();
  lists_.events = events_.get();
  lists_.values = values_.get();
  // half = interaction post^T, by blocks: what remains of decoding is one product, pre half. Every share lists the
  // events of some rows and makes some of half.
  const int64_t genes = shape.genes, taps = shape.taps(), products = blocks() * taps;
  half_ = Scratch<T>(products * genes * kBlock);
  parallel_for(0, kShares, 1, [&](int64_t begin, int64_t end) {
    for (int64_t slab = 0; slab < slabs_; ++slab)
      GEE_DISPATCH(fill_lists<T>, lists_, slab, rows * begin / kShares, rows * end / kShares, masks.get(), x.values,
                   shape.c_in);
    const Scratch<T> columns(genes * kBlock);
    for (int64_t i = products * begin / kShares; i < products * end / kShares; ++i) {
      const int64_t block = i / taps, tap = i % taps, size = this->width(block);
      const T* post = codes.post + (tap * shape.c_out + block * kBlock) * genes;
      GEE_DISPATCH(transpose<T>, post, channels(block), genes, size, columns.get());
      GEE_DISPATCH(gemm<T>, genes, size / kLine, genes, codes.interaction, genes, 1, columns.get(), size,
                   half_.get() + (block * taps * kBlock + tap * size) * genes, size, false);
    }
  });
}

template <typename T> bool EventConvolution<T>::blocks_apart() const {
  const int64_t threads = torch::stable::get_num_threads();
  return (blocks() % threads == 0 || blocks() >= 4 * threads) && 2 * threads <= blocks() * slabs_;
}

template <typename T> void EventConvolution<T>::run(int64_t block, T* out, int64_t out_stride) const {
  const int64_t taps = shape_.taps(), genes = shape_.genes, columns = width(block);
  const Scratch<T> slab_rows(taps * kSlabChannels * columns);
  for (int64_t slab = 0; slab < slabs_; ++slab) {
    const int64_t first = slab * kSlabChannels, inputs = std::min(kSlabChannels, shape_.c_in - first);
    const int64_t tasks = (inputs + kRowsPerTask - 1) / kRowsPerTask;
    parallel_for(0, taps * tasks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t tap = i / tasks, row = i % tasks * kRowsPerTask;
        GEE_DISPATCH(gemm<T>, std::min(kRowsPerTask, inputs - row), columns / kLine, genes,
                     codes_.pre + (tap * shape_.c_in + first + row) * genes, genes, 1,
                     half_.get() + (block * taps * kBlock + tap * columns) * genes, columns,
                     slab_rows.get() + (tap * kSlabChannels + row) * columns, columns, false);
      }
    });
    const EventGather<T> gather{lists_, slab, shape_.height, shape_.out_height, shape_.out_width, shape_.kernel,
                                shape_.stride, shape_.padding, slab_rows.get(), out, out_stride, slab > 0};
    parallel_for(0, shape_.images * shape_.out_height, 1, [&](int64_t begin, int64_t end) {
      GEE_DISPATCH(gather<T>, gather, columns / kLine, begin, end);
    });
  }
}

template class EventConvolution<float>;
template class EventConvolution<double>;

namespace conv {

template <typename T> void event_forward(const Shape& shape, const Input<T>& x, const Codes<T>& codes, T* y) {
  if (!shape.out_pixels()) return;
  const EventConvolution<T> convolution(shape, x, codes);
  const auto run = [&](int64_t block) {
    const int64_t channels = convolution.channels(block), width = convolution.width(block);
    T* out = y + block * convolution.kBlock;
    if (channels == width) return convolution.run(block, out, shape.c_out);
    // Whole lines would spill into the next position.
    const Scratch<T> lines(shape.out_pixels() * width);
    convolution.run(block, lines.get(), width);
    parallel_for(0, shape.out_pixels(), 1024, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        std::copy_n(lines.get() + i * width, channels, out + i * shape.c_out);
    });
  };
  parallel_for(0, convolution.blocks(), convolution.blocks_apart() ? 1 : convolution.blocks(),
               [&](int64_t begin, int64_t end) {
                 for (int64_t block = begin; block < end; ++block) run(block);
               });
}

template void event_forward(const Shape&, const Input<float>&, const Codes<float>&, float*);
template void event_forward(const Shape&, const Input<double>&, const Codes<double>&, double*);

}  // namespace conv
}  // namespace gee
