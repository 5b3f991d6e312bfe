// Includes GEE_KERNEL_BODY once per instruction set (see isa.h). No include guard: that is the point.
// The body may include nothing but other bodies (simd.h); its .cpp includes what it needs first.
// GEE_VECTOR_BYTES tells the body the width of a vector register: GCC expands macros before it obeys a
// target pragma, so __AVX2__ and the like do not.

#define GEE_VECTOR_BYTES 16
namespace gee::isa_baseline {
#include GEE_KERNEL_BODY
}
#undef GEE_VECTOR_BYTES

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#define GEE_VECTOR_BYTES 32
namespace gee::isa_avx2 {
#include GEE_KERNEL_BODY
}
#undef GEE_VECTOR_BYTES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")
#define GEE_VECTOR_BYTES 64
namespace gee::isa_avx512 {
#include GEE_KERNEL_BODY
}
#undef GEE_VECTOR_BYTES
#pragma GCC pop_options
#endif

#undef GEE_KERNEL_BODY
