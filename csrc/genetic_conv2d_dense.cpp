// The dense plans of genetic_conv2d, forward and gradient to x: `reconstruct` and `gene`.
//
// Both are products over positions whose rows are gathered by pointer, so any stride, padding and kernel size is the
// same loop, and the gradient to x is the forward product with the two populations exchanged (Positions, Roles).
// Every output element is summed in an order that depends on shapes alone: any number of threads gives the same bits.
#include "genetic_conv2d_dense.h"

#define GEE_KERNEL_BODY "genetic_conv2d_dense_kernel.h"
#include "for_each_isa.h"

namespace gee::conv {

namespace {

constexpr int64_t kSlabBytes = 384 << 10;  // a slab of W stays in the second-level cache while positions go by
constexpr int64_t kChunkTiles = 16;        // tiles whose products in gene space are held at a time, per thread

// Part of W's rows: taps [tap_begin, tap_end), source channels [begin, end).
struct Block {
  int64_t tap_begin, tap_end, begin, end;
  int64_t taps() const { return tap_end - tap_begin; }
  int64_t channels() const { return end - begin; }
};

// Blocks of about kSlabBytes; more than one if `split`, so that one panel of W is never all of W.
template <typename T> std::vector<Block> make_blocks(int64_t taps, int64_t channels, bool split) {
  const int64_t per_tap = std::max<int64_t>(1, channels * kPanel<T> * int64_t(sizeof(T)));
  int64_t step = std::clamp<int64_t>(kSlabBytes / per_tap, 1, taps);
  if (split) step = std::min(step, ceil_div(taps, 2));
  const int64_t parts = split && taps == 1 ? 2 : 1, part = ceil_div(channels, parts);
  std::vector<Block> blocks;
  for (int64_t tap = 0; tap < taps; tap += step)
    for (int64_t c = 0; c < std::max<int64_t>(channels, 1); c += std::max<int64_t>(part, 1))
      blocks.push_back({tap, std::min(taps, tap + step), c, std::min(channels, c + part)});
  return blocks;
}

// Positions of one register tile and the pointers of their product.
template <typename T> struct Tile {
  int64_t rows;
  std::array<Positions::Position, kMaxRows> position;
  std::array<T*, kMaxRows> c;
  std::vector<const T*> a, b;  // [segments, kMaxRows], [segments]

  Tile(const Positions& positions, int64_t first, int64_t limit) : rows(std::min(limit, positions.count() - first)) {
    for (int64_t r = 0; r < rows; ++r) position[r] = positions.at(first + r);
  }

  // Adds the segment of `tap` unless all of its rows are padding; false then.
  bool gather(const Positions& positions, int64_t tap, const T* in, int64_t in_row, const T* zeros, const T* b_tap) {
    std::array<const T*, kMaxRows> row{};
    bool any = false;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t pixel = positions.source(position[r], tap);
      any |= pixel >= 0;
      row[r] = pixel < 0 ? zeros : in + pixel * in_row;
    }
    if (!any) return false;
    a.insert(a.end(), row.begin(), row.end());
    b.push_back(b_tap);
    return true;
  }

  void product(int64_t depth, int64_t b_row, int64_t columns, bool accumulate) {
    const RowProduct<T> p{int64_t(b.size()), depth, a.data(), b.data(), b_row, c.data(), columns, accumulate};
    GEE_DISPATCH(row_product, p, rows);
    a.clear(), b.clear();
  }
};

// half[panel, tap, a, :] = sum_b mix[a, b] to[tap, panel's channels, b]: interaction times `to`, [genes, c_to] per tap.
template <typename T> Scratch<T> half_decode(const Shape& s, const Roles<T>& roles, const T* interaction) {
  const int64_t taps = s.taps(), genes = s.genes, panels = ceil_div(roles.c_to, kPanel<T>);
  Scratch<T> half(panels * taps * genes * kPanel<T>), mix(genes * genes);
  for (int64_t a = 0; a < genes; ++a)
    for (int64_t b = 0; b < genes; ++b) mix[a * genes + b] = interaction[a * roles.mix_row + b * roles.mix_column];
  const int64_t tile = GEE_DISPATCH(tile_rows);
  torch::stable::parallel_for(0, panels * taps, 1, [&](int64_t begin, int64_t end) {
    Scratch<T> columns(genes * kPanel<T>);  // `to`, transposed
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t panel = unit / taps, tap = unit % taps, first = panel * kPanel<T>;
      const int64_t count = std::min(kPanel<T>, roles.c_to - first);
      const T* to = roles.to + (tap * roles.c_to + first) * genes;
      for (int64_t b = 0; b < genes; ++b)
        for (int64_t o = 0; o < kPanel<T>; ++o) columns[b * kPanel<T> + o] = o < count ? to[o * genes + b] : T(0);
      const T* b = columns;
      for (int64_t a = 0; a < genes; a += tile) {
        const int64_t rows = std::min(tile, genes - a);
        std::array<const T*, kMaxRows> in{};
        std::array<T*, kMaxRows> out{};
        for (int64_t r = 0; r < rows; ++r) {
          in[r] = mix + (a + r) * genes;
          out[r] = half + (unit * genes + a + r) * kPanel<T>;
        }
        const RowProduct<T> p{1, genes, in.data(), &b, kPanel<T>, out.data(), kPanel<T>, false};
        GEE_DISPATCH(row_product, p, rows);
      }
    }
  });
  return half;
}

// slab [block.taps, block.channels, kPanel] = from (half of one panel): W as the product reads it.
template <typename T>
void decode_slab(const Shape& s, const Roles<T>& roles, const T* half, const Block& block, T* slab) {
  const int64_t genes = s.genes, tile = GEE_DISPATCH(tile_rows), tiles = ceil_div(block.channels(), tile);
  torch::stable::parallel_for(0, block.taps() * tiles, 4, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t tap = unit / tiles, first = unit % tiles * tile;
      const int64_t rows = std::min(tile, block.channels() - first);
      const T* b = half + (block.tap_begin + tap) * genes * kPanel<T>;
      std::array<const T*, kMaxRows> in{};
      std::array<T*, kMaxRows> out{};
      for (int64_t r = 0; r < rows; ++r) {
        in[r] = roles.from + ((block.tap_begin + tap) * roles.c_from + block.begin + first + r) * genes;
        out[r] = slab + (tap * block.channels() + first + r) * kPanel<T>;
      }
      const RowProduct<T> p{1, genes, in.data(), &b, kPanel<T>, out.data(), kPanel<T>, false};
      GEE_DISPATCH(row_product, p, rows);
    }
  });
}

}  // namespace

template <typename T>
void reconstruct(const Shape& s, bool transposed, const T* in, const Codes<T>& codes, T* out) {
  const Roles<T> roles(s, codes, transposed);
  const Positions positions(s, transposed);
  const int64_t tile = GEE_DISPATCH(tile_rows), tiles = ceil_div(positions.count(), tile);
  const int64_t panels = ceil_div(roles.c_to, kPanel<T>);
  if (tiles == 0 || panels == 0) return;
  const std::vector<Block> blocks = make_blocks<T>(s.taps(), roles.c_from, panels == 1);
  const Scratch<T> half = half_decode(s, roles, codes.interaction);
  const Scratch<T> slab(blocks.front().taps() * blocks.front().channels() * kPanel<T>);
  const std::vector<T> zeros(roles.c_from);
  for (int64_t panel = 0; panel < panels; ++panel) {
    const int64_t first_column = panel * kPanel<T>, columns = std::min(kPanel<T>, roles.c_to - first_column);
    for (const Block& block : blocks) {
      decode_slab(s, roles, half + panel * s.taps() * s.genes * kPanel<T>, block, slab.get());
      const bool accumulate = &block != &blocks.front();
      torch::stable::parallel_for(0, tiles, 4, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          Tile<T> t(positions, i * tile, tile);
          for (int64_t tap = block.tap_begin; tap < block.tap_end; ++tap)
            t.gather(positions, tap, in + block.begin, roles.c_from, zeros.data(),
                     slab + (tap - block.tap_begin) * block.channels() * kPanel<T>);
          for (int64_t r = 0; r < t.rows; ++r) t.c[r] = out + t.position[r].target * roles.c_to + first_column;
          t.product(block.channels(), kPanel<T>, columns, accumulate);
        }
      });
    }
  }
}

// z[p, tap, :] = in[source(p, tap)] from[tap], then out[p] = sum_tap z[p, tap] half[tap]: W never appears.
template <typename T> void gene(const Shape& s, bool transposed, const T* in, const Codes<T>& codes, T* out) {
  const Roles<T> roles(s, codes, transposed);
  const Positions positions(s, transposed);
  const int64_t taps = s.taps(), genes = s.genes, width = padded<T>(genes);
  const int64_t tile = GEE_DISPATCH(tile_rows), chunk = kChunkTiles * tile;
  const int64_t chunks = ceil_div(positions.count(), chunk), panels = ceil_div(roles.c_to, kPanel<T>);
  if (chunks == 0 || panels == 0) return;
  const Scratch<T> half = half_decode(s, roles, codes.interaction);
  const Scratch<T> from = pad_rows(roles.from, taps * roles.c_from, genes);
  const std::vector<T> zeros(roles.c_from);
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    const Scratch<T> z(chunk * taps * width);
    std::vector<char> reached(kChunkTiles * taps);
    for (int64_t i = begin; i < end; ++i) {
      std::vector<Tile<T>> tiles;
      for (int64_t first = i * chunk; first < std::min(positions.count(), (i + 1) * chunk); first += tile)
        tiles.emplace_back(positions, first, tile);
      for (int64_t tap = 0; tap < taps; ++tap)
        for (size_t j = 0; j < tiles.size(); ++j) {
          Tile<T>& t = tiles[j];
          reached[j * taps + tap] = t.gather(positions, tap, in, roles.c_from, zeros.data(), from + tap * roles.c_from * width);
          if (!reached[j * taps + tap]) continue;
          for (int64_t r = 0; r < t.rows; ++r) t.c[r] = z + ((j * tile + r) * taps + tap) * width;
          t.product(roles.c_from, width, width, false);
        }
      for (int64_t panel = 0; panel < panels; ++panel)
        for (size_t j = 0; j < tiles.size(); ++j) {
          Tile<T>& t = tiles[j];
          for (int64_t tap = 0; tap < taps; ++tap) {
            if (!reached[j * taps + tap]) continue;
            for (int64_t r = 0; r < kMaxRows; ++r)
              t.a.push_back(z + ((j * tile + std::min(r, t.rows - 1)) * taps + tap) * width);
            t.b.push_back(half + (panel * taps + tap) * genes * kPanel<T>);
          }
          for (int64_t r = 0; r < t.rows; ++r) t.c[r] = out + t.position[r].target * roles.c_to + panel * kPanel<T>;
          t.product(genes, kPanel<T>, std::min(kPanel<T>, roles.c_to - panel * kPanel<T>), false);
        }
    }
  });
}

template void reconstruct<float>(const Shape&, bool, const float*, const Codes<float>&, float*);
template void reconstruct<double>(const Shape&, bool, const double*, const Codes<double>&, double*);
template void gene<float>(const Shape&, bool, const float*, const Codes<float>&, float*);
template void gene<double>(const Shape&, bool, const double*, const Codes<double>&, double*);

}  // namespace gee::conv
