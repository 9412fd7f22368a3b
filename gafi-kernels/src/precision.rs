//! The number type that a trunk computes in.

/// The type in which a trunk stores feature maps and multiplies in convolutions. Sums are always accumulated in f32;
/// weights, statistics and losses are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// f32 throughout; on CUDA without TF32.
    #[default]
    F32,
    /// f32 in memory; CUDA may round the factors of convolutions and matrix products to TF32 (10 bits of mantissa). The
    /// same as [`Precision::F32`] on a CPU.
    Tf32,
    /// bfloat16 maps and factors.
    Bf16,
}

/// How a device multiplies bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bf16Support {
    /// Without instructions for bf16: a CPU widens the factors to f32, which gains nothing; cuDNN has no kernels.
    None,
    /// With instructions for bf16, which saves memory but may not save time: AVX-512-BF16 halves the multiplications, but
    /// Winograd's transforms save f32 at least as many.
    Slow,
    /// Expected to be faster than f32 (not measured): CPUs with AMX, and GPUs from Ampere (compute capability 8) on.
    Fast,
}
