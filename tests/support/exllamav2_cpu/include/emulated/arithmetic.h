// CUDA's functions of numbers that kernels and host code call without a namespace.
#pragma once

using std::abs;

template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b)
{
    return b < a ? b : a;
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b)
{
    return a < b ? b : a;
}

inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
inline float __expf(float a) { return expf(a); }
inline float __powf(float a, float b) { return powf(a, b); }
inline float __int2float_rn(int a) { return a; }
inline int __float_as_int(float a) { return std::bit_cast<int>(a); }
inline float __int_as_float(int a) { return std::bit_cast<float>(a); }

// The low word of both, high above low, shifted to the right.
inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned shift)
{
    return (((uint64_t) high << 32) | low) >> min(shift, 32u);
}

template <class T>
T __ldg(const T* address)
{
    return *address;
}
template <class T>
void __stcg(T* address, T value)
{
    *address = value;
}
template <class T>
void __stwb(T* address, T value)
{
    *address = value;
}

inline float atomicAdd(float* address, float value)
{
    return std::exchange(*address, *address + value);
}
inline unsigned atomicCAS(unsigned* address, unsigned compare, unsigned value)
{
    const unsigned before = *address;
    if (before == compare) *address = value;
    return before;
}
