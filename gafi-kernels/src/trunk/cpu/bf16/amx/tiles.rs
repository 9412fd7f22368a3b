//! The AMX instructions, as assembly because Rust has no stable intrinsics for them yet, and whether they can be used.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18, and volume 2, LDTILECFG,
//! TILELOADD, TDPBF16PS, TILESTORED, TILEZERO, TILERELEASE.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, CpuidResult};
use std::sync::OnceLock;

use crate::trunk::cpu::bf16::Amx;

/// Eight tiles of 16 rows of 64 bytes.
pub(super) trait Tiles {
    /// Loads tile T from 16 rows, `stride` bytes apart.
    ///
    /// # Safety
    /// All rows must be readable.
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: isize);

    /// Adds A, bf16 (16, 32), times B, bf16 pairs (16, 16, 2), to C, f32 (16, 16): C\[m\]\[n\] += sum over k of
    /// A\[m\]\[2 k\] * B\[k\]\[n\]\[0\] + A\[m\]\[2 k + 1\] * B\[k\]\[n\]\[1\].
    fn multiply<const C: usize, const A: usize, const B: usize>(&mut self);

    /// Stores tile T to 16 rows, `stride` bytes apart.
    ///
    /// # Safety
    /// All rows must be writable.
    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: isize);
}

/// The tiles of this thread. A value must not be sent to another thread, nor be held while rayon may run other work on this
/// one.
pub(super) struct Hardware(std::marker::PhantomData<*mut ()>);

/// The operand of LDTILECFG.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes per row of each tile; the last eight entries are reserved.
    row_bytes: [u16; 16],
    /// Number of rows of each tile; the last eight entries are reserved.
    rows: [u8; 16],
}

const _: () = assert!(size_of::<Configuration>() == 64);

static ALL_WHOLE: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

impl Hardware {
    /// # Safety
    /// `supported` must be true, and no other value of the type may exist on this thread.
    pub(super) unsafe fn new() -> Self {
        // SAFETY: the instruction exists; it reads the 64 bytes of ALL_WHOLE and changes only the tiles, which are unused.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const ALL_WHOLE, options(nostack, preserves_flags, readonly)) }
        Hardware(std::marker::PhantomData)
    }
}

impl Drop for Hardware {
    fn drop(&mut self) {
        // SAFETY: the caller of `new` guaranteed the instructions. Released tiles add nothing to the cost of a thread switch.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags)) }
    }
}

impl Tiles for Hardware {
    #[inline(always)]
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: isize) {
        // SAFETY: `self` proves that the instructions exist and are configured; the caller guarantees the memory.
        unsafe {
            asm!(
                "tileloadd tmm{tile}, [{from} + 1*{stride}]",
                tile = const T, from = in(reg) from, stride = in(reg) stride,
                options(nostack, preserves_flags, readonly),
            );
        }
    }

    #[inline(always)]
    fn multiply<const C: usize, const A: usize, const B: usize>(&mut self) {
        // SAFETY: `self` proves that the instructions exist and are configured; only tiles are read and changed.
        unsafe {
            asm!(
                "tdpbf16ps tmm{c}, tmm{a}, tmm{b}",
                c = const C, a = const A, b = const B,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: isize) {
        // SAFETY: `self` proves that the instructions exist and are configured; the caller guarantees the memory.
        unsafe {
            asm!(
                "tilestored [{to} + 1*{stride}], tmm{tile}",
                tile = const T, to = in(reg) to, stride = in(reg) stride,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Whether this CPU has AMX for bf16 and AVX-512, and the system lets this process use them. Determined once.
pub(crate) fn supported() -> bool {
    static SUPPORTED: OnceLock<bool> = OnceLock::new();
    *SUPPORTED.get_or_init(|| is_x86_feature_detected!("avx512f") && in_cpu() && in_system() && permitted())
}

/// What [`supported`] found.
pub(crate) fn state() -> Amx {
    if supported() {
        Amx::Available
    } else if !in_cpu() {
        Amx::NotInCpu
    } else if !in_system() {
        Amx::NotSaved
    } else {
        Amx::Refused
    }
}

/// Whether the CPU has AMX-BF16 and AMX-TILE: bits 22 and 24 of EDX of CPUID leaf 7.
fn in_cpu() -> bool {
    const BITS: u32 = 1 << 22 | 1 << 24;
    leaf(0).eax >= 7 && leaf(7).edx & BITS == BITS
}

fn leaf(number: u32) -> CpuidResult {
    // SAFETY: every x86-64 CPU has the instruction, and it accepts any leaf number.
    #[allow(unused_unsafe, reason = "a safe function in later versions of Rust")]
    unsafe {
        __cpuid_count(number, 0)
    }
}

/// Whether the system saves tiles when it switches threads: bits 17 (TILECFG) and 18 (TILEDATA) of XCR0, which is readable
/// if bit 27 (OSXSAVE) of ECX of leaf 1 is set.
fn in_system() -> bool {
    const BITS: u32 = 1 << 17 | 1 << 18;
    if leaf(1).ecx & 1 << 27 == 0 {
        return false;
    }
    let low: u32;
    // SAFETY: OSXSAVE guarantees XGETBV, and register 0 always exists.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nostack, preserves_flags, nomem)) }
    low & BITS == BITS
}

/// Asks Linux for permission to use tiles: arch_prctl(ARCH_REQ_XCOMP_PERM, TILEDATA). It holds for all threads.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const TILEDATA: usize = 18;
    let result: isize;
    // SAFETY: the call accesses no memory. By Linux's calling convention, rax takes the number and returns the result, rdi
    // and rsi take the arguments, and rcx and r11 are clobbered.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") TILEDATA,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// Other systems are not supported.
#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}
