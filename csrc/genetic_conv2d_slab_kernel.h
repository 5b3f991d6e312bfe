// The matrix product behind decoding and contracting slabs of W, compiled per instruction set.

// Rows and lines of c that fit the registers: 24 of 32 accumulators with AVX-512, 12 of 16 otherwise.
inline constexpr int kTileRows = GEE_VECTOR_BYTES >= 32 ? 6 : 3;
inline constexpr int kTileLines = GEE_VECTOR_BYTES == 64 ? 4 : 1;

// c [ROWS, LINES] (+)= a [ROWS, k] b [k, LINES]; a has any strides, rows of b and c are lines.
template <typename T, int ROWS, int LINES>
void gemm_tile(int64_t k, const T* a, int64_t a_row, int64_t a_col, const T* b, int64_t b_row, T* c,
               int64_t c_row, bool accumulate) {
  constexpr int kVectors = LINES * kLineVectors;
  Vector<T> sum[ROWS][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j)
      sum[i][j] = accumulate ? load(c + i * c_row + j * kLanes<T>) : Vector<T>{};
  for (int64_t u = 0; u < k; ++u, a += a_col, b += b_row) {
    Vector<T> row[kVectors];
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) row[j] = load(b + j * kLanes<T>);
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) {
      const Vector<T> factor = broadcast(a[i * a_row]);
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) sum[i][j] = multiply_add<T>(factor, row[j], sum[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) store(c + i * c_row + j * kLanes<T>, sum[i][j]);
}

template <typename T, int ROWS, int LINES>
void gemm_rows(int64_t m, int64_t k, const T* a, int64_t a_row, int64_t a_col, const T* b, int64_t b_row, T* c,
               int64_t c_row, bool accumulate) {
  if constexpr (ROWS == kTileRows)
    for (; m >= ROWS; m -= ROWS, a += ROWS * a_row, c += ROWS * c_row)
      gemm_tile<T, ROWS, LINES>(k, a, a_row, a_col, b, b_row, c, c_row, accumulate);
  else if (m == ROWS)
    return gemm_tile<T, ROWS, LINES>(k, a, a_row, a_col, b, b_row, c, c_row, accumulate);
  if constexpr (ROWS > 1)
    if (m) gemm_rows<T, ROWS - 1, LINES>(m, k, a, a_row, a_col, b, b_row, c, c_row, accumulate);
}

// c [m, lines] (+)= a [m, k] b [k, lines]. Each element is summed over k in order, whatever m and lines are.
template <typename T>
void gemm(int64_t m, int64_t lines, int64_t k, const T* a, int64_t a_row, int64_t a_col, const T* b,
          int64_t b_row, T* c, int64_t c_row, bool accumulate) {
  while (lines > 0) {
    const int64_t step = std::min<int64_t>(lines, kTileLines);
    switch (step) {
#if GEE_VECTOR_BYTES == 64
      case 4: gemm_rows<T, kTileRows, 4>(m, k, a, a_row, a_col, b, b_row, c, c_row, accumulate); break;
      case 3: gemm_rows<T, kTileRows, 3>(m, k, a, a_row, a_col, b, b_row, c, c_row, accumulate); break;
      case 2: gemm_rows<T, kTileRows, 2>(m, k, a, a_row, a_col, b, b_row, c, c_row, accumulate); break;
#endif
      default: gemm_rows<T, kTileRows, 1>(m, k, a, a_row, a_col, b, b_row, c, c_row, accumulate);
    }
    lines -= step, b += step * kLineLanes<T>, c += step * kLineLanes<T>;
  }
}
