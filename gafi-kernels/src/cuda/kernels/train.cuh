// Losses, activations, optimisers, averages and spectral norm: f32 throughout.

// -log softmax(logits)[label] of each row, one block per row.
extern "C" __global__ void cross_entropy(float* losses, const float* logits, const u32* labels, u32 classes) {
    const float* x = logits + (u64)blockIdx.x * classes;
    float best = __int_as_float(0xff800000);
    for (u32 i = threadIdx.x; i < classes; i += 256) best = fmaxf(best, x[i]);
    best = block_max(best);
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < classes; i += 256) sum += expf(x[i] - best);
    double total = block_sum(sum);
    if (threadIdx.x == 0) losses[blockIdx.x] = (float)(log(total) - (double)(x[labels[blockIdx.x]] - best));
}

// (softmax(logits) - target) * grad / rows, one block per row.
extern "C" __global__ void cross_entropy_gradient(float* dx, const float* logits, const u32* labels, const float* grad,
                                                  u32 classes) {
    const float* x = logits + (u64)blockIdx.x * classes;
    float best = __int_as_float(0xff800000);
    for (u32 i = threadIdx.x; i < classes; i += 256) best = fmaxf(best, x[i]);
    best = block_max(best);
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < classes; i += 256) sum += expf(x[i] - best);
    float over = (float)(1.0 / block_sum(sum));
    float scale = grad[0] / (float)gridDim.x;
    for (u32 i = threadIdx.x; i < classes; i += 256) {
        float target = i == labels[blockIdx.x] ? 1.0f : 0.0f;
        dx[(u64)blockIdx.x * classes + i] = scale * (expf(x[i] - best) * over - target);
    }
}

// The mean of all values, by one block.
extern "C" __global__ void mean(float* out, const float* x, u32 count) {
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < count; i += 256) sum += x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[0] = (float)(sum / count);
}

extern "C" __global__ void tanh_of(float* out, const float* x, u32 count) {
    FOR(i, count) out[i] = tanhf(x[i]);
}

extern "C" __global__ void tanh_gradient(float* dx, const float* y, const float* dy, u32 count) {
    FOR(i, count) dx[i] = dy[i] * (1.0f - y[i] * y[i]);
}

// Up to 48 tensors to update in one launch: four columns of pointers, and for each tensor its length and its first block of
// 2048 values.
struct Table {
    float* column[4][48];
    u32 length[48];
    u32 first[48];
    u32 count;
    u32 unused;
};

// Calls each(t, i) for this block's 2048 values of one tensor.
template <typename F> static __device__ inline void over(const Table& table, F each) {
    u32 t = table.count - 1;
    while (table.first[t] > blockIdx.x) --t;
    u32 from = (blockIdx.x - table.first[t]) * 2048;
    for (u32 k = 0; k < 8; ++k) {
        u32 i = from + k * 256 + threadIdx.x;
        if (i < table.length[t]) each(t, i);
    }
}

// Columns: weights, gradients, buffers.
extern "C" __global__ void sgd(const __grid_constant__ Table table, float momentum, float keep, float lr, float look,
                               float ahead) {
    over(table, [&](u32 t, u32 i) {
        float g = table.column[1][t][i];
        float buffer = momentum * table.column[2][t][i] + lr * g;
        table.column[2][t][i] = buffer;
        table.column[0][t][i] = keep * table.column[0][t][i] - (look * lr * g + ahead * buffer);
    });
}

// Columns: weights, gradients, first moments, second moments.
extern "C" __global__ void adam(const __grid_constant__ Table table, float beta1, float rest1, float beta2, float rest2,
                                float rate, float eps) {
    over(table, [&](u32 t, u32 i) {
        float g = table.column[1][t][i];
        float m = beta1 * table.column[2][t][i] + rest1 * g;
        float v = beta2 * table.column[3][t][i] + rest2 * (g * g);
        table.column[2][t][i] = m;
        table.column[3][t][i] = v;
        table.column[0][t][i] -= rate * (m / (sqrtf(v) + eps));
    });
}

// Columns: averages, values. A decay of 0 copies, whatever the average was.
extern "C" __global__ void average(const __grid_constant__ Table table, float decay, float rest) {
    over(table, [&](u32 t, u32 i) {
        float now = table.column[1][t][i];
        table.column[0][t][i] = decay == 0.0f ? now : decay * table.column[0][t][i] + rest * now;
    });
}

// W x, one block per row.
extern "C" __global__ void matrix_times(float* out, const float* w, const float* x, u32 cols) {
    const float* row = w + (u64)blockIdx.x * cols;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < cols; i += 256) sum = fmaf(row[i], x[i], sum);
    double total = block_sum(sum);
    if (threadIdx.x == 0) out[blockIdx.x] = (float)total;
}

// W^T x: a block of (32, 8) for 32 columns.
extern "C" __global__ void transposed_times(float* out, const float* w, const float* x, u32 rows, u32 cols) {
    __shared__ float part[8][32];
    u32 c = blockIdx.x * 32 + threadIdx.x;
    float sum = 0.0f;
    if (c < cols) {
        for (u32 r = threadIdx.y; r < rows; r += 8) sum = fmaf(w[(u64)r * cols + c], x[r], sum);
    }
    part[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || c >= cols) return;
    sum = 0.0f;
    for (int y = 0; y < 8; ++y) sum += part[y][threadIdx.x];
    out[c] = sum;
}

// x / (|x| + eps), by one block.
extern "C" __global__ void normalise(float* out, const float* x, u32 count, float eps) {
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < count; i += 256) sum += (double)x[i] * x[i];
    float norm = (float)sqrt(block_sum(sum)) + eps;
    for (u32 i = threadIdx.x; i < count; i += 256) out[i] = x[i] / norm;
}

// Partial dot products of a and b, one for each block.
extern "C" __global__ void dot(double* partial, const float* a, const float* b, u32 count) {
    double sum = 0.0;
    FOR(i, count) sum += (double)a[i] * b[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// w / sigma.
extern "C" __global__ void divide(float* out, const float* w, const double* sigma, u32 count) {
    float by = (float)sigma[0];
    FOR(i, count) out[i] = w[i] / by;
}

// q = (back - sigma v) / norm, with back = W^T u'.
extern "C" __global__ void spectral_rest(float* q, const float* back, const float* v, const double* sigma,
                                         const double* norm, u32 count) {
    float by = (float)norm[0];
    float along = (float)sigma[0];
    FOR(i, count) q[i] = (back[i] - along * v[i]) / by;
}

// dW = (G - (G . N) (u' v^T + u q^T)) / sigma, with `partial` the partial sums of G . N.
extern "C" __global__ void divide_gradient(float* dw, const float* g, const double* partial, const float* refined,
                                           const float* v, const float* u, const float* q, const double* sigma, u32 shares,
                                           u32 cols, u32 count) {
    float along = (float)block_sum(threadIdx.x < shares ? partial[threadIdx.x] : 0.0);
    float by = (float)sigma[0];
    FOR(i, count) {
        u32 r = i / cols;
        u32 c = i % cols;
        dw[i] = (g[i] - along * (refined[r] * v[c] + u[r] * q[c])) / by;
    }
}
