// Sums over rows of maps, and the input gradient of a batch norm.
//
// A row is the channels of a pixel. There are two stages: here each block adds up some rows of a group (the batch or one
// image), in f32 for 16 rows and in f64 beyond, and writes partial sums (groups, splits, 2, c); `fold.cuh` adds these up.
// Grids depend only on shapes, so sums are the same on every GPU.

// The end of the first stage: adds up the totals of a block's threads over y and writes them. All threads must call it.
static __device__ inline void K(share)(double* partial, u32 channels, const double (*total)[V]) {
    __shared__ double part[2][V][256];
    u32 pack = blockIdx.x * blockDim.x + threadIdx.x, thread = threadIdx.y * blockDim.x + threadIdx.x;
    for (int k = 0; k < V; ++k) {
        part[0][k][thread] = total[0][k];
        part[1][k][thread] = total[1][k];
    }
    __syncthreads();
    for (u32 half = blockDim.y / 2; half > 0; half /= 2) {
        if (threadIdx.y < half) {
            for (int k = 0; k < V; ++k) {
                part[0][k][thread] += part[0][k][thread + half * blockDim.x];
                part[1][k][thread] += part[1][k][thread + half * blockDim.x];
            }
        }
        __syncthreads();
    }
    if (pack * V < channels && threadIdx.y == 0) {
        double* out = partial + (u64)(blockIdx.z * gridDim.y + blockIdx.y) * 2 * channels;
        for (int k = 0; k < V; ++k) {
            out[pack * V + k] = part[0][k][thread];
            out[channels + pack * V + k] = part[1][k][thread];
        }
    }
}

// Calls add(row, sum) for this thread's rows; sum[0] and sum[1] hold V channels each. The block is (x packs) * (y rows)
// = 256 threads, both powers of two; the grid is (packs, splits, groups).
template <typename F> static __device__ inline void K(reduce)(double* partial, u32 rows, u32 channels, F add) {
    u32 pack = blockIdx.x * blockDim.x + threadIdx.x;
    double total[2][V];
    for (int k = 0; k < V; ++k) total[0][k] = total[1][k] = 0.0;
    if (pack * V < channels) {
        u32 row = blockIdx.y * blockDim.y + threadIdx.y, step = gridDim.y * blockDim.y;
        while (row < rows) {
            float sum[2][V];
            for (int k = 0; k < V; ++k) sum[0][k] = sum[1][k] = 0.0f;
            for (u32 i = 0; i < 16 && row < rows; ++i, row += step) add(blockIdx.z * rows + row, sum);
            for (int k = 0; k < V; ++k) {
                total[0][k] += sum[0][k];
                total[1][k] += sum[1][k];
            }
        }
    }
    K(share)(partial, channels, total);
}

// Sums of x - first and of its square, where `first` is the channel's first value: the variance stays accurate for values
// far from zero.
extern "C" __global__ void K(moments)(double* partial, const T* x, u32 rows, u32 channels) {
    u32 pack = blockIdx.x * blockDim.x + threadIdx.x, packs = channels / V;
    float first[V];
    if (pack < packs) get<T, V>(first, x, pack);
    K(reduce)(partial, rows, channels, [&](u32 row, float (*sum)[V]) {
        float y[V];
        get<T, V>(y, x, row * packs + pack);
        for (int k = 0; k < V; ++k) {
            float d = y[k] - first[k];
            sum[0][k] += d;
            sum[1][k] = fmaf(d, d, sum[1][k]);
        }
    });
}

// Sums of maps after their prologue. A group is an image or, without a conditional norm, the batch.
extern "C" __global__ void K(sums)(double* partial, const T* x, u32 rows, u32 channels, Pre pre) {
    u32 pack = blockIdx.x * blockDim.x + threadIdx.x, packs = channels / V;
    K(reduce)(partial, rows, channels, [&](u32 row, float (*sum)[V]) {
        float y[V];
        read<T, V>(y, x, row * packs + pack, pre, blockIdx.z, pack * V);
        for (int k = 0; k < V; ++k) sum[0][k] += y[k];
    });
}

// The upstream gradient of the norm: dy through the activation, whose argument is recomputed from x.
static __device__ inline float K(behind)(const Pre& pre, float x, float dy, u32 n, u32 c) {
    return activation_gradient(pre, affine_at(pre, x, n, c), dy);
}

// Sums of that gradient and of its product with the normalised x: the gradients of shift and gain.
extern "C" __global__ void K(norm_sums)(double* partial, const T* x, const T* dy, u32 rows, u32 channels, Pre pre,
                                        const float* mean, const float* inv, u32 image_rows) {
    u32 pack = blockIdx.x * blockDim.x + threadIdx.x, packs = channels / V;
    K(reduce)(partial, rows, channels, [&](u32 row, float (*sum)[V]) {
        float y[V], d[V];
        get<T, V>(y, x, row * packs + pack);
        get<T, V>(d, dy, row * packs + pack);
        for (int k = 0; k < V; ++k) {
            u32 c = pack * V + k;
            float g = K(behind)(pre, y[k], d[k], row / image_rows, c);
            sum[0][k] += g;
            sum[1][k] = fmaf(g, (y[k] - mean[c]) * inv[c], sum[1][k]);
        }
    });
}

// dx = scale * g - totals[c] - totals[channels + c] * normalised x. The totals, from `norm_totals`, only with batch
// statistics.
extern "C" __global__ void K(norm_dx)(T* dx, const T* x, const T* dy, Maps m, Pre pre, const float* mean,
                                      const float* inv, const float* totals) {
    u32 packs = m.c / V, image = m.h * m.w * packs;
    FOR(i, m.n * image) {
        u32 n = i / image;
        float y[V], d[V];
        get<T, V>(y, x, i);
        get<T, V>(d, dy, i);
        for (int k = 0; k < V; ++k) {
            u32 c = i % packs * V + k;
            d[k] = pre.scale[n * pre.image + c] * K(behind)(pre, y[k], d[k], n, c);
            if (totals) d[k] -= fmaf(totals[m.c + c], (y[k] - mean[c]) * inv[c], totals[c]);
        }
        put<T, V>(dx, i, d);
    }
}

#if V == 1
// Mean and biased variance from the sums of `moments`.
extern "C" __global__ void K(fold_moments)(float* mean, float* var, const double* partial, const T* x, u32 splits,
                                           u32 channels, double count) {
    u32 c = blockIdx.x * 32 + threadIdx.x;
    double sum = folded(partial, splits, channels, 0, c), squares = folded(partial, splits, channels, 1, c);
    if (threadIdx.y > 0 || c >= channels) return;
    double d = sum / count, v = squares / count - d * d;
    mean[c] = (float)(to_float(x[c]) + d);
    var[c] = v > 0.0 ? (float)v : v != v ? (float)v : 0.0f;
}
#endif
