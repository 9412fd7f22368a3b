//! AMX's instructions, as assembly: Rust has no stable intrinsics for them yet. And whether they may be used.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18, and volume 2, LDTILECFG,
//! TILELOADD, TDPBF16PS, TILESTORED, TILEZERO, TILERELEASE.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, CpuidResult};
use std::sync::OnceLock;

/// Eight tiles, each of 16 rows of 64 bytes.
pub(super) trait Tiles {
    /// Tile T from 16 rows, `stride` bytes apart.
    ///
    /// # Safety
    /// All of them must be readable.
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: isize);

    /// Adds to tile C, f32 (16, 16): A, bf16 (16, 32), times B, the same in pairs, (16, 16, 2). C\[m\]\[n\] += sum over
    /// k of A\[m\]\[2 k\] * B\[k\]\[n\]\[0\] + A\[m\]\[2 k + 1\] * B\[k\]\[n\]\[1\].
    fn multiply<const C: usize, const A: usize, const B: usize>(&mut self);

    /// Tile T to 16 rows, `stride` bytes apart.
    ///
    /// # Safety
    /// All of them must be writable.
    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: isize);
}

/// The tiles of this thread, which must not be handed to another, nor kept where rayon may run other work.
pub(super) struct Hardware(std::marker::PhantomData<*mut ()>);

/// What LDTILECFG reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row of each tile; the last eight are reserved.
    row_bytes: [u16; 16],
    /// Rows of each tile; the last eight are reserved.
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
    /// `supported`, and no other value of the type on this thread.
    pub(super) unsafe fn new() -> Self {
        // SAFETY: the instructions are there; they read 64 bytes, and change nothing but the tiles, which are free.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const ALL_WHOLE, options(nostack, preserves_flags, readonly)) }
        Hardware(std::marker::PhantomData)
    }
}

impl Drop for Hardware {
    fn drop(&mut self) {
        // SAFETY: `new` asked for the instructions. Released, tiles cost nothing when threads are switched.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags)) }
    }
}

impl Tiles for Hardware {
    #[inline(always)]
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: isize) {
        // SAFETY: the value proves that the instructions are there and configured; the caller promises the memory.
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
        // SAFETY: the value proves that the instructions are there and configured; tiles alone are read and changed.
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
        // SAFETY: the value proves that the instructions are there and configured; the caller promises the memory.
        unsafe {
            asm!(
                "tilestored [{to} + 1*{stride}], tmm{tile}",
                tile = const T, to = in(reg) to, stride = in(reg) stride,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Whether this CPU has AMX for bf16 (and AVX-512), and the system lets this process use it; asked once.
pub(in super::super) fn supported() -> bool {
    static SUPPORTED: OnceLock<bool> = OnceLock::new();
    *SUPPORTED.get_or_init(|| is_x86_feature_detected!("avx512f") && in_cpu() && in_system() && permitted())
}

/// What [`supported`] found, in words.
pub(in super::super) fn state() -> &'static str {
    match () {
        () if supported() => "permitted",
        () if !in_cpu() => "not in this CPU",
        () if !in_system() => "the system does not keep its registers",
        () => "the system refuses permission",
    }
}

/// AMX-BF16 and AMX-TILE: bits 22 and 24 of EDX of leaf 7.
fn in_cpu() -> bool {
    const BITS: u32 = 1 << 22 | 1 << 24;
    leaf(0).eax >= 7 && leaf(7).edx & BITS == BITS
}

fn leaf(number: u32) -> CpuidResult {
    // SAFETY: every x86-64 has the instruction; leaves beyond its last are numbers too.
    #[allow(unused_unsafe, reason = "a safe function in later versions of Rust")]
    unsafe {
        __cpuid_count(number, 0)
    }
}

/// Whether the system saves tiles when it switches threads: XCR0 has bits 17 (TILECFG) and 18 (TILEDATA), and is
/// readable if leaf 1 has bit 27 of ECX (OSXSAVE).
fn in_system() -> bool {
    const BITS: u32 = 1 << 17 | 1 << 18;
    if leaf(1).ecx & 1 << 27 == 0 {
        return false;
    }
    let low: u32;
    // SAFETY: OSXSAVE says that XGETBV may be used; register 0 is always there.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nostack, preserves_flags, nomem)) }
    low & BITS == BITS
}

/// Linux gives tiles to processes that ask for them: arch_prctl(ARCH_REQ_XCOMP_PERM, TILEDATA). It holds for all
/// threads.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const TILEDATA: usize = 18;
    let result: isize;
    // SAFETY: the call reads no memory; the kernel's convention is the number in rax, arguments in rdi and rsi, the
    // result in rax, rcx and r11 lost.
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

/// Not tried on other systems.
#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}
