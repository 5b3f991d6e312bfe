// Body of genetic_conv2d_dense.cpp, compiled per instruction set: the two products every dense plan is made of.
#include "simd.h"

// Rows and lines (64 bytes) of a tile whose sums stay in registers: 24 of 32 with AVX-512, 12 of 16 otherwise.
inline constexpr int kTileRows = GEE_VECTOR_BYTES >= 32 ? 6 : 3;
inline constexpr int kTileLines = GEE_VECTOR_BYTES == 64 ? 4 : 1;

using conv::RowProduct;

// See RowProduct.
template <typename T, int ROWS, int LINES>
void row_product_tile(const RowProduct<T>& p, int64_t first_column, T* const* c, bool accumulate) {
  constexpr int kVectors = LINES * kLineVectors;
  Vector<T> sum[ROWS][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) sum[r][j] = accumulate ? load(c[r] + j * kLanes<T>) : Vector<T>{};
  for (int64_t s = 0; s < p.segments; ++s) {
    const T* row[ROWS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) row[r] = p.a[s * conv::kMaxRows + r];
    const T* b = p.b[s] + first_column;
    for (int64_t k = 0; k < p.depth; ++k, b += p.b_row) {
      Vector<T> line[kVectors];
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) line[j] = load(b + j * kLanes<T>);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) {
        const Vector<T> factor = broadcast(row[r][k]);
#pragma GCC unroll 16
        for (int j = 0; j < kVectors; ++j) sum[r][j] = multiply_add<T>(factor, line[j], sum[r][j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) store(c[r] + j * kLanes<T>, sum[r][j]);
}

template <typename T, int ROWS, int LINES> void row_product_lines(const RowProduct<T>& p, int64_t first_column) {
  constexpr int64_t kWidth = LINES * kLineLanes<T>;
  const int64_t columns = std::min(kWidth, p.columns - first_column);
  T* c[ROWS];
  if (columns == kWidth) {
    for (int r = 0; r < ROWS; ++r) c[r] = p.c[r] + first_column;
    return row_product_tile<T, ROWS, LINES>(p, first_column, c, p.accumulate);
  }
  alignas(64) T edge[ROWS][kWidth] = {};  // c ends inside the tile
  for (int r = 0; r < ROWS; ++r) {
    c[r] = edge[r];
    if (p.accumulate) std::copy_n(p.c[r] + first_column, columns, c[r]);
  }
  row_product_tile<T, ROWS, LINES>(p, first_column, c, p.accumulate);
  for (int r = 0; r < ROWS; ++r) std::copy_n(c[r], columns, p.c[r] + first_column);
}

template <typename T, int ROWS> void row_product_rows(const RowProduct<T>& p) {
  const int64_t lines = (p.columns + kLineLanes<T> - 1) / kLineLanes<T>;
  for (int64_t line = 0; line < lines;) {
    const int64_t first = line * kLineLanes<T>, step = std::min<int64_t>(kTileLines, lines - line);
    switch (step) {
#if GEE_VECTOR_BYTES == 64
      case 4: row_product_lines<T, ROWS, 4>(p, first); break;
      case 3: row_product_lines<T, ROWS, 3>(p, first); break;
      case 2: row_product_lines<T, ROWS, 2>(p, first); break;
#endif
      default: row_product_lines<T, ROWS, 1>(p, first);
    }
    line += step;
  }
}

template <typename T> void row_product(const RowProduct<T>& p, int64_t rows) {
  switch (rows) {
#if GEE_VECTOR_BYTES >= 32
    case 6: return row_product_rows<T, 6>(p);
    case 5: return row_product_rows<T, 5>(p);
    case 4: return row_product_rows<T, 4>(p);
#endif
    case 3: return row_product_rows<T, 3>(p);
    case 2: return row_product_rows<T, 2>(p);
    default: return row_product_rows<T, 1>(p);
  }
}

// c[r, :] += sum_p a_p[r] b[p, :]: the sum of outer products, over positions p in order.
template <typename T, int ROWS, int LINES>
void outer_product_tile(int64_t positions, const T* const* a, int64_t first_row, const T* b, int64_t b_row, T* c,
                        int64_t c_row) {
  constexpr int kVectors = LINES * kLineVectors;
  Vector<T> sum[ROWS][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) sum[r][j] = load(c + r * c_row + j * kLanes<T>);
  for (int64_t p = 0; p < positions; ++p, b += b_row) {
    const T* row = a[p] + first_row;
    Vector<T> line[kVectors];
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) line[j] = load(b + j * kLanes<T>);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const Vector<T> factor = broadcast(row[r]);
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) sum[r][j] = multiply_add<T>(factor, line[j], sum[r][j]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) store(c + r * c_row + j * kLanes<T>, sum[r][j]);
}

template <typename T, int ROWS>
void outer_product_rows(int64_t positions, const T* const* a, int64_t first_row, const T* b, int64_t b_row,
                        int64_t lines, T* c, int64_t c_row) {
  for (int64_t line = 0; line < lines;) {
    const int64_t step = std::min<int64_t>(kTileLines, lines - line), first = line * kLineLanes<T>;
    switch (step) {
#if GEE_VECTOR_BYTES == 64
      case 4: outer_product_tile<T, ROWS, 4>(positions, a, first_row, b + first, b_row, c + first, c_row); break;
      case 3: outer_product_tile<T, ROWS, 3>(positions, a, first_row, b + first, b_row, c + first, c_row); break;
      case 2: outer_product_tile<T, ROWS, 2>(positions, a, first_row, b + first, b_row, c + first, c_row); break;
#endif
      default: outer_product_tile<T, ROWS, 1>(positions, a, first_row, b + first, b_row, c + first, c_row);
    }
    line += step;
  }
}

// c [rows, lines] += sum_p a_p[first_row ...] b[p]; rows of b and c are whole lines.
template <typename T>
void outer_product(int64_t positions, const T* const* a, int64_t first_row, int64_t rows, const T* b, int64_t b_row,
                   int64_t lines, T* c, int64_t c_row) {
  for (; rows >= kTileRows; rows -= kTileRows, first_row += kTileRows, c += kTileRows * c_row)
    outer_product_rows<T, kTileRows>(positions, a, first_row, b, b_row, lines, c, c_row);
  switch (rows) {
    case 5: return outer_product_rows<T, 5>(positions, a, first_row, b, b_row, lines, c, c_row);
    case 4: return outer_product_rows<T, 4>(positions, a, first_row, b, b_row, lines, c, c_row);
    case 3: return outer_product_rows<T, 3>(positions, a, first_row, b, b_row, lines, c, c_row);
    case 2: return outer_product_rows<T, 2>(positions, a, first_row, b, b_row, lines, c, c_row);
    case 1: return outer_product_rows<T, 1>(positions, a, first_row, b, b_row, lines, c, c_row);
  }
}

inline int64_t tile_rows() { return kTileRows; }
