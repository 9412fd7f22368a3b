// Kernels over feature maps, for storage type T with V channels per thread. V divides all channel counts.

// f32 (N, C, H, W) to maps.
extern "C" __global__ void K(load)(T* out, const float* x, Maps m) {
    u32 packs = m.c / V, hw = m.h * m.w;
    FOR(i, m.n * hw * packs) {
        u32 c = i % packs * V, pixel = i / packs, n = pixel / hw, p = pixel % hw;
        float y[V];
        for (int k = 0; k < V; ++k) y[k] = x[(n * m.c + c + k) * hw + p];
        put<T, V>(out, i, y);
    }
}

// Maps to f32 (N, C, H, W).
extern "C" __global__ void K(store)(float* out, const T* x, Maps m, Pre pre) {
    u32 packs = m.c / V, hw = m.h * m.w;
    FOR(i, m.n * hw * packs) {
        // Positions vary fastest, as the stores would be scattered otherwise.
        u32 p = i % hw, pack = i / hw % packs, n = i / hw / packs;
        float y[V];
        read<T, V>(y, x, (n * hw + p) * packs + pack, pre, n, pack * V);
        for (int k = 0; k < V; ++k) out[(n * m.c + pack * V + k) * hw + p] = y[k];
    }
}

extern "C" __global__ void K(apply)(T* out, const T* x, Maps m, Pre pre) {
    u32 packs = m.c / V, image = m.h * m.w * packs;
    FOR(i, m.n * image) {
        float y[V];
        read<T, V>(y, x, i, pre, i / image, i % packs * V);
        put<T, V>(out, i, y);
    }
}

extern "C" __global__ void K(add)(T* out, const T* a, Pre pre_a, const T* b, Pre pre_b, Maps m, u32 relu) {
    u32 packs = m.c / V, image = m.h * m.w * packs;
    FOR(i, m.n * image) {
        float x[V], y[V];
        read<T, V>(x, a, i, pre_a, i / image, i % packs * V);
        read<T, V>(y, b, i, pre_b, i / image, i % packs * V);
        for (int k = 0; k < V; ++k) y[k] = relu ? leaky(x[k] + y[k], 0.0f) : x[k] + y[k];
        put<T, V>(out, i, y);
    }
}

extern "C" __global__ void K(accumulate)(T* sum, const T* more, Maps m) {
    FOR(i, m.n * m.h * m.w * (m.c / V)) {
        float x[V], y[V];
        get<T, V>(x, sum, i);
        get<T, V>(y, more, i);
        for (int k = 0; k < V; ++k) y[k] += x[k];
        put<T, V>(sum, i, y);
    }
}

extern "C" __global__ void K(add_bias)(T* x, const float* bias, Maps m) {
    u32 packs = m.c / V;
    FOR(i, m.n * m.h * m.w * packs) {
        float y[V];
        get<T, V>(y, x, i);
        for (int k = 0; k < V; ++k) y[k] += bias[i % packs * V + k];
        put<T, V>(x, i, y);
    }
}

// The gradient of the activation of `pre` at x, times dy.
extern "C" __global__ void K(mask)(T* dx, const T* x, const T* dy, Pre pre, Maps m) {
    FOR(i, m.n * m.h * m.w * (m.c / V)) {
        float at[V], d[V];
        get<T, V>(at, x, i);
        get<T, V>(d, dy, i);
        for (int k = 0; k < V; ++k) d[k] = activation_gradient(pre, at[k], d[k]);
        put<T, V>(dx, i, d);
    }
}

// factor times the sum of each 2x2 window of x, whose shape is m; an odd last row or column is dropped.
extern "C" __global__ void K(gather2x2)(T* out, const T* x, Maps m, Pre pre, float factor) {
    u32 packs = m.c / V, h = m.h / 2, w = m.w / 2;
    FOR(i, m.n * h * w * packs) {
        u32 pack = i % packs, column = i / packs % w, row = i / packs / w % h, n = i / packs / w / h;
        float sum[V];
        for (int k = 0; k < V; ++k) sum[k] = 0.0f;
        for (u32 tap = 0; tap < 4; ++tap) {
            float y[V];
            u32 pixel = (n * m.h + 2 * row + tap / 2) * m.w + 2 * column + tap % 2;
            read<T, V>(y, x, pixel * packs + pack, pre, n, pack * V);
            for (int k = 0; k < V; ++k) sum[k] += y[k];
        }
        for (int k = 0; k < V; ++k) sum[k] *= factor;
        put<T, V>(out, i, sum);
    }
}

// factor times x at each pixel of its 2x2 window in `out`, whose shape is m; 0 in an odd last row or column.
extern "C" __global__ void K(spread2x2)(T* out, const T* x, Maps m, Pre pre, float factor) {
    u32 packs = m.c / V, h = m.h / 2, w = m.w / 2;
    FOR(i, m.n * m.h * m.w * packs) {
        u32 pack = i % packs, column = i / packs % m.w / 2, row = i / packs / m.w % m.h / 2, n = i / packs / m.w / m.h;
        float y[V];
        for (int k = 0; k < V; ++k) y[k] = 0.0f;
        if (row < h && column < w) {
            read<T, V>(y, x, ((n * h + row) * w + column) * packs + pack, pre, n, pack * V);
            for (int k = 0; k < V; ++k) y[k] *= factor;
        }
        put<T, V>(out, i, y);
    }
}

// The maximum of the 2x2 window at (row, column) of x, and its index in the window; the first of equal values counts.
static __device__ inline void K(largest)(float* best, u32* which, const T* x, Maps m, const Pre& pre, u32 n, u32 row,
                                         u32 column, u32 pack) {
    u32 packs = m.c / V;
    for (u32 tap = 0; tap < 4; ++tap) {
        float y[V];
        u32 pixel = (n * m.h + 2 * row + tap / 2) * m.w + 2 * column + tap % 2;
        read<T, V>(y, x, pixel * packs + pack, pre, n, pack * V);
        for (int k = 0; k < V; ++k) {
            // A NaN wins, as in PyTorch.
            if (tap == 0 || y[k] > best[k] || y[k] != y[k]) {
                best[k] = y[k];
                which[k] = tap;
            }
        }
    }
}

extern "C" __global__ void K(max_pool)(T* out, const T* x, Maps m, Pre pre) {
    u32 packs = m.c / V, h = m.h / 2, w = m.w / 2;
    FOR(i, m.n * h * w * packs) {
        float best[V];
        u32 which[V];
        K(largest)(best, which, x, m, pre, i / packs / w / h, i / packs / w % h, i / packs % w, i % packs);
        put<T, V>(out, i, best);
    }
}

// One thread for each window, including partial windows at odd edges, so that all of dx is written.
extern "C" __global__ void K(max_pool_gradient)(T* dx, const T* x, const T* dy, Maps m, Pre pre) {
    u32 packs = m.c / V, h = (m.h + 1) / 2, w = (m.w + 1) / 2;
    FOR(i, m.n * h * w * packs) {
        u32 pack = i % packs, column = i / packs % w, row = i / packs / w % h, n = i / packs / w / h;
        bool whole = row < m.h / 2 && column < m.w / 2;
        float best[V], d[V];
        u32 which[V];
        if (whole) {
            K(largest)(best, which, x, m, pre, n, row, column, pack);
            get<T, V>(d, dy, ((n * (m.h / 2) + row) * (m.w / 2) + column) * packs + pack);
        }
        for (u32 tap = 0; tap < 4; ++tap) {
            u32 r = 2 * row + tap / 2, c = 2 * column + tap % 2;
            if (r >= m.h || c >= m.w) continue;
            float y[V];
            for (int k = 0; k < V; ++k) y[k] = whole && which[k] == tap ? d[k] : 0.0f;
            put<T, V>(dx, ((n * m.h + r) * m.w + c) * packs + pack, y);
        }
    }
}

// Every second pixel of every second row of x (its shape is m), with zero channels before and after.
extern "C" __global__ void K(subsample)(T* out, const T* x, Maps m, Pre pre, u32 channels) {
    u32 packs = channels / V, h = (m.h + 1) / 2, w = (m.w + 1) / 2, before = (channels - m.c) / 2;
    FOR(i, m.n * h * w * packs) {
        u32 c = i % packs * V, column = i / packs % w, row = i / packs / w % h, n = i / packs / w / h;
        float y[V];
        for (int k = 0; k < V; ++k) y[k] = 0.0f;
        if (c >= before && c - before < m.c) {
            u32 pixel = (n * m.h + 2 * row) * m.w + 2 * column;
            read<T, V>(y, x, (pixel * m.c + c - before) / V, pre, n, c - before);
        }
        put<T, V>(out, i, y);
    }
}

extern "C" __global__ void K(subsample_gradient)(T* dx, const T* dy, Maps m, u32 channels) {
    u32 packs = m.c / V, h = (m.h + 1) / 2, w = (m.w + 1) / 2, before = (channels - m.c) / 2;
    FOR(i, m.n * m.h * m.w * packs) {
        u32 c = i % packs * V, column = i / packs % m.w, row = i / packs / m.w % m.h, n = i / packs / m.w / m.h;
        float y[V];
        for (int k = 0; k < V; ++k) y[k] = 0.0f;
        if (row % 2 == 0 && column % 2 == 0) {
            u32 pixel = (n * h + row / 2) * w + column / 2;
            get<T, V>(y, dy, (pixel * channels + before + c) / V);
        }
        put<T, V>(dx, i, y);
    }
}

// grad (n, c) at each position.
extern "C" __global__ void K(spread)(T* dx, const float* grad, Maps m) {
    u32 packs = m.c / V, image = m.h * m.w * packs;
    FOR(i, m.n * image) {
        float y[V];
        for (int k = 0; k < V; ++k) y[k] = grad[i / image * m.c + i % packs * V + k];
        put<T, V>(dx, i, y);
    }
}

#if V == 1
// Weights f32 (cout, cin, taps) to (cout, taps, cin).
extern "C" __global__ void K(pack_weights)(T* out, const float* w, u32 cout, u32 cin, u32 taps) {
    FOR(i, cout * cin * taps) {
        u32 c = i % cin, tap = i / cin % taps, o = i / cin / taps;
        out[i] = from_float<T>(w[(o * cin + c) * taps + tap]);
    }
}

// The same in reverse.
extern "C" __global__ void K(unpack_weights)(float* out, const T* w, u32 cout, u32 cin, u32 taps) {
    FOR(i, cout * cin * taps) {
        u32 tap = i % taps, c = i / taps % cin, o = i / taps / cin;
        out[i] = to_float(w[(o * taps + tap) * cin + c]);
    }
}

// Softmax of each row, one block per row.
extern "C" __global__ void K(softmax)(T* out, const T* x, u32 width) {
    u32 row = blockIdx.x * width;
    float best = __int_as_float(0xff800000);
    for (u32 i = threadIdx.x; i < width; i += 256) best = fmaxf(best, to_float(x[row + i]));
    best = block_max(best);
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < width; i += 256) sum += expf(to_float(x[row + i]) - best);
    float scale = (float)(1.0 / block_sum(sum));
    for (u32 i = threadIdx.x; i < width; i += 256) {
        out[row + i] = from_float<T>(expf(to_float(x[row + i]) - best) * scale);
    }
}

// dx = y * (dy - sum(y * dy)), one block per row.
extern "C" __global__ void K(softmax_gradient)(T* dx, const T* y, const T* dy, u32 width) {
    u32 row = blockIdx.x * width;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < width; i += 256) sum += to_float(y[row + i]) * to_float(dy[row + i]);
    float along = (float)block_sum(sum);
    for (u32 i = threadIdx.x; i < width; i += 256) {
        dx[row + i] = from_float<T>(to_float(y[row + i]) * (to_float(dy[row + i]) - along));
    }
}
#endif
