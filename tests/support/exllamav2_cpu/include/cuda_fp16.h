// CUDA's half and half2 on the CPU, with the functions that exllamav2's kernels call.
// Each rounds once, to the nearest even half, as a GPU does.
#pragma once
#include <immintrin.h>
#include <limits.h>
#include <bit>
#include <cmath>
#include <cstdint>

struct __half_raw { unsigned short x; };

struct half
{
    unsigned short bits;

    half() = default;
    half(__half_raw raw) : bits(raw.x) {}
    operator __half_raw() const { return {bits}; }
};

struct alignas(4) half2 { half x, y; };

typedef half __half;
typedef half2 __half2;

inline float __half2float(half a) { return _cvtsh_ss(a.bits); }
inline half __float2half_rn(float a)
{
    return __half_raw{_cvtss_sh(a, _MM_FROUND_TO_NEAREST_INT)};
}
inline half __float2half(float a) { return __float2half_rn(a); }
inline half __int2half_rn(int a) { return __float2half_rn(a); }
inline int __half2int_rn(half a)
{
    const float value = __half2float(a);
    if (std::isnan(value)) return 0;
    if (std::isinf(value)) return value > 0 ? INT_MAX : INT_MIN;
    return lrintf(value);
}

// A float holds twice a half's digits and more, so that these, rounded to one and then
// to the other, are as rounded once.
inline half __hadd(half a, half b) { return __float2half_rn(__half2float(a) + __half2float(b)); }
inline half __hsub(half a, half b) { return __float2half_rn(__half2float(a) - __half2float(b)); }
inline half __hmul(half a, half b) { return __float2half_rn(__half2float(a) * __half2float(b)); }
inline half __hdiv(half a, half b) { return __float2half_rn(__half2float(a) / __half2float(b)); }

inline half __hfma(half a, half b, half c)
{
    // The product is exact, the sum may not be: rounded to odd, it has what the second
    // rounding needs to know of the rest.
    const float product = __half2float(a) * __half2float(b), addend = __half2float(c);
    const float sum = product + addend;
    const float added = sum - product;
    const float rest = (product - (sum - added)) + (addend - added);
    auto bits = std::bit_cast<uint32_t>(sum);
    if (std::fabs(rest) > 0 && !(bits & 1)) bits += (rest > 0) == (sum > 0) ? 1 : -1;
    return __float2half_rn(std::bit_cast<float>(bits));
}

inline half __hneg(half a) { return __half_raw{(unsigned short) (a.bits ^ 0x8000)}; }
inline half __habs(half a) { return __half_raw{(unsigned short) (a.bits & 0x7fff)}; }
inline half __hmax(half a, half b)
{
    return __float2half_rn(fmaxf(__half2float(a), __half2float(b)));
}
inline bool __hgt(half a, half b) { return __half2float(a) > __half2float(b); }
inline half hexp(half a) { return __float2half_rn(expf(__half2float(a))); }
inline half hrcp(half a) { return __float2half_rn(1.0f / __half2float(a)); }

inline half2 __halves2half2(half a, half b) { return {a, b}; }
inline half2 __half2half2(half a) { return {a, a}; }
inline half2 __floats2half2_rn(float a, float b)
{
    return {__float2half_rn(a), __float2half_rn(b)};
}
inline half2 __float2half2_rn(float a) { return __floats2half2_rn(a, a); }
inline half __low2half(half2 a) { return a.x; }
inline half __high2half(half2 a) { return a.y; }
inline float __low2float(half2 a) { return __half2float(a.x); }
inline float __high2float(half2 a) { return __half2float(a.y); }
inline half2 __lowhigh2highlow(half2 a) { return {a.y, a.x}; }

inline half2 __hadd2(half2 a, half2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }
inline half2 __hmul2(half2 a, half2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }
inline half2 __h2div(half2 a, half2 b) { return {__hdiv(a.x, b.x), __hdiv(a.y, b.y)}; }
inline half2 __hmax2(half2 a, half2 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }
inline half2 __hfma2(half2 a, half2 b, half2 c)
{
    return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}
inline half2 __hneg2(half2 a) { return {__hneg(a.x), __hneg(a.y)}; }
inline half2 __habs2(half2 a) { return {__habs(a.x), __habs(a.y)}; }
inline half2 h2exp(half2 a) { return {hexp(a.x), hexp(a.y)}; }
inline half2 h2rcp(half2 a) { return {hrcp(a.x), hrcp(a.y)}; }

inline half atomicAdd(half* address, half value)
{
    const half before = *address;
    *address = __hadd(before, value);
    return before;
}
inline half2 atomicAdd(half2* address, half2 value)
{
    const half2 before = *address;
    *address = __hadd2(before, value);
    return before;
}
