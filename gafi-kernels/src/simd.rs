//! One vector abstraction for three instruction sets, chosen at run time.
//!
//! A [`Kernel`] is written once, generic over [`Lane`]; [`dispatch`] compiles it for AVX-512, for AVX2 with FMA and for any
//! CPU, and runs the requested version. Plain loops inside a kernel benefit too: the compiler vectorises them for the
//! level's registers.

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// 32 registers of 16 floats.
    Avx512,
    /// 16 registers of 8 floats, and fused multiply-add.
    Avx2,
    /// The instructions that every CPU of the target has.
    Portable,
}

impl Level {
    /// Whether this CPU supports it.
    pub(crate) fn supported(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        match self {
            Level::Avx512 => {
                std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512vl")
                    && std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("fma")
            }
            Level::Avx2 => std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma"),
            Level::Portable => true,
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Level::Portable
        }
    }

    /// The fastest level that this CPU supports.
    pub(crate) fn best() -> Level {
        [Level::Avx512, Level::Avx2].into_iter().find(|l| l.supported()).unwrap_or(Level::Portable)
    }
}

/// Work that is compiled once for each level. Implementations must mark `run` `#[inline(always)]`, so that its body is
/// compiled inside the function that enables the level's target features.
pub(crate) trait Kernel {
    /// The result.
    type Out;
    /// The work, with vectors of `lane`.
    fn run<L: Lane>(self, lane: L) -> Self::Out;
}

/// Runs `kernel` at `level`, or as portable code if this CPU does not support that level.
#[inline]
pub(crate) fn dispatch<K: Kernel>(level: Level, kernel: K) -> K::Out {
    #[cfg(target_arch = "x86_64")]
    match level {
        // SAFETY: `supported` has just confirmed the target features of the called function.
        Level::Avx512 if level.supported() => return unsafe { x86::run_avx512(kernel) },
        // SAFETY: as above.
        Level::Avx2 if level.supported() => return unsafe { x86::run_avx2(kernel) },
        _ => {}
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = level;
    kernel.run(Portable)
}

/// Runs a loop without vectors of its own, which the compiler vectorises for `level`. The closure must be marked
/// `#[inline(always)]`, like [`Kernel::run`].
pub(crate) fn vectorised(level: Level, work: impl FnOnce()) {
    dispatch(level, Loop(work));
}

/// A loop that the compiler vectorises.
struct Loop<F>(F);

impl<F: FnOnce()> Kernel for Loop<F> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lane>(self, _: L) {
        (self.0)();
    }
}

/// Vectors of f32. A value of an implementing type proves that the CPU has the instructions.
pub(crate) trait Lane: Copy {
    /// One vector.
    type V: Copy;
    /// Number of floats in a vector; divides 16.
    const N: usize;

    /// A vector whose elements are all `value`.
    fn splat(self, value: f32) -> Self::V;
    /// # Safety
    /// `at` must be valid for reads of `N` floats; the alignment of f32 is enough.
    unsafe fn load(self, at: *const f32) -> Self::V;
    /// # Safety
    /// `at` must be valid for writes of `N` floats; the alignment of f32 is enough.
    unsafe fn store(self, at: *mut f32, v: Self::V);
    /// a * b + c.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// a + b.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// a - b.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
}

/// Eight floats in an array, for CPUs without AVX2 and for tests.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Lane for Portable {
    type V = [f32; 8];
    const N: usize = 8;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        [value; 8]
    }

    #[inline(always)]
    unsafe fn load(self, at: *const f32) -> Self::V {
        // SAFETY: the caller promises N readable floats; [f32; 8] has the alignment of f32.
        unsafe { at.cast::<[f32; 8]>().read() }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32, v: Self::V) {
        // SAFETY: the caller promises N writable floats; [f32; 8] has the alignment of f32.
        unsafe { at.cast::<[f32; 8]>().write(v) }
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, mut c: Self::V) -> Self::V {
        // Not `mul_add`, which is a slow library call on CPUs without the instruction.
        for i in 0..8 {
            c[i] += a[i] * b[i];
        }
        c
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Kernel, Lane};

    // Without `avx512vl`, code on 256-bit vectors could use only 16 of the 32 registers, and loops would spill.
    #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
    pub(super) fn run_avx512<K: Kernel>(kernel: K) -> K::Out {
        kernel.run(Avx512(()))
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn run_avx2<K: Kernel>(kernel: K) -> K::Out {
        kernel.run(Avx2(()))
    }

    /// Only `run_avx512` creates a value, so a value proves that the CPU has the instructions.
    #[derive(Clone, Copy)]
    pub(super) struct Avx512(());

    impl Lane for Avx512 {
        type V = __m512;
        const N: usize = 16;

        #[inline(always)]
        fn splat(self, value: f32) -> __m512 {
            // SAFETY: `self` proves AVX-512.
            unsafe { _mm512_set1_ps(value) }
        }

        #[inline(always)]
        unsafe fn load(self, at: *const f32) -> __m512 {
            // SAFETY: `self` proves AVX-512; the caller promises N readable floats.
            unsafe { _mm512_loadu_ps(at) }
        }

        #[inline(always)]
        unsafe fn store(self, at: *mut f32, v: __m512) {
            // SAFETY: `self` proves AVX-512; the caller promises N writable floats.
            unsafe { _mm512_storeu_ps(at, v) }
        }

        #[inline(always)]
        fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: `self` proves AVX-512.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        fn add(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: `self` proves AVX-512.
            unsafe { _mm512_add_ps(a, b) }
        }

        #[inline(always)]
        fn sub(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: `self` proves AVX-512.
            unsafe { _mm512_sub_ps(a, b) }
        }
    }

    /// Only `run_avx2` creates a value, so a value proves that the CPU has the instructions.
    #[derive(Clone, Copy)]
    pub(super) struct Avx2(());

    impl Lane for Avx2 {
        type V = __m256;
        const N: usize = 8;

        #[inline(always)]
        fn splat(self, value: f32) -> __m256 {
            // SAFETY: `self` proves AVX2.
            unsafe { _mm256_set1_ps(value) }
        }

        #[inline(always)]
        unsafe fn load(self, at: *const f32) -> __m256 {
            // SAFETY: `self` proves AVX2; the caller promises N readable floats.
            unsafe { _mm256_loadu_ps(at) }
        }

        #[inline(always)]
        unsafe fn store(self, at: *mut f32, v: __m256) {
            // SAFETY: `self` proves AVX2; the caller promises N writable floats.
            unsafe { _mm256_storeu_ps(at, v) }
        }

        #[inline(always)]
        fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: `self` proves FMA.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        fn add(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: `self` proves AVX2, which includes AVX.
            unsafe { _mm256_add_ps(a, b) }
        }

        #[inline(always)]
        fn sub(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: `self` proves AVX2, which includes AVX.
            unsafe { _mm256_sub_ps(a, b) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the arithmetic, load and store of a level, on values for which every step is exact.
    struct Exact;

    impl Kernel for Exact {
        type Out = usize;
        #[inline(always)]
        fn run<L: Lane>(self, lane: L) -> usize {
            let a: [f32; 17] = std::array::from_fn(|i| i as f32);
            let mut out = [-1.0f32; 17];
            assert!(L::N <= 16 && 16 % L::N == 0);
            // SAFETY: both arrays hold 17 floats; N <= 16 of them, from index 1 on, are accessed.
            let v = unsafe { lane.load(a.as_ptr().add(1)) };
            let v = lane.fma(v, lane.splat(2.0), lane.splat(0.5));
            let v = lane.sub(lane.add(v, lane.splat(4.0)), lane.splat(3.0));
            // SAFETY: as above.
            unsafe { lane.store(out.as_mut_ptr().add(1), v) };
            for (i, out) in out.iter().enumerate() {
                let want = if (1..=L::N).contains(&i) { 2.0 * i as f32 + 1.5 } else { -1.0 };
                assert_eq!(*out, want, "element {i}");
            }
            L::N
        }
    }

    #[test]
    fn lanes_compute_at_every_level() {
        for level in [Level::Avx512, Level::Avx2, Level::Portable] {
            let width = dispatch(level, Exact);
            let want = if level == Level::Avx512 && level.supported() { 16 } else { 8 };
            assert_eq!(width, want, "{level:?}");
        }
        assert!(Level::best().supported());
    }
}
