// Includes GEE_KERNEL_BODY once per instruction set (see isa.h). No include guard: that is the point.
// The body may include nothing itself; its .cpp includes what it needs first.

namespace gee::isa_baseline {
#include GEE_KERNEL_BODY
}

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
namespace gee::isa_avx2 {
#include GEE_KERNEL_BODY
}
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")
namespace gee::isa_avx512 {
#include GEE_KERNEL_BODY
}
#pragma GCC pop_options
#endif

#undef GEE_KERNEL_BODY
