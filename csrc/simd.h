// Vectors as wide as a register of the instruction set this copy is compiled for; included by kernel
// bodies, so once per level and without a guard. Their .cpp includes <immintrin.h> on x86.
//
// A "line" is 64 bytes (one cache line): 1 vector with AVX-512, 2 with AVX2, 4 at the baseline. Buffers are
// laid out in lines, so their layout does not depend on the level.

template <typename T> struct VectorOf {
  typedef T type __attribute__((vector_size(GEE_VECTOR_BYTES), may_alias));
  typedef T unaligned __attribute__((vector_size(GEE_VECTOR_BYTES), may_alias, aligned(alignof(T))));
};
template <typename T> using Vector = typename VectorOf<T>::type;

template <typename T> inline constexpr int kLanes = GEE_VECTOR_BYTES / int(sizeof(T));
template <typename T> inline constexpr int kLineLanes = 64 / int(sizeof(T));
inline constexpr int kLineVectors = 64 / GEE_VECTOR_BYTES;

template <typename T> [[gnu::always_inline]] inline Vector<T> load(const T* p) {
  return *reinterpret_cast<const typename VectorOf<T>::unaligned*>(p);
}

template <typename T> [[gnu::always_inline]] inline void store(T* p, Vector<T> v) {
  *reinterpret_cast<typename VectorOf<T>::unaligned*>(p) = v;
}

template <typename T> [[gnu::always_inline]] inline Vector<T> broadcast(T value) {
  return value - Vector<T>{};
}

// a * b + c, rounded once where the level has the instruction.
template <typename T>
[[gnu::always_inline]] inline Vector<T> multiply_add(Vector<T> a, Vector<T> b, Vector<T> c) {
#if GEE_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) return (Vector<T>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  else return (Vector<T>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif GEE_VECTOR_BYTES == 32
  if constexpr (sizeof(T) == 4) return (Vector<T>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  else return (Vector<T>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  return a * b + c;
#endif
}
