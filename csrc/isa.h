// One kernel source, several instruction sets, picked at run time.
//
// A kernel body `NAME_kernel.h` is plain C++ that the compiler can vectorise. Including "for_each_isa.h"
// with GEE_KERNEL_BODY set to that file compiles it once per level, each in a namespace of its own; the
// GEE_DISPATCH macro calls the copy for this CPU.
#pragma once

#include <algorithm>
#include <atomic>

namespace gee {

enum class Isa { baseline, avx2, avx512 };

// The highest level to use; lowered by tests, which must reach every copy of a kernel on one machine.
inline std::atomic<Isa>& isa_limit() {
  static std::atomic<Isa> limit{Isa::avx512};
  return limit;
}

inline Isa isa() {
#if defined(__x86_64__)
  static const Isa cpu = [] {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
      return Isa::avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
      return Isa::avx2;
    return Isa::baseline;
  }();
  return std::min(cpu, isa_limit().load(std::memory_order_relaxed));
#else
  return Isa::baseline;
#endif
}

}  // namespace gee

#if defined(__x86_64__)
#define GEE_DISPATCH(function, ...)                                                  \
  (gee::isa() == gee::Isa::avx512 ? gee::isa_avx512::function(__VA_ARGS__)           \
   : gee::isa() == gee::Isa::avx2 ? gee::isa_avx2::function(__VA_ARGS__)             \
                                  : gee::isa_baseline::function(__VA_ARGS__))
#else
#define GEE_DISPATCH(function, ...) gee::isa_baseline::function(__VA_ARGS__)
#endif
