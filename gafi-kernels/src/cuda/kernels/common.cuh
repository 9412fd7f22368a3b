// Shared by the kernels: bf16, packs of channels, prologues of reads, sums over a block.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

// bfloat16 as bits: `cuda_bf16.h` is not available at run time.
struct bf16 {
    u16 bits;
};

static __device__ inline float to_float(float x) {
    return x;
}

static __device__ inline float to_float(bf16 x) {
    return __uint_as_float((u32)x.bits << 16);
}

template <typename T> static __device__ inline T from_float(float x);

template <> __device__ inline float from_float<float>(float x) {
    return x;
}

// To the nearest, ties to even. NaN stays NaN: the carry could turn it into an infinity.
template <> __device__ inline bf16 from_float<bf16>(float x) {
    u32 bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return bf16{(u16)0x7fc0};
    return bf16{(u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

// N consecutive channels of one pixel: one load, one store.
template <typename T, int N> struct alignas(sizeof(T) * N) Pack {
    T v[N];
};

template <typename T, int N> static __device__ inline void get(float* out, const T* x, u32 pack) {
    Pack<T, N> p = ((const Pack<T, N>*)x)[pack];
    for (int k = 0; k < N; ++k) out[k] = to_float(p.v[k]);
}

template <typename T, int N> static __device__ inline void put(T* out, u32 pack, const float* x) {
    Pack<T, N> p;
    for (int k = 0; k < N; ++k) p.v[k] = from_float<T>(x[k]);
    ((Pack<T, N>*)out)[pack] = p;
}

// Maps (n, h, w, c) in memory. The host guarantees that they hold fewer than 2^31 values.
struct Maps {
    u32 n, h, w, c;
};

// The prologue of a read: x * scale + offset, then the leaky relu or the GELU, each if its bit of `mode` is set.
// Scale and offset of channel c of image n are at n * image + c; `image` is 0 or the number of channels.
struct Pre {
    const float* scale;
    const float* offset;
    u32 image;
    u32 mode;
    float slope;
    u32 unused;
};

static const u32 LEAKY = 1;
static const u32 AFFINE = 2;
static const u32 GELU = 4;

// Not x * slope if the slope is 0: that would turn an infinity into a NaN.
static __device__ inline float leaky(float x, float slope) {
    return x < 0.0f ? (slope == 0.0f ? 0.0f : x * slope) : x;
}

static __device__ inline float leaky_gradient(float x, float slope, float dy) {
    return x > 0.0f ? dy : (slope == 0.0f ? 0.0f : dy * slope);
}

// The distribution function and the density of the standard normal.
static __device__ inline float below(float x) {
    return 0.5f * erfcf(-0.70710678f * x);
}

static __device__ inline float density(float x) {
    return 0.39894228f * expf(-0.5f * x * x);
}

// Not minus infinity times 0.
static __device__ inline float gelu(float x) {
    return x < -13.0f ? 0.0f : x * below(x);
}

static __device__ inline float gelu_gradient(float x, float dy) {
    return x < -13.0f ? 0.0f : x > 13.0f ? dy : dy * (below(x) + x * density(x));
}

static __device__ inline float affine_at(const Pre& pre, float x, u32 n, u32 c) {
    u32 at = n * pre.image + c;
    return fmaf(x, pre.scale[at], pre.offset[at]);
}

static __device__ inline float applied(const Pre& pre, float x, u32 n, u32 c) {
    if (pre.mode & AFFINE) x = affine_at(pre, x, n, c);
    if (pre.mode & LEAKY) x = leaky(x, pre.slope);
    if (pre.mode & GELU) x = gelu(x);
    return x;
}

// The gradient of the activation at x, times dy.
static __device__ inline float activation_gradient(const Pre& pre, float x, float dy) {
    if (pre.mode & GELU) return gelu_gradient(x, dy);
    return pre.mode & LEAKY ? leaky_gradient(x, pre.slope, dy) : dy;
}

// Reads a pack of maps through its prologue. `pack` counts packs; the first channel is c, the image n.
template <typename T, int N>
static __device__ inline void read(float* out, const T* x, u32 pack, const Pre& pre, u32 n, u32 c) {
    get<T, N>(out, x, pack);
    for (int k = 0; k < N; ++k) out[k] = applied(pre, out[k], n, c + k);
}

// i = 0 .. count, divided among all threads of a one-dimensional grid.
#define FOR(i, count) for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < (count); i += gridDim.x * blockDim.x)

// Sum or maximum over a one-dimensional block of 256 threads, returned to all of them.
static __device__ inline double block_sum(double x) {
    __shared__ double part[256];
    part[threadIdx.x] = x;
    __syncthreads();
    for (u32 half = 128; half > 0; half /= 2) {
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
        __syncthreads();
    }
    double sum = part[0];
    __syncthreads();
    return sum;
}

static __device__ inline float block_max(float x) {
    __shared__ float part[256];
    part[threadIdx.x] = x;
    __syncthreads();
    for (u32 half = 128; half > 0; half /= 2) {
        if (threadIdx.x < half) part[threadIdx.x] = fmaxf(part[threadIdx.x], part[threadIdx.x + half]);
        __syncthreads();
    }
    float best = part[0];
    __syncthreads();
    return best;
}

// The sum over splits of quantity q (0 or 1) of group blockIdx.z at channel c, returned to the threads with y = 0.
// `partial` is (groups, splits, 2, channels), the block (32, 8). All threads of the block must call it.
static __device__ inline double folded(const double* partial, u32 splits, u32 channels, u32 q, u32 c) {
    __shared__ double part[8][32];
    double sum = 0.0;
    if (c < channels) {
        for (u32 s = threadIdx.y; s < splits; s += 8) {
            sum += partial[((u64)(blockIdx.z * splits + s) * 2 + q) * channels + c];
        }
    }
    part[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    sum = 0.0;
    if (threadIdx.y == 0) {
        for (int y = 0; y < 8; ++y) sum += part[y][threadIdx.x];
    }
    __syncthreads();
    return sum;
}
