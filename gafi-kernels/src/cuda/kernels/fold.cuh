// The second stage of the sums over rows, and the values derived from them.

// Gradients of gain and shift, (groups, channels) each.
extern "C" __global__ void fold_norm(float* dgain, float* dshift, const double* partial, u32 splits, u32 channels) {
    u32 c = blockIdx.x * 32 + threadIdx.x;
    double shift = folded(partial, splits, channels, 0, c), gain = folded(partial, splits, channels, 1, c);
    if (threadIdx.y > 0 || c >= channels) return;
    dshift[blockIdx.z * channels + c] = (float)shift;
    dgain[blockIdx.z * channels + c] = (float)gain;
}

// Sums, (groups, channels).
extern "C" __global__ void fold_sums(float* out, const double* partial, u32 splits, u32 channels) {
    u32 c = blockIdx.x * 32 + threadIdx.x;
    double sum = folded(partial, splits, channels, 0, c);
    if (threadIdx.y == 0 && c < channels) out[blockIdx.z * channels + c] = (float)sum;
}

// The means over batch and positions of scale * g and of scale * g * normalised x, (2, channels): the gradient through
// the batch statistics.
extern "C" __global__ void norm_totals(float* totals, const float* dgain, const float* dshift, const float* scale,
                                       u32 groups, u32 channels, float count) {
    FOR(c, channels) {
        double shift = 0.0, gain = 0.0;
        for (u32 g = 0; g < groups; ++g) {
            shift += (double)scale[g * channels + c] * dshift[g * channels + c];
            gain += (double)scale[g * channels + c] * dgain[g * channels + c];
        }
        totals[c] = (float)(shift / count);
        totals[channels + c] = (float)(gain / count);
    }
}

// scale = gain / sqrt(var + eps), offset = shift - mean * scale, both (groups, channels).
extern "C" __global__ void affine(float* scale, float* offset, float* inv, const float* mean, const float* var,
                                  const float* gain, const float* shift, float eps, u32 groups, u32 channels) {
    FOR(i, groups * channels) {
        u32 c = i % channels;
        float over = 1.0f / sqrtf(var[c] + eps);
        float by = gain[i] * over;
        scale[i] = by;
        offset[i] = fmaf(-mean[c], by, shift[i]);
        if (i < channels) inv[c] = over;
    }
}
