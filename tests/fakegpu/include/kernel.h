// What a kernel finds when g++ compiles it for this machine: its threads run one after the other, or, in a kernel with
// barriers, as coroutines that take turns at each barrier. Warps have one thread, so there are no shuffles.
#pragma once
#define __HIPCC_RTC__ 1
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <tuple>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static thread_local // a block runs on one thread of the host
#define __launch_bounds__(...)
#define __syncthreads() fakegpu::wait()
#define __syncwarp(...) fakegpu::wait()
#define __threadfence() __sync_synchronize()
#define __threadfence_block() __sync_synchronize()

namespace fakegpu {
struct Index {
    unsigned x = 1, y = 1, z = 1;
};
} // namespace fakegpu
static thread_local fakegpu::Index threadIdx, blockIdx, blockDim, gridDim;

// Types and functions of a device that C++ lacks.

struct __half {
    float value;
    __half() = default;
    __half(float given) : value(given) {}
    operator float() const { return value; }
};
struct __hip_bfloat16 : __half {
    using __half::__half;
};
typedef __hip_bfloat16 hip_bfloat16;
static inline float __half2float(__half x) { return x.value; }
static inline __half __float2half(float x) { return __half(x); }
static inline float __bfloat162float(__hip_bfloat16 x) { return x.value; }
static inline __hip_bfloat16 __float2bfloat16(float x) { return __hip_bfloat16(x); }

using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;
using std::signbit;
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }

template <class To, class From> static inline To fakegpu_bits(From from) {
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline long long __double_as_longlong(double x) { return fakegpu_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return fakegpu_bits<double>(x); }
static inline int __float_as_int(float x) { return fakegpu_bits<int>(x); }
static inline float __int_as_float(int x) { return fakegpu_bits<float>(x); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }

// Atomic among the threads of one kernel, which share a thread of the host.
template <class T, class Change> static inline T fakegpu_change(T *place, Change change) {
    T old = *place;
    *place = change(old);
    return old;
}
template <class T, class U> static inline T atomicAdd(T *place, U value) {
    return fakegpu_change(place, [=](T old) { return old + (T)value; });
}
template <class T, class U> static inline T atomicMax(T *place, U value) {
    return fakegpu_change(place, [=](T old) { return max(old, (T)value); });
}
template <class T, class U> static inline T atomicMin(T *place, U value) {
    return fakegpu_change(place, [=](T old) { return min(old, (T)value); });
}
template <class T, class U> static inline T atomicExch(T *place, U value) {
    return fakegpu_change(place, [=](T) { return (T)value; });
}
template <class T, class U, class V> static inline T atomicCAS(T *place, U compare, V value) {
    return fakegpu_change(place, [=](T old) { return old == (T)compare ? (T)value : old; });
}

namespace fakegpu {

// A launch's parameters: pointers to them, then the parameters themselves.
template <class... Types> static void *pack(void (*)(Types...), void **given) {
    constexpr size_t count = sizeof...(Types), slot = 16;
    constexpr size_t sizes[count + 1] = {sizeof(Types)...};
    size_t offset = ((count + 1) * sizeof(void *) + slot - 1) / slot * slot, total = offset;
    for (size_t i = 0; i < count; i++)
        total += (sizes[i] + slot - 1) / slot * slot;
    char *packed = (char *)aligned_alloc(slot, total);
    for (size_t i = 0; i < count; i++) {
        ((void **)packed)[i] = memcpy(packed + offset, given[i], sizes[i]);
        offset += (sizes[i] + slot - 1) / slot * slot;
    }
    return packed;
}

template <class... Types, size_t... Each>
static void call(void (*kernel)(Types...), void **parameters, std::index_sequence<Each...>) {
    kernel(*(std::remove_reference_t<Types> *)parameters[Each]...);
}

// The threads of a block that has barriers.
struct Coroutine {
    ucontext_t context;
    Index index;
    bool done;
};
static thread_local ucontext_t scheduler;
static thread_local Coroutine *running;
static thread_local void (*body)(const void *);
static thread_local const void *body_argument;

static void begin() {
    body(body_argument);
    running->done = true;
    swapcontext(&running->context, &scheduler);
}

static void wait() { swapcontext(&running->context, &scheduler); }

static Index index_in(unsigned number, const unsigned *shape) {
    return {number % shape[0], number / shape[0] % shape[1], number / shape[0] / shape[1]};
}

static void run_coroutines(unsigned count, const unsigned *shape) {
    constexpr size_t stack_bytes = 32768;
    static thread_local std::vector<Coroutine> coroutines;
    static thread_local std::vector<char> stacks;
    coroutines.resize(count);
    stacks.resize(count * stack_bytes);
    for (unsigned i = 0; i < count; i++) {
        Coroutine &made = coroutines[i];
        made.done = false;
        made.index = index_in(i, shape);
        getcontext(&made.context);
        made.context.uc_stack = {&stacks[i * stack_bytes], 0, stack_bytes};
        made.context.uc_link = nullptr;
        makecontext(&made.context, begin, 0);
    }
    for (unsigned left = count; left;)
        for (Coroutine &each : coroutines)
            if (!each.done) {
                running = &each;
                threadIdx = each.index;
                swapcontext(&scheduler, &each.context);
                left -= each.done;
            }
}

template <class Body> static void run_block(const Body &each, const unsigned *shape, bool has_barriers) {
    unsigned count = shape[0] * shape[1] * shape[2];
    if (has_barriers) {
        body = [](const void *argument) { (*(const Body *)argument)(); };
        body_argument = &each;
        run_coroutines(count, shape);
        return;
    }
    for (unsigned i = 0; i < count; i++) {
        threadIdx = index_in(i, shape);
        each();
    }
}

template <class... Types>
static void run(void (*kernel)(Types...), void *packed, const unsigned *shape, bool has_barriers) {
    gridDim = {shape[0], shape[1], shape[2]};
    blockDim = {shape[3], shape[4], shape[5]};
    auto each = [=] { call(kernel, (void **)packed, std::index_sequence_for<Types...>{}); };
    unsigned blocks = shape[0] * shape[1] * shape[2];
    for (unsigned i = 0; i < blocks; i++) {
        blockIdx = index_in(i, shape);
        run_block(each, shape + 3, has_barriers);
    }
}

} // namespace fakegpu
